/* WebSocket's hot path: whole messages from a client, and whole elements to it.

   What comes in is nearly always one element in one message in one frame, and what goes out is nearly always whole
   elements. These two cases are here, as loops that stop in front of everything else: `take` in front of a frame that is
   not the whole of a plain message, `put` in front of what is no plain element. Python goes on from there, by the same
   rules, in reader.py, messages.py and writer.py, which can do without this file.

   Both keep no state. All of it is in the framer, which is a native one, and in the objects that call them.

   There are two callers. Python calls `take` and `put` of the module for bytes that it has at hand. The switchboard
   (relay/_turn.c) calls them by way of NativeFrames, which is what a transport is besides, and gives them its own buffers
   (_frames.h): so frames are taken off and put on between two calls of the kernel, and nothing of Python runs.

   Elements are read by the native framer (_scan.h), which wants a NUL behind what it reads. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define _GNU_SOURCE /* memmem */
#include <Python.h>
#include <structmember.h>

#include "../framing/_scan.h"
#include "_frames.h"
#include "_text.h"

static const scanner_api *scanners;

/* --- what is put together for Python, until it becomes a bytes object

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

static void let_go(void)
{
    if (scratch_room > USUAL_SCRATCH) { /* a giant has passed: nobody else needs that much */
        PyMem_Free(scratch);
        scratch = NULL;
        scratch_room = 0;
    }
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

/* What frames come to. */
typedef struct {
    size_t ready; /* bytes of elements */
    size_t at;    /* behind their frames, and that of the wrong message */
    int is_wrong; /* a message lies behind the elements that was read, and is none; */
    size_t length; /* its size, */
    Py_ssize_t used; /* how much of it was read, */
    int ended;       /* and whether an element has ended there */
} taken;

/* Take the frames from `at` on off, as far as they are plain messages. `to`: room for as many bytes as there are, and a
   NUL. -1 with an exception set. */
static int take_plain(PyObject *scanner, const byte *data, size_t size, size_t at, long long limit, byte *to, taken *it)
{
    const byte *p = data + at, *const end = data + size, *payload;
    *it = (taken){.at = at};
    while (plain_frame(p, end, limit, &payload, &it->length)) {
        byte *message = to + it->ready, *behind = message + it->length;
        unmask_into(message, payload, it->length, payload - 4);
        *behind = 0;
        if (it->length == 0 || message[0] != '<' || is_of_stream(message + 1, behind) || !is_utf8(message, behind))
            break;
        it->used = scanners->element(scanner, (const char *)message, (Py_ssize_t)it->length, &it->ended);
        if (it->used < 0)
            return -1;
        p = payload + it->length;
        it->at = (size_t)(p - data);
        /* It was read, and can't be read again: so what is wrong with it is told by whoever has called. */
        it->is_wrong = !it->ended || behind_space(message + it->used, behind) != behind;
        if (it->is_wrong)
            break;
        it->ready += it->length;
    }
    return 0;
}

/* The wrong message's text; None where there is none. A new reference. */
static PyObject *wrong_text(const byte *to, const taken *it)
{
    if (!it->is_wrong)
        return Py_NewRef(Py_None);
    return PyBytes_FromStringAndSize((const char *)to + it->ready, (Py_ssize_t)it->length);
}

static PyObject *take(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *scanner, *answer = NULL, *wrong;
    Py_buffer data;
    Py_ssize_t at;
    long long limit;
    taken it;
    if (!PyArg_ParseTuple(args, "O!y*nL", scanners->type, &scanner, &data, &at, &limit))
        return NULL;
    if (at < 0 || at > data.len)
        PyErr_SetString(PyExc_ValueError, "expected an offset in the data");
    else if (reserve((size_t)(data.len - at) + 1) == 0 &&
             take_plain(scanner, data.buf, (size_t)data.len, (size_t)at, limit, scratch, &it) == 0 &&
             (wrong = wrong_text(scratch, &it)) != NULL)
        answer = Py_BuildValue("y#nNni", scratch, (Py_ssize_t)it.ready, (Py_ssize_t)it.at, wrong,
                               it.is_wrong ? it.used : 0, it.is_wrong && it.ended);
    PyBuffer_Release(&data);
    let_go();
    return answer;
}

