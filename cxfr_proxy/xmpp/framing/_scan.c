/* The native framing engine: cxfr_proxy.xmpp.framing.framer.Framer for a stream that is under way.

   A byte state machine for the content of a stream element: what may stand there is what XML 1.0 and RFC 6120 allow,
   and it says where each top-level element ends. It can be cut after any byte, allocates nothing per stanza, and takes
   time linear in its input: each byte is looked at once, or not at all where runs of plain text are skipped.

   How to read it: `enum state` names where between two bytes the machine can be; `run` is one loop over the input with a
   case for each; `element_ended` and `stream_ended` are what all of it is for. Names of open elements lie in one growing
   buffer (each behind the other, followed by its length), so that an end tag can be compared byte by byte as it comes.

   The watched bytes are bytes that names are made of. So wherever they are, they lie within one run of plain text, one
   value or one name, and looking through the runs that are long enough finds them; `tail` is for those that a cut went
   through. A value may also say them by references (`urn:xmpp&#58;cxfr`): `spell` follows values that are not read at once.

   Nothing that is called while a chunk is read runs Python code: events are structs made in C. Should that ever change,
   such code finds the scanner busy. An exception, for lack of memory say, ends the stream: where it struck, nothing can
   be read on.

   One thread at a time, under the GIL; nothing here is made for an interpreter without one.

   The same rules in Python, on expat, are in _expat.py; tests and a fuzzer hold the two together. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <limits.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__AARCH64EL__)
#include <arm_neon.h>
#endif

#include "_names.h"
#include "_scan.h"

typedef unsigned char byte;
typedef uint64_t offset; /* counts from the stream's first byte */

static const byte WATCHED[] = "urn:xmpp:cxfr";
enum { WATCHED_SIZE = sizeof(WATCHED) - 1, WATCHED_LAST = WATCHED_SIZE - 1, SEAM = WATCHED_SIZE - 1 };

/* More attributes than this are refused: finding one that is there twice compares each with each. */
enum { MAX_ATTRIBUTES = 100 };

/* A scan stops behind so many events, as _expat.py's does. */
enum { MAX_EVENTS_PER_SCAN = 64 };

enum state {
    CONTENT,       /* between markup: text, or at depth 1 white space */
    BRACKET,       /* behind "]" in text */
    BRACKETS,      /* behind "]]" in text */
    LESS,          /* behind "<" */
    CDATA_OPENS,   /* inside "<![CDATA[", `progress` bytes of it read */
    CDATA,         /* inside a CDATA section */
    CDATA_BRACKET, /* behind "]" in it */
    CDATA_BRACKETS,
    START_NAME,    /* inside the name of a start tag */
    IN_TAG,        /* behind white space in a start tag */
    SLASH,         /* behind the "/" of an empty element */
    ATTRIBUTE,     /* inside an attribute's name */
    BEFORE_EQUALS, /* behind white space behind it */
    BEFORE_VALUE,  /* behind "=" */
    VALUE,         /* inside a value */
    AFTER_VALUE,   /* behind the closing quote */
    END_NAME,      /* inside the name of an end tag */
    AFTER_END_NAME,
    AMPERSAND,  /* behind "&"; the states of references go back to `outer` */
    ENTITY,     /* inside an entity's name */
    HASH,       /* behind "&#" */
    DECIMAL,    /* inside a decimal number */
    HEXADECIMAL_FIRST,
    HEXADECIMAL,
    MULTIBYTE, /* inside a character of several bytes; goes back to `outer` */
    OVER,      /* the stream has ended or failed */
};

/* How a chunk is read: all of it, to the first event, or to the end of an element, which is not reported then. */
enum reading { SCANNING, STEPPING, UNREPORTED };

typedef struct {
    byte *bytes;
    size_t size, room;
    byte *few; /* not to be freed; NULL: none */
    size_t few_room;
} buffer;

typedef struct {
    PyObject_HEAD
    PyObject *events;
    PyObject *held; /* the lane's: it is not looked at while bytes are read */
    PyObject *ack; /* the last <a/>; NULL: there was none */
    unsigned long long stanzas;
    long long max_element; /* -1: no limit */
    offset position;       /* of the chunk being read; between two, of the next byte */
    offset boundary;
    offset start;           /* of the current top-level element */
    const byte *data, *end; /* the chunk being read */
    byte state, outer, quote;
    char every; /* report each element */
    char acks;  /* report each <a/> and <r/> */
    byte stepping;       /* one of `enum reading` */
    byte reported;       /* how many events, in this chunk */
    byte stop;           /* that is enough: leave the loop */
    byte busy;           /* a chunk is being read */
    byte watched;        /* the watched bytes were seen in the current element */
    byte spelt;          /* how many of them stand at the end of what the current value has said so far */
    byte character_left; /* continuation bytes still to come */
    byte first_of_name;  /* the character of several bytes begins a name */
    byte progress;
    byte attribute_count;
    byte entity_size;
    char entity[5];  /* no predefined entity is longer */
    byte tail_size;  /* 0 at a boundary */
    byte tail[SEAM]; /* the last bytes of the chunks before */
    int depth, max_depth;
    uint32_t character, character_min; /* of several bytes, or by number */
    size_t matched;                    /* bytes of an end tag's name that agree with its start tag */
    buffer names;      /* of the open elements, each in front of its size */
    size_t name_begin; /* while a start tag's name is read */
    buffer attributes; /* names in the current tag, each behind its size */
    size_t attribute_begin;
    byte few_names[64]; /* enough for most streams at most times */
} Scanner;

static PyObject *element_type, *stream_end_type, *stream_fault_type;

/* --- classes of bytes */

enum { NAME_BYTE = 1, NAME_START_BYTE = 2, SPACE_BYTE = 4, TEXT_BYTE = 8, VALUE_BYTE = 16 };
static byte classes[256];

static void fill_classes(void)
{
    for (int c = 0x20; c < 0x80; c++)
        classes[c] |= TEXT_BYTE | VALUE_BYTE;
    classes['<'] = classes['&'] = 0;
    classes[']'] = VALUE_BYTE;
    classes['"'] = classes['\''] = TEXT_BYTE;
    for (int c = 'a'; c <= 'z'; c++) {
        classes[c] |= NAME_BYTE | NAME_START_BYTE;
        classes[c - 'a' + 'A'] |= NAME_BYTE | NAME_START_BYTE;
    }
    classes['_'] |= NAME_BYTE | NAME_START_BYTE;
    classes[':'] |= NAME_BYTE | NAME_START_BYTE;
    for (int c = '0'; c <= '9'; c++)
        classes[c] |= NAME_BYTE;
    classes['-'] |= NAME_BYTE;
    classes['.'] |= NAME_BYTE;
    classes[' '] |= SPACE_BYTE;
    classes['\t'] |= SPACE_BYTE;
    classes['\r'] |= SPACE_BYTE;
    classes['\n'] |= SPACE_BYTE;
}

