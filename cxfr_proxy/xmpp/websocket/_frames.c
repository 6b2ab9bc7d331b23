/* WebSocket's hot path: whole messages from a client, and whole elements to it.

   What comes in is nearly always one element in one message in one frame, and what goes out is nearly always whole
   elements. These two cases are here, as loops that stop in front of everything else: `take` in front of a frame that is
   not the whole of a plain message, `put` in front of what is no plain element. Python goes on from there, by the same
   rules, in reader.py, messages.py and writer.py, which can do without this file.

   Both keep no state. All of it is in the framer, which is a native one, and in the objects that call them.

   Elements are read by the native framer (_scan.h), which wants a NUL behind what it reads: there is one behind a bytes
   object, and in the scratch buffer one is put behind each message for as long as it is read. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define _GNU_SOURCE /* memmem */
#include <Python.h>

#include <stdint.h>
#include <string.h>

#include "../framing/_scan.h"

typedef unsigned char byte;

static const scanner_api *scanners;

/* --- what is put together, until it becomes a bytes object

   One buffer for all, under the GIL: nothing that fills it runs Python code. It stays as long as a chunk usually is. */

enum { USUAL_SCRATCH = 1 << 17 };
static byte *scratch;
static size_t scratch_room;

static int reserve(size_t size)
{
    if (size <= scratch_room)
        return 0;
    size_t room = size < USUAL_SCRATCH ? USUAL_SCRATCH : size;
    byte *grown = PyMem_Realloc(scratch, room);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    scratch = grown;
    scratch_room = room;
    return 0;
}

static PyObject *scratch_bytes(size_t size)
{
    PyObject *made = PyBytes_FromStringAndSize((const char *)scratch, (Py_ssize_t)size);
    if (scratch_room > USUAL_SCRATCH) { /* a giant has passed: nobody else needs that much */
        PyMem_Free(scratch);
        scratch = NULL;
        scratch_room = 0;
    }
    return made;
}

/* --- masks and UTF-8 */

/* Eight bytes at a time, which the compiler makes more. */
static void unmask_into(byte *to, const byte *from, size_t size, const byte *mask)
{
    uint64_t wide;
    memcpy(&wide, mask, 4);
    memcpy((byte *)&wide + 4, mask, 4);
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word;
        memcpy(&word, from + at, 8);
        word ^= wide;
        memcpy(to + at, &word, 8);
    }
    for (; at < size; at++)
        to[at] = from[at] ^ mask[at % 4];
}

static int is_continuation(byte c) { return (c & 0xC0) == 0x80; }

/* Whether all of it is UTF-8 (RFC 3629), and ends with a whole character. */
static int is_utf8(const byte *p, const byte *end)
{
    while (p < end) {
        uint64_t word;
        while (end - p >= 8) {
            memcpy(&word, p, 8);
            if (word & UINT64_C(0x8080808080808080))
                break;
            p += 8;
        }
        if (p == end)
            return 1;
        byte c = *p++;
        if (c < 0x80)
            continue;
        byte low = 0x80, high = 0xBF; /* of the second byte */
        int more;
        if (c >= 0xC2 && c <= 0xDF)
            more = 1;
        else if (c >= 0xE0 && c <= 0xEF) {
            more = 2;
            low = c == 0xE0 ? 0xA0 : low; /* no shorter form */
            high = c == 0xED ? 0x9F : high; /* no surrogate */
        } else if (c >= 0xF0 && c <= 0xF4) {
            more = 3;
            low = c == 0xF0 ? 0x90 : low;
            high = c == 0xF4 ? 0x8F : high; /* nothing beyond U+10FFFF */
        } else
            return 0;
        if (end - p < more || *p < low || *p > high)
            return 0;
        for (p++; --more > 0; p++)
            if (!is_continuation(*p))
                return 0;
    }
    return 1;
}

