/* The native framing engine: cxfr_proxy.xmpp.framing.Framer for a stream that is under way.

   A byte state machine for the content of a stream element: what may stand there is what XML 1.0 and RFC 6120 allow,
   and it says where each top-level element ends. It can be cut after any byte, allocates nothing per stanza, and takes
   time linear in its input: each byte is looked at once, or not at all where runs of plain text are skipped.

   How to read it: `enum state` names where between two bytes the machine can be; `run` is one loop over the input with a
   case for each; `element_ended` and `stream_ended` are what all of it is for. Names of open elements lie in one growing
   buffer (each behind the other, followed by its length), so that an end tag can be compared byte by byte as it comes.

   The same rules in Python, on expat, are in _expat.py; tests and a fuzzer hold the two together. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "_names.h"

typedef unsigned char byte;
typedef uint64_t offset; /* counts from the stream's first byte */

#define NEVER UINT64_MAX

static const byte WATCHED[] = "urn:xmpp:cxfr";
enum { WATCHED_SIZE = sizeof(WATCHED) - 1, SEAM = WATCHED_SIZE - 1 };

/* More attributes than this are refused: finding one that is there twice compares each with each. */
enum { MAX_ATTRIBUTES = 100 };

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

typedef struct {
    PyObject_HEAD
    PyObject *notes;
    long long max_element; /* -1: no limit */
    offset position;       /* of the next byte */
    offset boundary;
    offset start;       /* of the current top-level element */
    offset watched_at;  /* where watched bytes lie at or behind the boundary; NEVER: nowhere yet */
    byte tail[SEAM];    /* the last bytes of the chunk before */
    int tail_size;
    const byte *data, *end; /* the chunk being read */
    byte state, outer, quote;
    char every;      /* note each element */
    byte stepping;
    byte stop;       /* something was noted: leave the loop if stepping */
    byte character_left; /* continuation bytes still to come */
    byte first_of_name;  /* the character of several bytes begins a name */
    byte entity_size;
    char entity[5]; /* no predefined entity is longer */
    int depth, max_depth;
    int progress;
    uint32_t character, character_min; /* of several bytes, or by number */
    size_t matched;                    /* bytes of an end tag's name that agree with its start tag */
    byte *names;
    size_t names_size, names_room;
    size_t name_begin;  /* of the innermost open element, in `names` */
    size_t name_around; /* of the one around it, while its start tag is read */
    byte *attributes;  /* names in the current tag, each behind its length */
    size_t attributes_size, attributes_room;
    size_t attribute_begin;
    int attribute_count;
} Scanner;

static PyObject *element_type, *stream_end_type, *failure_type;

/* --- classes of bytes */

enum { NAME_BYTE = 1, NAME_START_BYTE = 2, SPACE_BYTE = 4, TEXT_BYTE = 8 };
static byte classes[256];