#define IS(c, class) (classes[(byte)(c)] & (class))

static int in_ranges(const unsigned short (*ranges)[2], int count, uint32_t character)
{
    int low = 0, high = count - 1;
    while (low <= high) {
        int middle = (low + high) / 2;
        if (character < ranges[middle][0])
            high = middle - 1;
        else if (character > ranges[middle][1])
            low = middle + 1;
        else
            return 1;
    }
    return 0;
}

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static int is_name_character(uint32_t character, int first)
{
    return in_ranges(NAME_START, COUNT(NAME_START), character) ||
           (!first && in_ranges(NAME_MORE, COUNT(NAME_MORE), character));
}

static int is_character(uint32_t character)
{
    if (character < 0x20)
        return character == '\t' || character == '\n' || character == '\r';
    return !(character >= 0xD800 && character <= 0xDFFF) && character != 0xFFFE && character != 0xFFFF &&
           character <= 0x10FFFF;
}

/* --- many bytes at a time

   Vectors of the compiler's own, which become SSE2 or NEON; a comparison sets all bits of a lane. The bytes are signed,
   so those of 0x80 and above are below all others. Elsewhere, and with PLAIN_C for the tests, all goes byte by byte. */

#if defined(__GNUC__) && (defined(__SSE2__) || defined(__AARCH64EL__)) && !defined(PLAIN_C)

typedef signed char block __attribute__((vector_size(16)));
#define BLOCK ((int)sizeof(block))

static inline block load(const byte *p)
{
    block x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Which lanes are set, as a number that `first` understands: which is the first. 0: none, EVERY_LANE: all. */
#if defined(__SSE2__)
#define EVERY_LANE 0xFFFFu
static inline uint64_t lanes(block x) { return (uint64_t)(unsigned)_mm_movemask_epi8((__m128i)x); }
static inline int first(uint64_t set) { return __builtin_ctzll(set); }
#else
/* There is no such instruction; half of each lane's bits make a number of 64. */
#define EVERY_LANE UINT64_MAX
static inline uint64_t lanes(block x)
{
    return vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_s8((int8x16_t)x), 4)), 0);
}
static inline int first(uint64_t set) { return __builtin_ctzll(set) / 4; }
#endif

/* Moves `p` on by blocks x that are plain all through; returns where the first byte is that is not. (Moving on by what
   `first` says, be it 16, is shorter and took five times as long: each load then waits for the one before it.) */
#define SKIP_PLAIN(p, end, plain)                                                                                      \
    for (; (end) - (p) >= BLOCK; (p) += BLOCK) {                                                                       \
        const block x = load(p);                                                                                       \
        uint64_t set = lanes(plain);                                                                                   \
        if (set != EVERY_LANE)                                                                                         \
            return (p) + first(set ^ EVERY_LANE);                                                                      \
    }

#else
#define SKIP_PLAIN(p, end, plain) (void)(end)
#endif

/* Long texts and the search in them go by 32 bytes where the processor can: less than half the time. */
#if defined(BLOCK) && defined(__x86_64__)
#define WIDE 32
#define AVX2 __attribute__((target("avx2")))
typedef signed char wide __attribute__((vector_size(WIDE)));
static int has_wide; /* known since the module was made */

AVX2 static const byte *skip_wide_text(const byte *p, const byte *end)
{
    for (; end - p >= WIDE; p += WIDE) {
        wide x;
        memcpy(&x, p, sizeof x);
        int set = _mm256_movemask_epi8((__m256i)((x > 31) & ~((x == '<') | (x == '&') | (x == ']'))));
        if (set != -1)
            return p + __builtin_ctz(~(unsigned)set);
    }
    return p;
}

/* Where the watched bytes may begin, or less than that and a block before the end. */
AVX2 static const byte *skip_wide_pair(const byte *p, const byte *end)
{
    for (; end - p >= WIDE + WATCHED_LAST; p += WIDE) {
        wide x, y;
        memcpy(&x, p, sizeof x);
        memcpy(&y, p + WATCHED_LAST, sizeof y);
        if (_mm256_movemask_epi8((__m256i)((x == 'u') & (y == 'r'))))
            break;
    }
    return p;
}
#endif

/* The functions below need not compare with `end` for the last bytes: behind a chunk lies the NUL that ends each bytes
   object, and no run holds that. */

/* The first byte that is not plain text. */
static inline const byte *skip_text(const byte *p, const byte *end)
{
#ifdef WIDE
    if (has_wide && end - p > 2 * WIDE) {
        p = skip_wide_text(p, end);
        if (end - p >= WIDE)
            return p;
    }
#endif
    SKIP_PLAIN(p, end, (x > 31) & ~((x == '<') | (x == '&') | (x == ']')));
    while (IS(*p, TEXT_BYTE))
        p++;
    return p;
}

/* The same inside CDATA. */
static inline const byte *skip_cdata(const byte *p, const byte *end)
{
    SKIP_PLAIN(p, end, (x > 31) & ~(x == ']'));
    while (*p >= 0x20 && *p < 0x80 && *p != ']')
        p++;
    return p;
}

/* The first byte of a value that is its end or wants a look. */
static inline const byte *skip_value(const byte *p, const byte *end, byte quote)
{
    /* Most values are short, and names are. A loop that ends as the processor foresees beats a block whose answer it has
       to wait for: blocks for both made a chat stanza take 140 ns, this 110. */
    for (int i = 0; i < 16 && IS(*p, VALUE_BYTE); i++)
        p++;
    if (*p == quote)
        return p;
    SKIP_PLAIN(p, end, (x > 31) & ~((x == '<') | (x == '&') | (x == (signed char)quote)));
    while (*p != quote && (IS(*p, VALUE_BYTE) || *p == '"' || *p == '\''))
        p++;
    return p;
}

/* The first byte that no name holds, or one beyond ASCII. */
static inline const byte *skip_name(const byte *p)
{
    while (IS(*p, NAME_BYTE))
        p++;
    return p;
}

/* --- growing buffers */