/* --- out */

/* What a stream's header says for its elements, as attributes: the default namespace, the prefixes, the language. Each is
   known by its place in `said`. */
enum { MAX_PREFIXES = 16, DEFAULT = 0 };
typedef struct {
    const char *text;
    size_t size;
} words;
typedef struct {
    int prefixes, language; /* how many, and the last one's place */
    words prefix[MAX_PREFIXES];
    words said[MAX_PREFIXES + 2];
    size_t most; /* what an element can become longer by */
} context;

static int read_words(PyObject *bytes, words *it)
{
    char *text;
    Py_ssize_t size;
    if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &text, &size) < 0)
        return -1;
    *it = (words){text, (size_t)size};
    return 0;
}

/* Read a StreamContext, which has to stay as long as what was read. -1 with an exception set. */
static int read_context(PyObject *tuple, context *it)
{
    PyObject *pairs = PyTuple_GetItem(tuple, 1);
    Py_ssize_t count = pairs == NULL ? -1 : PyTuple_Size(pairs);
    if (count > MAX_PREFIXES) /* no header that declares so many is read */
        PyErr_SetString(PyExc_ValueError, "too many prefixes");
    if (count < 0 || count > MAX_PREFIXES)
        return -1;
    it->prefixes = (int)count;
    it->language = it->prefixes + 1;
    if (read_words(PyTuple_GetItem(tuple, 0), &it->said[DEFAULT]) < 0 ||
        read_words(PyTuple_GetItem(tuple, 2), &it->said[it->language]) < 0)
        return -1;
    for (int i = 0; i < it->prefixes; i++) {
        PyObject *pair = PyTuple_GetItem(pairs, i);
        if (pair == NULL || read_words(PyTuple_GetItem(pair, 0), &it->prefix[i]) < 0 ||
            read_words(PyTuple_GetItem(pair, 1), &it->said[i + 1]) < 0)
            return -1;
    }
    it->most = 10; /* a frame's head */
    for (int i = 0; i <= it->language; i++)
        it->most += it->said[i].size;
    return 0;
}

/* Which of the context's attributes a start tag has, a bit for each. It is well-formed: it was read. */
static unsigned said_by(const byte *p, const byte *end, const context *in)
{
    unsigned said = 0;
    for (;;) {
        p = behind_space(p, end);
        if (p == end || *p == '>' || *p == '/')
            return said;
        const byte *name = p;
        while (p < end && !is_space(*p) && *p != '=')
            p++;
        size_t size = (size_t)(p - name);
        if (is_word(name, size, "xmlns"))
            said |= 1u << DEFAULT;
        else if (is_word(name, size, "xml:lang"))
            said |= 1u << in->language;
        else if (size > 6 && !memcmp(name, "xmlns:", 6))
            for (int i = 0; i < in->prefixes; i++)
                if (size - 6 == in->prefix[i].size - 1 && !memcmp(name + 6, in->prefix[i].text, size - 6))
                    said |= 2u << i;
        while (p < end && *p != '"' && *p != '\'')
            p++;
        if (p == end)
            return said;
        const byte *close = memchr(p + 1, *p, (size_t)(end - p - 1));
        if (close == NULL)
            return said;
        p = close + 1;
    }
}

/* An element: where it and its name begin and end, and what it leaves unsaid. */
typedef struct {
    const byte *begin, *name_end, *end;
    unsigned unsaid;
    size_t unsaid_size;
} element;