static void fill_classes(void)
{
    for (int c = 0x20; c < 0x80; c++)
        classes[c] |= TEXT_BYTE;
    classes['<'] = classes['&'] = classes[']'] = 0;
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
    classes['\t'] |= SPACE_BYTE | TEXT_BYTE;
    classes['\r'] |= SPACE_BYTE | TEXT_BYTE;
    classes['\n'] |= SPACE_BYTE | TEXT_BYTE;
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

/* The first byte that is not plain text. */
static const byte *skip_text(const byte *p, const byte *end)
{
#if defined(__SSE2__)
    const __m128i space = _mm_set1_epi8(0x20), less = _mm_set1_epi8('<'), amp = _mm_set1_epi8('&'),
                  bracket = _mm_set1_epi8(']');
    while (end - p >= 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        /* A signed comparison: bytes of 0x80 and above are below the space, too. */
        __m128i odd = _mm_or_si128(_mm_or_si128(_mm_cmplt_epi8(x, space), _mm_cmpeq_epi8(x, less)),
                                   _mm_or_si128(_mm_cmpeq_epi8(x, amp), _mm_cmpeq_epi8(x, bracket)));
        int mask = _mm_movemask_epi8(odd);
        if (mask)
            return p + __builtin_ctz((unsigned)mask);
        p += 16;
    }
#endif
    while (p < end && IS(*p, TEXT_BYTE) && *p >= 0x20)
        p++;
    return p;
}

/* The first byte of a value that is its end or wants a look. */
static const byte *skip_value(const byte *p, const byte *end, byte quote)
{
#if defined(__SSE2__)
    const __m128i space = _mm_set1_epi8(0x20), less = _mm_set1_epi8('<'), amp = _mm_set1_epi8('&'),
                  quotes = _mm_set1_epi8((char)quote);
    while (end - p >= 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        __m128i odd = _mm_or_si128(_mm_or_si128(_mm_cmplt_epi8(x, space), _mm_cmpeq_epi8(x, less)),
                                   _mm_or_si128(_mm_cmpeq_epi8(x, amp), _mm_cmpeq_epi8(x, quotes)));
        int mask = _mm_movemask_epi8(odd);
        if (mask)
            return p + __builtin_ctz((unsigned)mask);
        p += 16;
    }
#endif
    while (p < end && *p != quote && (IS(*p, TEXT_BYTE) || *p == ']') && *p >= 0x20)
        p++;
    return p;
}

/* --- growing buffers */

static int reserve(byte **buffer, size_t *room, size_t needed)
{
    if (needed <= *room)
        return 0;
    size_t larger = *room ? *room : 64;
    while (larger < needed)
        larger *= 2;
    byte *grown = PyMem_Realloc(*buffer, larger);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *buffer = grown;
    *room = larger;
    return 0;
}

static int append(byte **buffer, size_t *size, size_t *room, const byte *data, size_t count)
{
    if (reserve(buffer, room, *size + count) < 0)
        return -1;
    memcpy(*buffer + *size, data, count);
    *size += count;
    return 0;
}

/* --- what is reported */

static int note(Scanner *self, PyObject *made)
{
    if (made == NULL)
        return -1;
    int failed = PyList_Append(self->notes, made);
    Py_DECREF(made);
    self->stop = 1;
    return failed;
}

static int fail(Scanner *self, const char *condition, const char *text)
{
    self->state = OVER;
    unsigned long long at = self->boundary;
    return note(self, PyObject_CallFunction(failure_type, "KKss", at, at, condition, text));
}

static int malformed(Scanner *self, const char *text) { return fail(self, "not-well-formed", text); }

static int too_long(Scanner *self)
{
    char text[64];
    PyOS_snprintf(text, sizeof text, "element longer than %lld bytes", self->max_element);
    return fail(self, "policy-violation", text);
}

static int is_usual(const byte *name, size_t size)
{
    switch (size) {
    case 1:
        return *name == 'a' || *name == 'r';
    case 2:
        return memcmp(name, "iq", 2) == 0;
    case 7:
        return memcmp(name, "message", 7) == 0;
    case 8:
        return memcmp(name, "presence", 8) == 0;
    default:
        return 0;
    }
}

/* --- watched bytes: where the next ones are, looked for a chunk at a time */

/* Like memmem, which prepares a table for each call and so takes longer than most chunks are worth: looks for the first
   and the last byte at their distance, and compares what is between where both are there. */
static const byte *find_watched(const byte *p, const byte *end)
{
    end -= WATCHED_SIZE - 1; /* behind the last place where it can begin */
#if defined(__SSE2__)
    const __m128i first = _mm_set1_epi8((char)WATCHED[0]), last = _mm_set1_epi8((char)WATCHED[WATCHED_SIZE - 1]);
    while (end - p >= 16) {
        __m128i begins = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), first);
        __m128i ends = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + WATCHED_SIZE - 1)), last);
        int mask = _mm_movemask_epi8(_mm_and_si128(begins, ends));
        while (mask) {
            const byte *at = p + __builtin_ctz((unsigned)mask);
            if (memcmp(at, WATCHED, WATCHED_SIZE) == 0)
                return at;
            mask &= mask - 1;
        }
        p += 16;
    }
#endif
    for (; p < end; p++)
        if (*p == WATCHED[0] && memcmp(p, WATCHED, WATCHED_SIZE) == 0)
            return p;
    return NULL;
}

static void look_for_watched(Scanner *self, const byte *from)
{
    size_t size = (size_t)(self->end - from);
    const byte *hit = size >= WATCHED_SIZE ? find_watched(from, self->end) : NULL;
    self->watched_at = hit == NULL ? NEVER : self->position + (offset)(hit - self->data);
}

/* At the beginning of a chunk: also those that the cut went through. Only inside an element; none can lie across two. */
static void begin_watching(Scanner *self)
{
    if (self->watched_at != NEVER)
        return; /* in the current element, from an earlier chunk: that settles it */
    if (self->tail_size && self->position > self->boundary) {
        byte seam[2 * SEAM];
        size_t more = (size_t)(self->end - self->data);
        if (more > SEAM)
            more = SEAM;
        memcpy(seam, self->tail, (size_t)self->tail_size);
        memcpy(seam + self->tail_size, self->data, more);
        size_t size = (size_t)self->tail_size + more;
        if (size >= WATCHED_SIZE && find_watched(seam, seam + size) != NULL) {
            self->watched_at = self->position - 1;
            return;
        }
    }
    look_for_watched(self, self->data);
}