static int reserve(buffer *into, size_t more)
{
    size_t needed = into->size + more, larger = into->room ? into->room : 64;
    if (needed <= into->room)
        return 0;
    while (larger < needed)
        larger *= 2;
    byte *grown = PyMem_Realloc(into->bytes == into->few ? NULL : into->bytes, larger);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (into->bytes == into->few && into->size)
        memcpy(grown, into->few, into->size);
    into->bytes = grown;
    into->room = larger;
    return 0;
}

static int append(buffer *into, const void *data, size_t count)
{
    if (reserve(into, count) < 0)
        return -1;
    memcpy(into->bytes + into->size, data, count);
    into->size += count;
    return 0;
}

/* Back to the few bytes it had, if what is in it fits there. */
static void shrink(buffer *from)
{
    if (from->bytes == from->few || from->size > from->few_room)
        return;
    if (from->size)
        memcpy(from->few, from->bytes, from->size);
    PyMem_Free(from->bytes);
    from->bytes = from->few;
    from->room = from->few_room;
}

/* --- what is reported */

static int report(Scanner *self, PyObject *made)
{
    if (made == NULL)
        return -1;
    self->reported++;
    self->stop = self->stepping || (self->reported >= MAX_EVENTS_PER_SCAN && self->state != OVER);
    int failed = -1;
    if (self->events == NULL || !PyList_Check(self->events)) /* the caller may have put there what it likes */
        PyErr_SetString(PyExc_TypeError, "events: expected a list");
    else
        failed = PyList_Append(self->events, made);
    Py_DECREF(made);
    return failed;
}

static int fail(Scanner *self, const char *condition, const char *text)
{
    self->state = OVER;
    unsigned long long at = self->boundary;
    return report(self, PyObject_CallFunction(stream_fault_type, "KKss", at, at, condition, text));
}

static int malformed(Scanner *self, const char *text) { return fail(self, "not-well-formed", text); }

static int too_long(Scanner *self)
{
    char text[64];
    PyOS_snprintf(text, sizeof text, "element longer than %lld bytes", self->max_element);
    return fail(self, "policy-violation", text);
}

enum kind { UNUSUAL, ACK, REQUEST, STANZA };

static enum kind kind_of(const byte *name, size_t size)
{
    switch (size) {
    case 1:
        return *name == 'a' ? ACK : *name == 'r' ? REQUEST : UNUSUAL;
    case 2:
        return memcmp(name, "iq", 2) == 0 ? STANZA : UNUSUAL;
    case 7:
        return memcmp(name, "message", 7) == 0 ? STANZA : UNUSUAL;
    case 8:
        return memcmp(name, "presence", 8) == 0 ? STANZA : UNUSUAL;
    default:
        return UNUSUAL;
    }
}

/* Of a name that is unusual: what it is behind a prefix, which is all before the last colon. */
static enum kind kind_behind_prefix(const byte *name, size_t size)
{
    size_t local = size;
    while (local > 0 && name[local - 1] != ':')
        local--;
    return local > 0 ? kind_of(name + local, size - local) : UNUSUAL;
}

/* An <a/> ends at `p`. */
static int keep_ack(Scanner *self, const byte *p)
{
    const byte *from = self->start >= self->position ? self->data + (self->start - self->position) : p;
    PyObject *ack = PyBytes_FromStringAndSize((const char *)from, p - from);
    Py_XDECREF(self->ack);
    self->ack = ack;
    return ack == NULL ? -1 : 0;
}

/* --- watched bytes */

/* Whether they lie between `p` and `end`, a run of plain bytes; up to `readable` memory may be read. */
static int find_watched(const byte *p, const byte *end, const byte *readable)
{
    end -= WATCHED_SIZE - 1; /* behind the last place where they can begin */
    (void)readable;
#ifdef BLOCK
    /* Like memmem, which prepares a table for each call and so takes longer than most runs are worth: looks for the first
       and the last byte at their distance, and compares where both are there. */
#ifdef WIDE
    if (has_wide && end - p > 2 * WIDE)
        p = skip_wide_pair(p, end + WATCHED_LAST);
#endif
    for (; p < end && readable - p >= BLOCK + WATCHED_LAST; p += BLOCK)
        for (uint64_t set = lanes((load(p) == 'u') & (load(p + WATCHED_LAST) == 'r')); set; set &= set - 1)
            if (memcmp(p + first(set), WATCHED, WATCHED_SIZE) == 0)
                return 1;
#endif
    for (; p < end; p++)
        if (*p == WATCHED[0] && memcmp(p, WATCHED, WATCHED_SIZE) == 0)
            return 1;
    return 0;
}

static inline void watch_within(Scanner *self, const byte *from, const byte *end, const byte *readable)
{
    if (end - from >= WATCHED_SIZE && !self->watched)
        self->watched = (byte)find_watched(from, end, readable);
}

/* A run of plain bytes of this chunk, a value or a name, or as much of it as there is; it is looked through once. */
static inline void watch(Scanner *self, const byte *from, const byte *end) { watch_within(self, from, end, self->end); }

/* Look for the watched bytes in more of a value that is read in pieces, with references counted as what they stand for.
   `watch` finds them within a piece, so only its beginning and its end are looked at. The first of the watched bytes does
   not come again among them: after a mismatch nothing but that one can have begun. */
static void spell(Scanner *self, const byte *p, const byte *end)
{
    for (; p < end; p++) {
        if (self->spelt == 0 && end - p > WATCHED_LAST)
            p = end - WATCHED_LAST;
        self->spelt = (byte)(*p == WATCHED[self->spelt] ? self->spelt + 1 : *p == WATCHED[0]);
        if (self->spelt == WATCHED_SIZE) {
            self->watched = 1;
            self->spelt = 0;
        }
    }
}

/* At the beginning of a chunk: those that the cut before it went through. */
static void watch_seam(Scanner *self)
{
    byte seam[2 * SEAM], *const end = seam + self->tail_size;
    size_t more = (size_t)(self->end - self->data);
    if (more > SEAM)
        more = SEAM;
    memcpy(seam, self->tail, self->tail_size);
    memcpy(end, self->data, more);
    watch_within(self, seam, end + more, end + more);
}