static void find_unsaid(element *it, const context *in)
{
    const unsigned said = said_by(it->name_end, it->end, in);
    const size_t size = (size_t)(it->end - it->begin), name_size = (size_t)(it->name_end - it->begin) - 1;
    it->unsaid = ~said & 1u << DEFAULT;
    for (int i = 0; i < in->prefixes; i++)
        if (!(said & 2u << i) && memmem(it->begin, size, in->prefix[i].text, in->prefix[i].size))
            it->unsaid |= 2u << i;
    if (in->said[in->language].size && is_stanza(it->begin + 1, name_size))
        it->unsaid |= ~said & 1u << in->language;
    it->unsaid_size = 0;
    for (int i = 0; i <= in->language; i++)
        if (it->unsaid >> i & 1)
            it->unsaid_size += in->said[i].size;
}

static size_t head_size(size_t size) { return size < 126 ? 2 : size < 65536 ? 4 : 10; }

static byte *put_head(byte *to, size_t size)
{
    int count = (int)head_size(size) - 2;
    *to++ = 0x81;
    *to++ = count == 0 ? (byte)size : count == 2 ? 126 : 127;
    while (count-- > 0)
        *to++ = (byte)((uint64_t)size >> 8 * count);
    return to;
}

/* Move a part to the left, or leave it where it is. */
static byte *put_part(byte *to, const byte *from, const byte *end)
{
    if (to != from)
        memmove(to, from, (size_t)(end - from));
    return to + (end - from);
}

/* `to` lies so far in front of the element that this ends where it does, or before it: so nothing is overwritten that is
   still to be moved. */
static byte *put_element(byte *to, const element *it, const context *in)
{
    to = put_head(to, (size_t)(it->end - it->begin) + it->unsaid_size);
    to = put_part(to, it->begin, it->name_end);
    for (int i = 0; i <= in->language; i++)
        if (it->unsaid >> i & 1) {
            memcpy(to, in->said[i].text, in->said[i].size);
            to += in->said[i].size;
        }
    return put_part(to, it->name_end, it->end);
}

/* The most elements that are put into frames at once. */
enum { MAX_ELEMENTS = 64 };

/* See put_elements in _frames.h. All elements are read first; then each is moved to the left by what it and those behind it
   become longer by. So what is behind the last one's name stays where it is, which is nearly all of a single one. */
static int put_plain(PyObject *scanner, byte *bytes, size_t size, size_t room, const context *in, put_elements *made)
{
    element elements[MAX_ELEMENTS];
    byte *const first = bytes + made->at, *const end = bytes + size;
    const byte *p = first;
    size_t count = 0, longer = 0;
    room += (size_t)made->at;
    *made = (put_elements){.frames = (const char *)first, .at = made->at};
    for (; (p = behind_space(p, end)) < end && count < MAX_ELEMENTS; count++) {
        element *it = &elements[count];
        int ended = 0;
        made->stopped = (count + 1) * in->most > room || end - p < 2 || *p != '<' || p[1] == '/' || p[1] == '?' || p[1] == '!';
        if (made->stopped)
            break;
        it->begin = p;
        it->name_end = name_end(p + 1, end);
        made->stopped = it->name_end == end || is_stream(p + 1, (size_t)(it->name_end - p - 1));
        if (made->stopped)
            break;
        Py_ssize_t used = scanners->element(scanner, (const char *)p, end - p, &ended);
        if (used < 0)
            return -1;
        made->stopped = !ended;
        if (made->stopped) {
            made->begun = used;
            break;
        }
        it->end = p += used;
        find_unsaid(it, in);
        longer += it->unsaid_size + head_size((size_t)used + it->unsaid_size);
    }
    made->at = p - bytes;
    if (count == 0)
        return 0;
    byte *const frames = bytes + (elements[0].begin - bytes) - longer;
    byte *to = frames;
    for (size_t i = 0; i < count; i++)
        to = put_element(to, &elements[i], in);
    made->frames = (const char *)frames;
    made->size = to - frames;
    return 0;
}