static void keep_tail(Scanner *self)
{
    size_t size = (size_t)(self->end - self->data);
    if (size >= SEAM) {
        memcpy(self->tail, self->end - SEAM, SEAM);
        self->tail_size = SEAM;
        return;
    }
    size_t kept = (size_t)self->tail_size;
    if (kept + size > SEAM) {
        size_t drop = kept + size - SEAM;
        memmove(self->tail, self->tail + drop, kept - drop);
        kept -= drop;
    }
    memcpy(self->tail + kept, self->data, size);
    self->tail_size = (int)(kept + size);
}

/* --- elements begin and end */

static offset offset_of(Scanner *self, const byte *p) { return self->position + (offset)(p - self->data); }

/* Behind an open element's name in `names` stands where the one around it begins. */
static int push_name(Scanner *self, size_t around)
{
    return append(&self->names, &self->names_size, &self->names_room, (byte *)&around, sizeof around);
}

/* A whole name at once: itself, and where the one around it begins. */
static int open_name(Scanner *self, const byte *name, size_t size)
{
    if (append(&self->names, &self->names_size, &self->names_room, name, size) < 0)
        return -1;
    return push_name(self, self->name_around);
}

static size_t open_name_size(Scanner *self) { return self->names_size - sizeof(size_t) - self->name_begin; }

static void pop_name(Scanner *self)
{
    size_t around;
    memcpy(&around, self->names + self->names_size - sizeof around, sizeof around);
    self->names_size = self->name_begin;
    self->name_begin = around;
}

/* A start tag is complete. */
static int tag_ended(Scanner *self)
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
static int element_ended(Scanner *self, const byte *p)
{
    self->state = CONTENT;
    if (--self->depth > 1) {
        pop_name(self);
        return 0;
    }
    offset end = offset_of(self, p);
    if (self->max_element >= 0 && end - self->start > (offset)self->max_element)
        return too_long(self);
    self->boundary = end;
    const byte *name = self->names + self->name_begin;
    size_t size = open_name_size(self);
    int watched = self->watched_at < end;
    int failed = 0;
    if (self->every || self->stepping || watched || !is_usual(name, size)) {
        unsigned long long from = self->start, to = end;
        failed = note(self, PyObject_CallFunction(element_type, "KKs#", from, to, name, (Py_ssize_t)size));
    }
    if (watched)
        look_for_watched(self, p);
    pop_name(self);
    return failed;
}

static int stream_ended(Scanner *self, const byte *p)
{
    unsigned long long from = self->boundary, to = offset_of(self, p);
    self->boundary = to;
    self->state = OVER;
    return note(self, PyObject_CallFunction(stream_end_type, "KK", from, to));
}

static int end_tag_ended(Scanner *self, const byte *p)
{
    if (self->matched != open_name_size(self))
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
    self->attribute_begin = self->attributes_size;
    self->state = ATTRIBUTE;
    return append(&self->attributes, &self->attributes_size, &self->attributes_room, (byte *)&size, sizeof size);
}

/* The name is complete: note its size, and compare it with those before it in this tag. */
static int attribute_named(Scanner *self)
{
    size_t size = self->attributes_size - self->attribute_begin - sizeof size;
    const byte *name = self->attributes + self->attribute_begin + sizeof size;
    memcpy(self->attributes + self->attribute_begin, &size, sizeof size);
    for (const byte *other = self->attributes; other < self->attributes + self->attribute_begin;) {
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
        return self->names_size == self->name_begin;
    case ATTRIBUTE:
        return self->attributes_size == self->attribute_begin + sizeof(size_t);
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
            return 0;
        }
    return fail(self, "restricted-xml", "entities are not allowed");
}

static int number_ended(Scanner *self)
{
    if (!is_character(self->character))
        return malformed(self, "reference to no character");
    self->state = self->outer;
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
    const byte *from = p;
    while (p < self->end && IS(*p, NAME_BYTE))
        p++;
    size_t size = (size_t)(p - from);
    switch (self->state) {
    case START_NAME:
        return append(&self->names, &self->names_size, &self->names_room, from, size) < 0 ? NULL : p;
    case ATTRIBUTE:
        return append(&self->attributes, &self->attributes_size, &self->attributes_room, from, size) < 0 ? NULL : p;
    default: /* END_NAME */
        if (size > open_name_size(self) - self->matched ||
            memcmp(self->names + self->name_begin + self->matched, from, size) != 0)
            return malformed(self, "mismatched tag") < 0 ? NULL : p;
        self->matched += size;
        return p;
    }
}