/* At the end of one. */
static void keep_tail(Scanner *self)
{
    size_t size = (size_t)(self->end - self->data);
    if (size >= SEAM) {
        memcpy(self->tail, self->end - SEAM, SEAM);
        self->tail_size = SEAM;
        return;
    }
    size_t kept = self->tail_size;
    if (kept + size > SEAM) {
        size_t drop = kept + size - SEAM;
        memmove(self->tail, self->tail + drop, kept - drop);
        kept -= drop;
    }
    memcpy(self->tail + kept, self->data, size);
    self->tail_size = (byte)(kept + size);
}

/* --- elements begin and end */

static inline offset offset_of(const Scanner *self, const byte *p) { return self->position + (offset)(p - self->data); }

/* Behind each open element's name in `names` stands its size: one byte, or LONG_NAME with a size_t in front. */
enum { LONG_NAME = 255 };

/* The size of the innermost open element's name, and where it is. */
static inline size_t open_name(const Scanner *self, const byte **name)
{
    const byte *behind = self->names.bytes + self->names.size - 1;
    size_t size = *behind;
    if (size == LONG_NAME) {
        behind -= sizeof size;
        memcpy(&size, behind, sizeof size);
    }
    *name = behind - size;
    return size;
}

/* The bytes in `names` from `name_begin` on are a whole name. */
static int name_ended(Scanner *self)
{
    size_t size = self->names.size - self->name_begin;
    byte last = (byte)(size < LONG_NAME ? size : LONG_NAME);
    if (last == LONG_NAME && append(&self->names, &size, sizeof size) < 0)
        return -1;
    return append(&self->names, &last, 1);
}

/* A whole name at once. */
static inline int push_name(Scanner *self, const byte *name, size_t size)
{
    buffer *names = &self->names;
#ifdef BLOCK
    /* Two moves instead of a call; what is copied too much will be overwritten. */
    if (size < BLOCK && names->room - names->size > BLOCK && self->end - name >= BLOCK) {
        byte *into = names->bytes + names->size;
        memcpy(into, name, BLOCK);
        into[size] = (byte)size;
        names->size += size + 1;
        return 0;
    }
#endif
    self->name_begin = names->size;
    return append(names, name, size) < 0 ? -1 : name_ended(self);
}

/* A start tag is complete. */
static inline int tag_ended(Scanner *self)
{
    if (++self->depth > self->max_depth) {
        char text[48];
        PyOS_snprintf(text, sizeof text, "more than %d levels deep", self->max_depth);
        return fail(self, "policy-violation", text);
    }
    self->state = CONTENT;
    return 0;
}

/* An end tag, or an empty element's only one, is complete. */
static inline int element_ended(Scanner *self, const byte *p)
{
    self->state = CONTENT;
    const byte *name;
    size_t size = open_name(self, &name);
    self->names.size = (size_t)(name - self->names.bytes); /* where it stays for now */
    if (--self->depth > 1)
        return 0;
    offset end = offset_of(self, p);
    if (self->max_element >= 0 && end - self->start > (offset)self->max_element)
        return too_long(self);
    self->boundary = end;
    int watched = self->watched;
    self->watched = 0;
    enum kind kind = kind_of(name, size);
    enum kind local = kind == UNUSUAL ? kind_behind_prefix(name, size) : kind;
    self->stanzas += local == STANZA;
    if (self->stepping == UNREPORTED) {
        self->stop = 1;
        return 0;
    }
    if (local == ACK && keep_ack(self, p) < 0)
        return -1;
    int usual = kind == STANZA || (kind != UNUSUAL && !self->acks);
    if (usual && !(self->every || self->stepping || watched))
        return 0;
    unsigned long long from = self->start, to = end;
    return report(self, PyObject_CallFunction(element_type, "KKs#K", from, to, name, (Py_ssize_t)size, self->stanzas));
}

static int stream_ended(Scanner *self, const byte *p)
{
    unsigned long long from = self->boundary, to = offset_of(self, p);
    self->boundary = to;
    self->state = OVER;
    return report(self, PyObject_CallFunction(stream_end_type, "KK", from, to));
}

static int end_tag_ended(Scanner *self, const byte *p)
{
    const byte *name;
    if (self->matched != open_name(self, &name))
        return malformed(self, "mismatched tag");
    if (self->depth == 1)
        return stream_ended(self, p);
    return element_ended(self, p);
}

/* --- attributes: each name of the current tag lies in `attributes`, behind its size */

static int attribute_begins(Scanner *self)
{
    if (++self->attribute_count > MAX_ATTRIBUTES) {
        char text[48];
        PyOS_snprintf(text, sizeof text, "more than %d attributes", MAX_ATTRIBUTES);
        return fail(self, "policy-violation", text);
    }
    size_t size = 0;
    self->attribute_begin = self->attributes.size;
    self->state = ATTRIBUTE;
    return append(&self->attributes, &size, sizeof size);
}

/* The name is complete: note its size, and compare it with those before it in this tag. */
static int attribute_named(Scanner *self)
{
    byte *begin = self->attributes.bytes + self->attribute_begin;
    size_t size = self->attributes.size - self->attribute_begin - sizeof size;
    const byte *name = begin + sizeof size;
    memcpy(begin, &size, sizeof size);
    for (const byte *other = self->attributes.bytes; other < begin;) {
        size_t other_size;
        memcpy(&other_size, other, sizeof other_size);
        other += sizeof other_size;
        if (other_size == size && memcmp(other, name, size) == 0)
            return malformed(self, "duplicate attribute");
        other += other_size;
    }
    return 0;
}

/* --- characters that are not a byte, and references */

/* Whether nothing of the name that is being read has come yet. */
static int name_is_empty(Scanner *self, byte kind)
{
    switch (kind) {
    case START_NAME:
        return self->names.size == self->name_begin;
    case ATTRIBUTE:
        return self->attributes.size == self->attribute_begin + sizeof(size_t);
    default:
        return self->matched == 0;
    }
}

/* The first byte of a character of several bytes; RFC 3629 section 4. */
static int multibyte_begins(Scanner *self, byte c)
{
    self->outer = self->state;
    self->first_of_name = (byte)name_is_empty(self, self->state);
    if (c >= 0xC2 && c <= 0xDF) {
        self->character = c & 0x1F;
        self->character_left = 1;
        self->character_min = 0x80;
    } else if (c >= 0xE0 && c <= 0xEF) {
        self->character = c & 0x0F;
        self->character_left = 2;
        self->character_min = 0x800;
    } else if (c >= 0xF0 && c <= 0xF4) {
        self->character = c & 0x07;
        self->character_left = 3;
        self->character_min = 0x10000;
    } else
        return malformed(self, "not UTF-8");
    self->state = MULTIBYTE;
    return 0;
}