static PyObject *put(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *scanner, *said;
    const char *data;
    Py_ssize_t size, at;
    context in;
    put_elements made = {.at = 0};
    if (!PyArg_ParseTuple(args, "O!y#nO!", scanners->type, &scanner, &data, &size, &at, &PyTuple_Type, &said))
        return NULL;
    if (read_context(said, &in) < 0)
        return NULL;
    if (at < 0 || at > size) {
        PyErr_SetString(PyExc_ValueError, "expected an offset in the data");
        return NULL;
    }
    const size_t room = MAX_ELEMENTS * in.most;
    if (reserve(room + (size_t)(size - at) + 1) < 0)
        return NULL;
    memcpy(scratch + room, data + at, (size_t)(size - at) + 1); /* with the NUL */
    if (put_plain(scanner, scratch + room, (size_t)(size - at), room, &in, &made) < 0)
        return NULL;
    PyObject *answer = Py_BuildValue("y#nn", made.frames, made.size, at + made.at, made.begun);
    let_go();
    return answer;
}

/* --- what a transport is to the switchboard */

/* What may be done without the transport's Python code; it says so anew whenever that has run. No references lead back from
   here, so the collector is not needed. */
typedef struct {
    PyObject_HEAD
    PyObject *reader; /* a scanner, which stands between two messages; NULL: Python has to read */
    PyObject *writer; /* a scanner, which stands between two elements; NULL: Python has to write */
    PyObject *said;   /* of the stream that is written, a StreamContext */
    long long limit;  /* bytes of a message that is read; -1: none */
    char heard;       /* something was taken since it was set to 0 */
} NativeFrames;

static void put_in_place(PyObject **place, PyObject *new)
{
    PyObject *old = *place;
    *place = Py_XNewRef(new == Py_None ? NULL : new);
    Py_XDECREF(old);
}

static PyObject *let_read(PyObject *object, PyObject *args)
{
    NativeFrames *self = (NativeFrames *)object;
    PyObject *scanner;
    long long limit;
    if (!PyArg_ParseTuple(args, "OL", &scanner, &limit))
        return NULL;
    if (scanner != Py_None && !PyObject_TypeCheck(scanner, scanners->type)) {
        PyErr_SetString(PyExc_TypeError, "expected a native framer, or None");
        return NULL;
    }
    put_in_place(&self->reader, scanner);
    self->limit = limit;
    Py_RETURN_NONE;
}

static PyObject *let_write(PyObject *object, PyObject *args)
{
    NativeFrames *self = (NativeFrames *)object;
    PyObject *scanner, *said;
    if (!PyArg_ParseTuple(args, "OO", &scanner, &said))
        return NULL;
    if (scanner != Py_None && !(PyObject_TypeCheck(scanner, scanners->type) && PyTuple_Check(said))) {
        PyErr_SetString(PyExc_TypeError, "expected a native framer and a context, or None");
        return NULL;
    }
    put_in_place(&self->writer, scanner);
    put_in_place(&self->said, said);
    Py_RETURN_NONE;
}

static int may_take(PyObject *transport) { return ((NativeFrames *)transport)->reader != NULL; }