static int is_space(byte c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static int is_blank(const byte *p, const byte *end)
{
    while (p < end && is_space(*p))
        p++;
    return p == end;
}

/* --- names */

static int is_delimiter(byte c) { return is_space(c) || c == '/' || c == '>'; }

static const byte *name_end(const byte *p, const byte *end)
{
    while (p < end && !is_delimiter(*p))
        p++;
    return p;
}

static int is_word(const byte *p, size_t size, const char *word) { return size == strlen(word) && !memcmp(p, word, size); }

/* Whether an element of that name may be a stream. */
static int is_stream(const byte *name, size_t size)
{
    return size >= 6 && !memcmp(name + size - 6, "stream", 6) && (size == 6 || name[size - 7] == ':');
}

/* Whether a message may be about the stream itself. */
static int is_of_stream(const byte *name, const byte *end)
{
    size_t size = (size_t)(name_end(name, end) - name);
    return is_word(name, size, "open") || is_word(name, size, "close") || is_stream(name, size);
}

/* --- in */

/* One frame that is a whole message of text: where its payload begins, and its size; 0: it is something else, or not all
   of it is there. */
static int plain_frame(const byte *p, const byte *end, long long limit, const byte **payload, size_t *size)
{
    if (end - p < 6 || p[0] != 0x81 || !(p[1] & 0x80))
        return 0;
    uint64_t length = p[1] & 0x7F;
    size_t head = 6;
    if (length == 126) {
        head = 8;
        length = (uint64_t)p[2] << 8 | p[3];
        if (end - p < (Py_ssize_t)head || length < 126)
            return 0;
    } else if (length == 127) {
        head = 14;
        if (end - p < (Py_ssize_t)head)
            return 0;
        length = 0;
        for (int i = 2; i < 10; i++)
            length = length << 8 | p[i];
        if (length < 65536)
            return 0;
    }
    if (length > (uint64_t)(end - p) - head || (limit >= 0 && length > (uint64_t)limit))
        return 0;
    *payload = p + head;
    *size = (size_t)length;
    return 1;
}

/* What `take` answers for these bytes. */
static PyObject *take_from(PyObject *scanner, const byte *data, size_t size, size_t at, long long limit)
{
    if (reserve(size - at + 1) < 0)
        return NULL;
    const byte *p = data + at, *const end = data + size, *payload;
    size_t ready = 0, length;
    while (plain_frame(p, end, limit, &payload, &length)) {
        byte *message = scratch + ready;
        unmask_into(message, payload, length, payload - 4);
        message[length] = 0;
        if (length == 0 || message[0] != '<' || is_of_stream(message + 1, message + length) ||
            !is_utf8(message, message + length))
            break;
        int ended;
        Py_ssize_t used = scanners->element(scanner, (const char *)message, (Py_ssize_t)length, &ended);
        if (used < 0)
            return NULL;
        p = payload + length;
        if (!ended || !is_blank(message + used, message + length)) {
            /* It was read, and can't be read again: so what is wrong with it is told by whoever has called. */
            PyObject *wrong = PyBytes_FromStringAndSize((const char *)message, (Py_ssize_t)length);
            PyObject *before = wrong != NULL ? scratch_bytes(ready) : NULL;
            if (before == NULL) {
                Py_XDECREF(wrong);
                return NULL;
            }
            return Py_BuildValue("NnNni", before, (Py_ssize_t)(p - data), wrong, used, ended);
        }
        ready += length;
    }
    return Py_BuildValue("NnOni", scratch_bytes(ready), (Py_ssize_t)(p - data), Py_None, (Py_ssize_t)0, 0);
}

static PyObject *take(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *scanner, *answer = NULL;
    Py_buffer data;
    Py_ssize_t at;
    long long limit;
    if (!PyArg_ParseTuple(args, "O!y*nL", scanners->type, &scanner, &data, &at, &limit))
        return NULL;
    if (at < 0 || at > data.len)
        PyErr_SetString(PyExc_ValueError, "expected an offset in the data");
    else
        answer = take_from(scanner, data.buf, (size_t)data.len, (size_t)at, limit);
    PyBuffer_Release(&data);
    return answer;
}

static PyObject *unmask(PyObject *module, PyObject *args)
{
    (void)module;
    const char *data, *mask;
    Py_ssize_t size, mask_size;
    if (!PyArg_ParseTuple(args, "y#y#", &data, &size, &mask, &mask_size))
        return NULL;
    if (mask_size != 4) {
        PyErr_SetString(PyExc_ValueError, "expected a mask of four bytes");
        return NULL;
    }
    if (reserve((size_t)size) < 0)
        return NULL;
    unmask_into(scratch, (const byte *)data, (size_t)size, (const byte *)mask);
    return scratch_bytes((size_t)size);
}

/* --- out */

/* What a stream's header says for its elements, as attributes. */
enum { MAX_PREFIXES = 16 };
typedef struct {
    const char *text;
    Py_ssize_t size;
} words;
typedef struct {
    words standard, language;
    int count;
    words prefixes[MAX_PREFIXES], declarations[MAX_PREFIXES];
} context;

static int read_context(PyObject *standard, PyObject *prefixes, PyObject *language, context *it)
{
    Py_ssize_t count = PyTuple_Size(prefixes);
    if (count < 0)
        return -1;
    if (count > MAX_PREFIXES) {
        PyErr_SetString(PyExc_ValueError, "too many prefixes");
        return -1;
    }
    if (PyBytes_AsStringAndSize(standard, (char **)&it->standard.text, &it->standard.size) < 0 ||
        PyBytes_AsStringAndSize(language, (char **)&it->language.text, &it->language.size) < 0)
        return -1;
    it->count = (int)count;
    for (int i = 0; i < it->count; i++) {
        PyObject *pair = PyTuple_GetItem(prefixes, i);
        PyObject *prefix = pair == NULL ? NULL : PyTuple_GetItem(pair, 0);
        PyObject *declaration = prefix == NULL ? NULL : PyTuple_GetItem(pair, 1);
        if (declaration == NULL ||
            PyBytes_AsStringAndSize(prefix, (char **)&it->prefixes[i].text, &it->prefixes[i].size) < 0 ||
            PyBytes_AsStringAndSize(declaration, (char **)&it->declarations[i].text, &it->declarations[i].size) < 0)
            return -1;
    }
    return 0;
}

static int is_stanza(const byte *name, size_t size)
{
    return is_word(name, size, "message") || is_word(name, size, "presence") || is_word(name, size, "iq");
}

/* What a start tag says: which of the attributes that matter it has. It is well-formed: it was read. */
typedef struct {
    int standard, language;
    unsigned prefixes; /* a bit for each */
} said;

static said read_tag(const byte *p, const byte *end, const context *in)
{
    said what = {0, 0, 0};
    for (;;) {
        while (p < end && is_space(*p))
            p++;
        if (p == end || *p == '>' || *p == '/')
            return what;
        const byte *name = p;
        while (p < end && !is_space(*p) && *p != '=')
            p++;
        size_t size = (size_t)(p - name);
        if (is_word(name, size, "xmlns"))
            what.standard = 1;
        else if (is_word(name, size, "xml:lang"))
            what.language = 1;
        else if (size > 6 && !memcmp(name, "xmlns:", 6))
            for (int i = 0; i < in->count; i++)
                if (size - 6 == (size_t)in->prefixes[i].size - 1 && !memcmp(name + 6, in->prefixes[i].text, size - 6))
                    what.prefixes |= 1u << i;
        while (p < end && *p != '"' && *p != '\'')
            p++;
        if (p == end)
            return what;
        const byte *close = memchr(p + 1, *p, (size_t)(end - p - 1));
        if (close == NULL)
            return what;
        p = close + 1;
    }
}

static byte *append(byte *to, const void *bytes, size_t size)
{
    memcpy(to, bytes, size);
    return to + size;
}

static byte *append_head(byte *to, size_t size)
{
    *to++ = 0x81;
    if (size < 126) {
        *to++ = (byte)size;
        return to;
    }
    int count = size < 65536 ? 2 : 8;
    *to++ = count == 2 ? 126 : 127;
    while (count-- > 0)
        *to++ = (byte)((uint64_t)size >> 8 * count);
    return to;
}

/* An element as a message, at the end of `ready` bytes: how many there are then, 0 with an exception set. */
static size_t put_element(size_t ready, const byte *element, const byte *end, const byte *tag, const context *in)
{
    const size_t size = (size_t)(end - element), name_size = (size_t)(tag - element - 1);
    const said what = read_tag(tag, end, in);
    const words *unsaid[MAX_PREFIXES + 2];
    size_t count = 0, more = 0;
    if (!what.standard)
        unsaid[count++] = &in->standard;
    for (int i = 0; i < in->count; i++)
        if (!(what.prefixes >> i & 1) && memmem(element, size, in->prefixes[i].text, (size_t)in->prefixes[i].size))
            unsaid[count++] = &in->declarations[i];
    if (!what.language && in->language.size && is_stanza(element + 1, name_size))
        unsaid[count++] = &in->language;
    for (size_t i = 0; i < count; i++)
        more += (size_t)unsaid[i]->size;
    if (reserve(ready + 10 + size + more) < 0)
        return 0;
    byte *to = append_head(scratch + ready, size + more);
    to = append(to, element, name_size + 1);
    for (size_t i = 0; i < count; i++)
        to = append(to, unsaid[i]->text, (size_t)unsaid[i]->size);
    to = append(to, tag, size - name_size - 1);
    return (size_t)(to - scratch);
}

static PyObject *put(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *scanner, *standard, *prefixes, *language;
    const char *data;
    Py_ssize_t size, at;
    context in;
    if (!PyArg_ParseTuple(args, "O!y#nSO!S", scanners->type, &scanner, &data, &size, &at, &standard, &PyTuple_Type,
                          &prefixes, &language) ||
        read_context(standard, prefixes, language, &in) < 0)
        return NULL;
    if (at < 0 || at > size) {
        PyErr_SetString(PyExc_ValueError, "expected an offset in the data");
        return NULL;
    }
    if (reserve((size_t)(size - at) + 128) < 0)
        return NULL;
    const byte *p = (const byte *)data + at, *const end = (const byte *)data + size;
    size_t ready = 0;
    Py_ssize_t begun = 0; /* bytes of an element that is not whole */
    for (;;) {
        while (p < end && is_space(*p))
            p++;
        if (end - p < 2 || *p != '<' || p[1] == '/' || p[1] == '?' || p[1] == '!')
            break;
        const byte *tag = name_end(p + 1, end); /* behind its name */
        if (tag == end || is_stream(p + 1, (size_t)(tag - p - 1)))
            break;
        int ended;
        Py_ssize_t used = scanners->element(scanner, (const char *)p, end - p, &ended);
        if (used < 0)
            return NULL;
        if (!ended) {
            begun = used;
            break;
        }
        ready = put_element(ready, p, p + used, tag, &in);
        if (ready == 0)
            return NULL;
        p += used;
    }
    return Py_BuildValue("Nnn", scratch_bytes(ready), (Py_ssize_t)(p - (const byte *)data), begun);
}

/* --- to Python */

static PyMethodDef methods[] = {
    {"take", take, METH_VARARGS,
     "take($module, scanner, data, at, limit, /)\n--\n\n"
     "Read whole messages, of at most `limit` bytes (-1: any), as far as they are plain elements. Answers what they come\n"
     "to and the offset behind them; and of the last one, if it was read and is none: its text, how much of it was\n"
     "read, and whether an element has ended there."},
    {"put", put, METH_VARARGS,
     "put($module, scanner, data, at, default, prefixes, lang, /)\n--\n\n"
     "Put whole elements into frames. Answers the frames, the offset behind what is in them, and how many bytes behind\n"
     "that were read of an element that is not whole, or is none."},
    {"unmask", unmask, METH_VARARGS, "unmask($module, data, mask, /)\n--\n\nTake a mask of four bytes off."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_frames", "WebSocket's hot path.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__frames(void)
{
    PyObject *scan = PyImport_ImportModule("cxfr_proxy.xmpp.framing._scan");
    PyObject *capsule = scan == NULL ? NULL : PyObject_GetAttrString(scan, "api");
    scanners = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, SCANNER_API);
    Py_XDECREF(capsule); /* what it points to stays */
    Py_XDECREF(scan);
    return scanners == NULL ? NULL : PyModule_Create(&definition);
}