static int multibyte_ended(Scanner *self)
{
    if (self->character < self->character_min || !is_character(self->character))
        return malformed(self, "not a character of UTF-8");
    self->state = self->outer;
    if (self->outer == START_NAME || self->outer == ATTRIBUTE || self->outer == END_NAME)
        if (!is_name_character(self->character, self->first_of_name))
            return malformed(self, "not a character of a name");
    return 0;
}

static int reference_begins(Scanner *self)
{
    self->outer = self->state;
    self->state = AMPERSAND;
    self->entity_size = 0;
    self->character = 0;
    return 0;
}

static int entity_ended(Scanner *self)
{
    static const char *const known[] = {"lt", "gt", "amp", "quot", "apos"};
    for (int i = 0; i < COUNT(known); i++)
        if (strlen(known[i]) == self->entity_size && memcmp(known[i], self->entity, self->entity_size) == 0) {
            self->state = self->outer;
            self->spelt = 0;
            return 0;
        }
    return fail(self, "restricted-xml", "entities are not allowed");
}

static int number_ended(Scanner *self)
{
    if (!is_character(self->character))
        return malformed(self, "reference to no character");
    self->state = self->outer;
    if (self->outer == VALUE) {
        byte c = (byte)(self->character < 0x80 ? self->character : 0);
        spell(self, &c, &c + 1);
    }
    return 0;
}

static void number_grows(Scanner *self, uint32_t base, uint32_t digit)
{
    /* Beyond the last character it stays there. */
    self->character = self->character > 0x10FFFF ? self->character : self->character * base + digit;
}