/* One byte of a name that is no ASCII. */
static int take_name_byte(Scanner *self, byte c, byte kind)
{
    switch (kind) {
    case START_NAME:
        return append(&self->names, &self->names_size, &self->names_room, &c, 1);
    case ATTRIBUTE:
        return append(&self->attributes, &self->attributes_size, &self->attributes_room, &c, 1);
    default: /* END_NAME */
        if (self->matched >= open_name_size(self) || self->names[self->name_begin + self->matched] != c)
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
static const byte *whole_end_tag(Scanner *self, const byte *p)
{
    size_t size = open_name_size(self);
    if ((size_t)(self->end - p) <= size || p[size] != '>' || memcmp(p, self->names + self->name_begin, size) != 0)
        return NULL;
    return p + size + 1;
}

static int same_name(const byte *const *names, const size_t *sizes, int a, int b)
{
    return sizes[a] == sizes[b] && memcmp(names[a], names[b], sizes[a]) == 0;
}

/* Behind "<", at a name's first byte: where the tag ends (`*name_end`: its name), NULL if the machine has to read it. */
static const byte *whole_start_tag(const byte *p, const byte *const end, const byte **name_end)
{
    const byte *names[FEW_ATTRIBUTES];
    size_t sizes[FEW_ATTRIBUTES];
    int count = 0;
    while (p < end && IS(*p, NAME_BYTE))
        p++;
    *name_end = p;
    for (;;) {
        if (end - p < 2)
            return NULL;
        if (*p == '>')
            return p + 1;
        if (*p == '/')
            return p[1] == '>' ? p + 2 : NULL;
        if (*p != ' ' || !IS(p[1], NAME_START_BYTE) || count == FEW_ATTRIBUTES)
            return NULL;
        names[count] = ++p;
        while (p < end && IS(*p, NAME_BYTE))
            p++;
        sizes[count] = (size_t)(p - names[count]);
        for (int other = 0; other < count; other++)
            if (same_name(names, sizes, other, count))
                return NULL;
        count++;
        if (end - p < 3 || p[0] != '=' || (p[1] != '\'' && p[1] != '"'))
            return NULL;
        const byte quote = p[1];
        p = skip_value(p + 2, end, quote);
        if (p == end || *p != quote)
            return NULL;
        p++;
    }
}

/* --- the machine */

static int start_tag_begins(Scanner *self)
{
    if (self->depth == 1)
        self->start = self->boundary;
    self->name_around = self->name_begin;
    self->name_begin = self->names_size;
    self->attributes_size = 0;
    self->attribute_count = 0;
    self->state = START_NAME;
    return 0;
}

/* A step is one byte in a state; each answers 0, or -1 with a Python exception set. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            return NULL;                                                                                               \
    } while (0)

/* Read until the end of the chunk, or a note if stepping; where it stopped, NULL with an exception set. */
static const byte *run(Scanner *self, const byte *p)
{
    const byte *const end = self->end;
    while (p < end) {
        if (self->stop && self->stepping)
            break;
        const byte c = *p;
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
                self->state = LESS;
                p++;
                continue;
            }
            p = skip_text(p, end);
            if (p == end)
                continue;
            switch (*p) {
            case '<':
                self->state = LESS;
                break;
            case '&':
                TRY(reference_begins(self));
                break;
            case ']':
                self->state = BRACKET;
                break;
            default:
                if (*p >= 0x80)
                    TRY(multibyte_begins(self, *p));
                else if (!IS(*p, SPACE_BYTE))
                    TRY(malformed(self, "a character that XML does not allow"));
            }
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
                TRY(start_tag_begins(self));
                const byte *name_end, *after = c < 0x80 ? whole_start_tag(p, end, &name_end) : NULL;
                if (after != NULL) {
                    TRY(open_name(self, p, (size_t)(name_end - p)));
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
            while (p < end && *p != ']' && *p < 0x80 && (*p >= 0x20 || IS(*p, SPACE_BYTE)))
                p++;
            if (p == end || p != from)
                continue;
            if (c == ']')
                self->state = CDATA_BRACKET;
            else if (c >= 0x80)
                TRY(multibyte_begins(self, c));
            else
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
            TRY(push_name(self, self->name_around));
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
                self->state = VALUE;
            } else if (!IS(c, SPACE_BYTE))
                TRY(malformed(self, "expected a quoted value"));
            continue;

        case VALUE:
            p = skip_value(p, end, self->quote);
            if (p == end)
                continue;
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

/* Behind a chunk: does what is unfinished exceed the limit? */
static int settle(Scanner *self)
{
    if (self->state != OVER && self->max_element >= 0 && self->position - self->boundary > (offset)self->max_element)
        return too_long(self);
    return 0;
}

/* Feed `buffer`; how many bytes were read, -1 with an exception set. */
static Py_ssize_t feed(Scanner *self, PyObject *data, int stepping)
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0)
        return -1;
    if (self->state == OVER)
        return size;
    self->data = (const byte *)bytes;
    self->end = self->data + size;
    self->stop = 0;
    self->stepping = (byte)stepping;
    begin_watching(self);
    const byte *p = run(self, self->data);
    if (p == NULL)
        return -1;
    self->end = p;
    keep_tail(self);
    self->position += (offset)(p - self->data);
    if (self->watched_at != NEVER && self->watched_at >= self->position)
        self->watched_at = NEVER; /* not read yet: it will be found again */
    return settle(self) < 0 ? -1 : (Py_ssize_t)(p - self->data);
}

/* --- to Python */

static PyObject *scan(PyObject *object, PyObject *data)
{
    Scanner *self = (Scanner *)object;
    offset base = self->position;
    if (feed(self, data, 0) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(self->boundary > base ? self->boundary - base : 0);
}

static PyObject *step(PyObject *object, PyObject *data)
{
    Py_ssize_t used = feed((Scanner *)object, data, 1);
    return used < 0 ? NULL : PyLong_FromSsize_t(used);
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

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"tag", "offset", "max_element_bytes", "max_depth", NULL};
    const char *tag;
    Py_ssize_t tag_size;
    unsigned long long at;
    PyObject *limit;
    int max_depth;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y#KOi", names, &tag, &tag_size, &at, &limit, &max_depth))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Scanner *self = (Scanner *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->position = self->boundary = at;
    self->watched_at = NEVER;
    self->depth = 1;
    self->max_depth = max_depth;
    self->state = CONTENT;
    self->notes = PyList_New(0);
    if (self->notes == NULL || set_limit((PyObject *)self, limit, NULL) < 0 ||
        append(&self->names, &self->names_size, &self->names_room, (const byte *)tag, (size_t)tag_size) < 0 ||
        push_name(self, 0) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void drop(PyObject *object)
{
    Scanner *self = (Scanner *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyMem_Free(self->names);
    PyMem_Free(self->attributes);
    Py_XDECREF(self->notes);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_O, "scan($self, data, /)\n--\n\nSee cxfr_proxy.xmpp.framing.Framer.scan."},
    {"step", step, METH_O, "step($self, data, /)\n--\n\nSee cxfr_proxy.xmpp.framing.Framer.step."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"every", T_BOOL, offsetof(Scanner, every), 0, "Note each top-level element while scanning."},
    {"notes", T_OBJECT_EX, offsetof(Scanner, notes), 0, "What wants a look, in order; the caller replaces or clears it."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"max_element_bytes", get_limit, set_limit, "The longest element; None: no limit.", NULL},
    {"boundary", get_boundary, NULL, "Offset of the last boundary, from the stream's first byte.", NULL},
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

/* Not a type for the cyclic collector: its list holds notes only, which hold nothing that leads back. */
static PyType_Spec spec = {"cxfr_proxy.xmpp._scan.Scanner", sizeof(Scanner), 0, Py_TPFLAGS_DEFAULT, slots};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_scan", "The native framing engine.", -1, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__scan(void)
{
    fill_classes();
    PyObject *notes = PyImport_ImportModule("cxfr_proxy.xmpp.notes");
    if (notes == NULL)
        return NULL;
    element_type = PyObject_GetAttrString(notes, "Element");
    stream_end_type = PyObject_GetAttrString(notes, "StreamEnd");
    failure_type = PyObject_GetAttrString(notes, "Failure");
    Py_DECREF(notes);
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = PyType_FromSpec(&spec);
    if (element_type == NULL || stream_end_type == NULL || failure_type == NULL || module == NULL || type == NULL ||
        PyModule_AddObjectRef(module, "Scanner", type) < 0 ||
        PyModule_AddIntConstant(module, "MAX_ATTRIBUTES", MAX_ATTRIBUTES) < 0) {
        Py_XDECREF(module);
        Py_XDECREF(type);
        return NULL;
    }
    Py_DECREF(type);
    return module;
}