static Py_ssize_t take_frames(PyObject *transport, const char *data, Py_ssize_t size, char *to)
{
    NativeFrames *self = (NativeFrames *)transport;
    taken it;
    if (take_plain(self->reader, (const byte *)data, (size_t)size, 0, self->limit, (byte *)to, &it) < 0)
        return -1;
    self->heard = 1;
    if (it.at == (size_t)size && !it.is_wrong)
        return (Py_ssize_t)it.ready;
    PyObject *wrong = wrong_text((const byte *)to, &it);
    PyObject *answer = wrong == NULL ? NULL
                                     : PyObject_CallMethod(transport, "take_on", "y#y#Nni", to, (Py_ssize_t)it.ready,
                                                           data + it.at, size - (Py_ssize_t)it.at, wrong, it.used, it.ended);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

static int put_frames(PyObject *transport, char *bytes, Py_ssize_t size, Py_ssize_t room, put_elements *made)
{
    NativeFrames *self = (NativeFrames *)transport;
    context in;
    if (self->writer == NULL) {
        *made = (put_elements){.frames = bytes, .at = made->at, .stopped = 1};
        return 0;
    }
    if (read_context(self->said, &in) < 0)
        return -1;
    return put_plain(self->writer, (byte *)bytes, (size_t)size, (size_t)room, &in, made);
}

static PyObject *put_on(PyObject *transport, const char *bytes, Py_ssize_t size, const put_elements *made)
{
    return PyObject_CallMethod(transport, "put_on", "y#y#nn", made->frames, made->size, bytes, size, made->at, made->begun);
}

static void drop(PyObject *object)
{
    NativeFrames *self = (NativeFrames *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->reader);
    Py_XDECREF(self->writer);
    Py_XDECREF(self->said);
    freefunc give_back = (freefunc)PyType_GetSlot(type, Py_tp_free);
    give_back(object);
    Py_DECREF(type);
}

static PyMethodDef frames_methods[] = {
    {"let_read", let_read, METH_VARARGS,
     "let_read($self, scanner, limit, /)\n--\n\n"
     "Let messages of at most `limit` bytes (-1: any) be read without a call of Python; None: no more."},
    {"let_write", let_write, METH_VARARGS,
     "let_write($self, scanner, context, /)\n--\n\nLet elements be written without a call of Python; None: no more."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef frames_members[] = {
    {"heard", T_BOOL, offsetof(NativeFrames, heard), 0, "Something was read without a call of Python since this was set to False."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "What of a WebSocket transport the switchboard does by itself. See hot_path.py."},
    {Py_tp_dealloc, drop},
    {Py_tp_methods, frames_methods},
    {Py_tp_members, frames_members},
    {0, NULL},
};

static PyType_Spec spec = {"cxfr_proxy.xmpp.websocket._frames.NativeFrames", sizeof(NativeFrames), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};

static frames_api api = {NULL, may_take, take_frames, put_frames, put_on};

/* --- to Python */

static PyMethodDef methods[] = {
    {"take", take, METH_VARARGS,
     "take($module, scanner, data, at, limit, /)\n--\n\n"
     "Read whole messages, of at most `limit` bytes (-1: any), as far as they are plain elements. Answers what they come\n"
     "to and the offset behind them; and of the last one, if it was read and is none: its text, how much of it was\n"
     "read, and whether an element has ended there."},
    {"put", put, METH_VARARGS,
     "put($module, scanner, data, at, context, /)\n--\n\n"
     "Put whole elements into frames. Answers the frames, the offset behind what is in them, and how many bytes behind\n"
     "that were read of an element that is not whole, or is none."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_frames", "WebSocket's hot path.", -1, methods, NULL, NULL, NULL, NULL,
};

static int add_type(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec), *capsule;
    if (type == NULL)
        return -1;
    api.type = (PyTypeObject *)type; /* the reference stays: the table is static */
    if (PyModule_AddObjectRef(module, "NativeFrames", type) < 0)
        return -1;
    capsule = PyCapsule_New(&api, FRAMES_API, NULL);
    int failed = capsule == NULL || PyModule_AddObjectRef(module, "api", capsule) < 0;
    Py_XDECREF(capsule);
    return failed ? -1 : 0;
}

PyMODINIT_FUNC PyInit__frames(void)
{
    PyObject *scan = PyImport_ImportModule("cxfr_proxy.xmpp.framing._scan");
    PyObject *capsule = scan == NULL ? NULL : PyObject_GetAttrString(scan, "api");
    scanners = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, SCANNER_API);
    Py_XDECREF(capsule); /* what it points to stays */
    Py_XDECREF(scan);
    if (scanners == NULL)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && add_type(module) < 0)
        Py_CLEAR(module);
    return module;
}