static int hexadecimal(byte c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* --- names, which may come in pieces */

/* Take a run of bytes of a name, from `p` on; NULL on failure. */
static const byte *take_name(Scanner *self, const byte *p)
{
    const byte *const from = p, *name;
    p = skip_name(p);
    size_t size = (size_t)(p - from);
    switch (self->state) {
    case START_NAME:
        watch(self, from, p);
        return append(&self->names, from, size) < 0 ? NULL : p;
    case ATTRIBUTE:
        watch(self, from, p);
        return append(&self->attributes, from, size) < 0 ? NULL : p;
    default: /* END_NAME */
        if (size > open_name(self, &name) - self->matched || memcmp(name + self->matched, from, size) != 0)
            return malformed(self, "mismatched tag") < 0 ? NULL : p;
        self->matched += size;
        return p;
    }
}

/* One byte of a name that is no ASCII. */
static int take_name_byte(Scanner *self, byte c, byte kind)
{
    const byte *name;
    switch (kind) {
    case START_NAME:
        return append(&self->names, &c, 1);
    case ATTRIBUTE:
        return append(&self->attributes, &c, 1);
    default: /* END_NAME */
        if (self->matched >= open_name(self, &name) || name[self->matched] != c)
            return malformed(self, "mismatched tag");
        self->matched++;
        return 0;
    }
}

/* --- whole tags at once

   Most tags lie whole in a chunk and hold nothing unusual. They are read here, without a state between two bytes. Where
   anything is different (the chunk ends, a reference, a character beyond ASCII, an error) nothing has been changed yet,
   and the machine below reads the tag from its beginning. */

enum { FEW_ATTRIBUTES = 8 };

/* Behind "</": where the tag ends, NULL if the machine has to read it. */
static inline const byte *whole_end_tag(const Scanner *self, const byte *p)
{
    const byte *name;
    size_t size = open_name(self, &name);
    if ((size_t)(self->end - p) <= size || p[size] != '>' || memcmp(p, name, size) != 0)
        return NULL;
    return p + size + 1;
}

/* Behind "<", at a name's first byte: where the tag ends (`*name_end`: its name), NULL if the machine has to read it. */
static inline const byte *whole_start_tag(Scanner *self, const byte *p, const byte **name_end)
{
    const byte *names[FEW_ATTRIBUTES], *const end = self->end, *const from = p;
    size_t sizes[FEW_ATTRIBUTES];
    int count = 0;
    *name_end = p = skip_name(p);
    watch(self, from, p);
    for (;;) {
        if (*p == '>')
            return p + 1;
        if (*p != ' ')
            return p[0] == '/' && p[1] == '>' ? p + 2 : NULL;
        if (!IS(p[1], NAME_START_BYTE) || count == FEW_ATTRIBUTES)
            return NULL;
        const byte *name = names[count] = ++p;
        p = skip_name(p);
        watch(self, name, p);
        size_t size = sizes[count] = (size_t)(p - name);
        for (int other = 0; other < count; other++)
            if (sizes[other] == size && *names[other] == *name && memcmp(names[other], name, size) == 0)
                return NULL;
        count++;
        if (*p++ != '=' || (*p != '\'' && *p != '"'))
            return NULL;
        const byte quote = *p, *value = p + 1;
        p = skip_value(value, end, quote);
        watch(self, value, p);
        if (*p++ != quote)
            return NULL;
    }
}

/* --- the machine */

static inline void start_tag_begins(Scanner *self)
{
    if (self->depth == 1)
        self->start = self->boundary;
    self->name_begin = self->names.size;
    self->attributes.size = 0;
    self->attribute_count = 0;
    self->state = START_NAME;
}

/* Text stops at a byte that is no "<". */
static int text_stops(Scanner *self, byte c)
{
    if (c == '&')
        return reference_begins(self);
    if (c >= 0x80)
        return multibyte_begins(self, c);
    if (c == ']')
        self->state = BRACKET;
    else if (!IS(c, SPACE_BYTE))
        return malformed(self, "a character that XML does not allow");
    return 0;
}

/* A step is one byte in a state; each answers 0, or -1 with a Python exception set. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            return NULL;                                                                                               \
    } while (0)

/* Read until the end of the chunk, or until enough is reported; where it stopped, NULL with an exception set. */
static const byte *run(Scanner *self, const byte *p)
{
    const byte *const end = self->end;
    while (p < end) {
        if (self->stop)
            break;
        byte c = *p;
        switch (self->state) {
        case CONTENT:
            if (self->depth == 1) {
                /* White space is passed on at once. */
                while (p < end && IS(*p, SPACE_BYTE))
                    p++;
                self->boundary = offset_of(self, p);
                if (p == end)
                    continue;
                if (*p != '<') {
                    TRY(fail(self, "bad-format", "text between elements"));
                    continue;
                }
            } else {
                const byte *from = p;
                p = skip_text(p, end);
                watch(self, from, p);
                if (p == end)
                    continue;
                if (*p != '<') {
                    TRY(text_stops(self, *p));
                    p++;
                    continue;
                }
            }
            self->state = LESS;
            if (++p == end)
                continue;
            c = *p;
            /* fall through */

        case LESS:
            /* The "<" may lie in an earlier chunk; at depth 1 it lies at the boundary. */
            if (c == '/') {
                const byte *after = whole_end_tag(self, p + 1);
                if (after != NULL) {
                    p = after;
                    TRY(self->depth == 1 ? stream_ended(self, p) : element_ended(self, p));
                    continue;
                }
                self->matched = 0;
                self->state = END_NAME;
            } else if (c == '!') {
                self->progress = 0;
                self->state = CDATA_OPENS;
            } else if (c == '?')
                TRY(fail(self, "restricted-xml", "processing instructions are not allowed"));
            else if (IS(c, NAME_START_BYTE) || c >= 0x80) {
                start_tag_begins(self);
                const byte *name_end, *after = c < 0x80 ? whole_start_tag(self, p, &name_end) : NULL;
                if (after != NULL) {
                    TRY(push_name(self, p, (size_t)(name_end - p)));
                    p = after;
                    TRY(tag_ended(self));
                    if (p[-2] == '/' && self->state != OVER)
                        TRY(element_ended(self, p));
                }
                continue; /* or the name takes the byte */
            } else
                TRY(malformed(self, "expected a name behind '<'"));
            p++;
            continue;

        case BRACKET:
            if (c == ']') {
                self->state = BRACKETS;
                p++;
            } else
                self->state = CONTENT;
            continue;

        case BRACKETS:
            if (c == '>')
                TRY(malformed(self, "']]>' in text"));
            else if (c == ']')
                p++;
            else
                self->state = CONTENT;
            continue;

        case CDATA_OPENS:
            if (self->progress == 0 && c == '-')
                TRY(fail(self, "restricted-xml", "comments are not allowed"));
            else if (c != (byte)"[CDATA["[self->progress])
                TRY(malformed(self, "expected '<![CDATA['"));
            else if (self->depth == 1 && self->progress == 6)
                TRY(fail(self, "bad-format", "text between elements"));
            else if (++self->progress == 7)
                self->state = CDATA;
            p++;
            continue;

        case CDATA: {
            const byte *from = p;
            p = skip_cdata(p, end);
            watch(self, from, p);
            if (p == end)
                continue;
            if (*p == ']')
                self->state = CDATA_BRACKET;
            else if (*p >= 0x80)
                TRY(multibyte_begins(self, *p));
            else if (!IS(*p, SPACE_BYTE))
                TRY(malformed(self, "a character that XML does not allow"));
            p++;
            continue;
        }

        case CDATA_BRACKET:
            if (c == ']') {
                self->state = CDATA_BRACKETS;
                p++;
            } else
                self->state = CDATA;
            continue;

        case CDATA_BRACKETS:
            if (c == '>') {
                self->state = CONTENT;
                p++;
            } else if (c == ']')
                p++;
            else
                self->state = CDATA;
            continue;

        case START_NAME:
            if ((p = take_name(self, p)) == NULL)
                return NULL;
            if (p == end)
                continue;
            if (*p >= 0x80) {
                byte first = *p;
                TRY(multibyte_begins(self, first));
                if (self->state == MULTIBYTE)
                    TRY(take_name_byte(self, first, START_NAME));
                p++;
                continue;
            }
            TRY(name_ended(self));
            if (*p == '>') {
                p++;
                TRY(tag_ended(self));
            } else if (*p == '/') {
                p++;
                self->state = SLASH;
            } else if (IS(*p, SPACE_BYTE)) {
                p++;
                self->state = IN_TAG;
            } else
                TRY(malformed(self, "a character that no name holds"));
            continue;

        case IN_TAG:
            if (c == '>') {
                p++;
                TRY(tag_ended(self));
            } else if (c == '/') {
                p++;
                self->state = SLASH;
            } else if (IS(c, SPACE_BYTE))
                p++;
            else if (IS(c, NAME_START_BYTE) || c >= 0x80)
                TRY(attribute_begins(self));
            else
                TRY(malformed(self, "expected an attribute or the end of the tag"));
            continue;

        case SLASH:
            p++;
            if (c != '>')
                TRY(malformed(self, "expected '>' behind '/'"));
            else {
                TRY(tag_ended(self));
                if (self->state != OVER)
                    TRY(element_ended(self, p));
            }
            continue;

        case ATTRIBUTE:
            if ((p = take_name(self, p)) == NULL)
                return NULL;
            if (p == end)
                continue;
            if (*p >= 0x80) {
                byte first = *p;
                TRY(multibyte_begins(self, first));
                if (self->state == MULTIBYTE)
                    TRY(take_name_byte(self, first, ATTRIBUTE));
                p++;
                continue;
            }
            TRY(attribute_named(self));
            if (self->state == OVER)
                continue;
            self->state = BEFORE_EQUALS;
            continue;

        case BEFORE_EQUALS:
            p++;
            if (c == '=')
                self->state = BEFORE_VALUE;
            else if (!IS(c, SPACE_BYTE))
                TRY(malformed(self, "expected '=' behind an attribute's name"));
            continue;

        case BEFORE_VALUE:
            p++;
            if (c == '"' || c == '\'') {
                self->quote = c;
                self->spelt = 0;
                self->state = VALUE;
            } else if (!IS(c, SPACE_BYTE))
                TRY(malformed(self, "expected a quoted value"));
            continue;

        case VALUE: {
            const byte *from = p;
            p = skip_value(p, end, self->quote);
            watch(self, from, p);
            spell(self, from, p);
            if (p == end)
                continue;
            if (*p != '&')
                self->spelt = 0;
            if (*p == self->quote)
                self->state = AFTER_VALUE;
            else if (*p == '&')
                TRY(reference_begins(self));
            else if (*p >= 0x80)
                TRY(multibyte_begins(self, *p));
            else if (!IS(*p, SPACE_BYTE))
                TRY(malformed(self, "a character that no value holds"));
            p++;
            continue;
        }

        case AFTER_VALUE:
            p++;
            if (IS(c, SPACE_BYTE))
                self->state = IN_TAG;
            else if (c == '>')
                TRY(tag_ended(self));
            else if (c == '/')
                self->state = SLASH;
            else
                TRY(malformed(self, "expected white space or the end of the tag behind a value"));
            continue;

        case END_NAME:
            if ((p = take_name(self, p)) == NULL)
                return NULL;
            if (p == end || self->state == OVER)
                continue;
            if (*p >= 0x80) {
                byte first = *p;
                TRY(multibyte_begins(self, first));
                if (self->state == MULTIBYTE)
                    TRY(take_name_byte(self, first, END_NAME));
                p++;
                continue;
            }
            if (self->matched == 0)
                TRY(malformed(self, "expected a name behind '</'"));
            else
                self->state = AFTER_END_NAME;
            continue;

        case AFTER_END_NAME:
            p++;
            if (c == '>')
                TRY(end_tag_ended(self, p));
            else if (!IS(c, SPACE_BYTE))
                TRY(malformed(self, "expected '>' behind an end tag's name"));
            continue;

        case AMPERSAND:
            if (c == '#') {
                self->state = HASH;
                p++;
            } else if (IS(c, NAME_START_BYTE) || c >= 0x80)
                self->state = ENTITY;
            else
                TRY(malformed(self, "expected a name behind '&'"));
            continue;

        case ENTITY:
            p++;
            if (c == ';')
                TRY(entity_ended(self));
            else if (c >= 0x80 || self->entity_size >= sizeof self->entity)
                TRY(fail(self, "restricted-xml", "entities are not allowed"));
            else if (!IS(c, NAME_BYTE))
                TRY(malformed(self, "expected ';' behind an entity's name"));
            else
                self->entity[self->entity_size++] = (char)c;
            continue;

        case HASH:
            if (c == 'x') {
                self->state = HEXADECIMAL_FIRST;
                p++;
            } else if (c >= '0' && c <= '9')
                self->state = DECIMAL;
            else
                TRY(malformed(self, "expected a number behind '&#'"));
            continue;

        case DECIMAL:
            p++;
            if (c == ';')
                TRY(number_ended(self));
            else if (c >= '0' && c <= '9')
                number_grows(self, 10, (uint32_t)(c - '0'));
            else
                TRY(malformed(self, "expected a decimal digit"));
            continue;

        case HEXADECIMAL_FIRST:
            if (hexadecimal(c) < 0)
                TRY(malformed(self, "expected a hexadecimal digit"));
            else
                self->state = HEXADECIMAL;
            continue;

        case HEXADECIMAL:
            p++;
            if (c == ';')
                TRY(number_ended(self));
            else if (hexadecimal(c) >= 0)
                number_grows(self, 16, (uint32_t)hexadecimal(c));
            else
                TRY(malformed(self, "expected a hexadecimal digit"));
            continue;

        case MULTIBYTE:
            p++;
            if ((c & 0xC0) != 0x80) {
                TRY(malformed(self, "not UTF-8"));
                continue;
            }
            self->character = self->character << 6 | (c & 0x3F);
            {
                byte kind = self->outer;
                if (kind == START_NAME || kind == ATTRIBUTE || kind == END_NAME)
                    TRY(take_name_byte(self, c, kind));
                if (self->state == MULTIBYTE && --self->character_left == 0)
                    TRY(multibyte_ended(self));
            }
            continue;

        default: /* OVER: whatever follows is of no interest */
            return end;
        }
    }
    return p;
}

/* Behind a chunk. */
static int settle(Scanner *self)
{
    if (self->position == self->boundary || self->state == OVER) {
        /* Streams are idle here, many of them. */
        self->tail_size = 0;
        shrink(&self->names);
        shrink(&self->attributes);
        return 0;
    }
    keep_tail(self);
    if (self->max_element >= 0 && self->position - self->boundary > (offset)self->max_element)
        return too_long(self);
    return 0;
}

/* Feed `size` bytes, behind which lies a NUL; how many were read, -1 with an exception set. */
static Py_ssize_t feed(Scanner *self, const char *bytes, Py_ssize_t size, enum reading how)
{
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "a chunk is being read");
        return -1;
    }
    self->reported = 0;
    if (self->state == OVER) {
        self->position += (offset)size;
        return size;
    }
    const offset boundary = self->boundary;
    self->data = (const byte *)bytes;
    self->end = self->data + size;
    self->stop = 0;
    self->stepping = (byte)how;
    self->busy = 1;
    if (self->tail_size)
        watch_seam(self);
    const byte *p = run(self, self->data);
    int failed = p == NULL;
    if (!failed) {
        self->end = p;
        size = p - self->data;
        self->position += (offset)size;
        failed = settle(self) < 0;
    }
    self->busy = 0;
    if (failed) {
        self->state = OVER;
        self->boundary = boundary; /* nobody learns of a later one */
        return -1;
    }
    return size;
}

/* As feed, while scanning; how many bytes lie before the last boundary. */
static Py_ssize_t feed_chunk(Scanner *self, const char *bytes, Py_ssize_t size)
{
    const offset base = self->position;
    if (feed(self, bytes, size, SCANNING) < 0)
        return -1;
    return self->boundary > base ? (Py_ssize_t)(self->boundary - base) : 0;
}

/* --- to C */

static PyObject *all_held(PyObject *object)
{
    const Scanner *self = (const Scanner *)object;
    if (self->held == NULL || !PyBytes_Check(self->held))
        return NULL;
    return self->position - self->boundary == (offset)PyBytes_Size(self->held) ? self->held : NULL;
}

static int hold(PyObject *object, const char *bytes, Py_ssize_t size)
{
    Scanner *self = (Scanner *)object;
    PyObject *old = self->held, *new = PyBytes_FromStringAndSize(bytes, size);
    if (new == NULL)
        return -1;
    self->held = new;
    Py_XDECREF(old);
    return 0;
}

static Py_ssize_t scan_chunk(PyObject *object, const char *bytes, Py_ssize_t size, Py_ssize_t *used, int *reported)
{
    Scanner *self = (Scanner *)object;
    const offset base = self->position;
    Py_ssize_t ready = feed_chunk(self, bytes, size);
    *used = (Py_ssize_t)(self->position - base);
    *reported = self->reported > 0;
    return ready;
}

static Py_ssize_t step_element(PyObject *object, const char *bytes, Py_ssize_t size, int *ended)
{
    Scanner *self = (Scanner *)object;
    Py_ssize_t used = feed(self, bytes, size, UNREPORTED);
    *ended = self->stop && !self->reported;
    return used;
}

static scanner_api api = {NULL, all_held, scan_chunk, hold, step_element};

/* --- to Python */

static PyObject *scan(PyObject *object, PyObject *data)
{
    char *bytes;
    Py_ssize_t size, ready;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0 || (ready = feed_chunk((Scanner *)object, bytes, size)) < 0)
        return NULL;
    return PyLong_FromSsize_t(ready);
}

static PyObject *step(PyObject *object, PyObject *data)
{
    char *bytes;
    Py_ssize_t size, used;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0 || (used = feed((Scanner *)object, bytes, size, STEPPING)) < 0)
        return NULL;
    return PyLong_FromSsize_t(used);
}

static PyObject *get_limit(PyObject *object, void *closure)
{
    (void)closure;
    Scanner *self = (Scanner *)object;
    if (self->max_element < 0)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(self->max_element);
}

static int set_limit(PyObject *object, PyObject *value, void *closure)
{
    (void)closure;
    Scanner *self = (Scanner *)object;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "max_element_bytes cannot be deleted");
        return -1;
    }
    if (value == Py_None) {
        self->max_element = -1;
        return 0;
    }
    long long limit = PyLong_AsLongLong(value);
    if (limit == -1 && PyErr_Occurred())
        return -1;
    if (limit < 0) {
        PyErr_SetString(PyExc_ValueError, "max_element_bytes: expected a number of at least 0, or None");
        return -1;
    }
    self->max_element = limit;
    return 0;
}

static PyObject *get_boundary(PyObject *object, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(((Scanner *)object)->boundary);
}

static PyObject *get_position(PyObject *object, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(((Scanner *)object)->position);
}

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"tag", "offset", "max_element_bytes", "max_depth", NULL};
    const char *tag;
    Py_ssize_t tag_size;
    long long at;
    PyObject *limit;
    int max_depth;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y#LOi", names, &tag, &tag_size, &at, &limit, &max_depth))
        return NULL;
    if (tag_size == 0 || at < 0 || max_depth < 1) {
        PyErr_SetString(PyExc_ValueError, "expected a tag, an offset of at least 0 and a depth of at least 1");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Scanner *self = (Scanner *)allocate(type, 0); /* all zero */
    if (self == NULL)
        return NULL;
    self->position = self->boundary = (offset)at;
    self->depth = 1;
    self->max_depth = max_depth < INT_MAX ? max_depth : INT_MAX - 1; /* `depth` goes one beyond */
    self->state = CONTENT;
    self->names.bytes = self->names.few = self->few_names;
    self->names.room = self->names.few_room = sizeof self->few_names;
    self->events = PyList_New(0);
    self->held = PyBytes_FromStringAndSize(NULL, 0);
    if (self->events == NULL || self->held == NULL || set_limit((PyObject *)self, limit, NULL) < 0 ||
        append(&self->names, tag, (size_t)tag_size) < 0 || name_ended(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void drop(PyObject *object)
{
    Scanner *self = (Scanner *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->names.bytes != self->few_names)
        PyMem_Free(self->names.bytes);
    PyMem_Free(self->attributes.bytes);
    Py_XDECREF(self->events);
    Py_XDECREF(self->held);
    Py_XDECREF(self->ack);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_O, "scan($self, data, /)\n--\n\nSee cxfr_proxy.xmpp.framing.framer.Framer.scan."},
    {"step", step, METH_O, "step($self, data, /)\n--\n\nSee cxfr_proxy.xmpp.framing.framer.Framer.step."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"every", T_BOOL, offsetof(Scanner, every), 0, "Report each top-level element while scanning."},
    {"acks", T_BOOL, offsetof(Scanner, acks), 0, "Report each <a/> and <r/> while scanning."},
    {"events", T_OBJECT_EX, offsetof(Scanner, events), 0, "The events, in order; the caller replaces or clears it."},
    {"held", T_OBJECT_EX, offsetof(Scanner, held), 0, "Bytes before `position` that its lane keeps."},
    {"stanzas", T_ULONGLONG, offsetof(Scanner, stanzas), READONLY, "Complete top-level elements that are stanzas."},
    {"ack", T_OBJECT, offsetof(Scanner, ack), READONLY, "The last <a/>, empty if it came in pieces; None: none."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"max_element_bytes", get_limit, set_limit, "The longest element; None: no limit.", NULL},
    {"boundary", get_boundary, NULL, "Offset of the last boundary, from the stream's first byte.", NULL},
    {"position", get_position, NULL, "Offset of the next byte.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Scanner(tag, offset, max_element_bytes, max_depth)\n--\n\n"
                "Reads the content of a stream element named `tag` that begins at `offset`."},
    {Py_tp_new, make},
    {Py_tp_dealloc, drop},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {0, NULL},
};

/* Not a type for the cyclic collector: its list holds events only, and these and bytes lead nowhere. */
static PyType_Spec spec = {"cxfr_proxy.xmpp.framing._scan.Scanner", sizeof(Scanner), 0, Py_TPFLAGS_DEFAULT, slots};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_scan", "The native framing engine.", -1, NULL, NULL, NULL, NULL, NULL,
};

static int find_events(void)
{
    PyObject *events = PyImport_ImportModule("cxfr_proxy.xmpp.framing.events");
    if (events == NULL)
        return -1;
    if ((element_type = PyObject_GetAttrString(events, "WholeElement")) != NULL &&
        (stream_end_type = PyObject_GetAttrString(events, "StreamEnd")) != NULL)
        stream_fault_type = PyObject_GetAttrString(events, "StreamFault");
    Py_DECREF(events);
    return stream_fault_type == NULL ? -1 : 0;
}

PyMODINIT_FUNC PyInit__scan(void)
{
    fill_classes();
#ifdef WIDE
    has_wide = __builtin_cpu_supports("avx2");
#endif
    if (find_events() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    PyObject *type = PyType_FromSpec(&spec), *capsule = PyCapsule_New(&api, SCANNER_API, NULL);
    if (type == NULL || capsule == NULL || PyModule_AddObjectRef(module, "Scanner", type) < 0 ||
        PyModule_AddObjectRef(module, "api", capsule) < 0 ||
        PyModule_AddIntConstant(module, "MAX_ATTRIBUTES", MAX_ATTRIBUTES) < 0 ||
        PyModule_AddIntConstant(module, "MAX_EVENTS_PER_SCAN", MAX_EVENTS_PER_SCAN) < 0)
        Py_CLEAR(module);
    Py_XDECREF(capsule);
    api.type = (PyTypeObject *)type; /* for ever: the capsule may outlive the module */
    return module;
}
