/* The relay loop's hot path: what cxfr_proxy.relay.pump does for a leg on which there is nothing to decide.

   It is a switchboard. For each descriptor it has a line: the descriptor to which the bytes go, and the scanner that
   reads them. The pump connects a leg while its bytes pass without a question, it may be read, and nothing waits to be
   sent to the other leg; otherwise it disconnects the leg. A turn asks epoll what is ready. On each line it receives
   and scans a chunk, sends on what lies before the last boundary (behind what was held of the element that ends first), and
   holds the rest, as Lane.scanned does. Everything that is not as simple goes to the pump:

     ready(fd, events)               it is not connected, or cannot be read now: nothing was received;
     ended(fd)                       it has come to its end, or is broken;
     scanned(fd, chunk, boundary, used)
                                     this was received and scanned, as far as `used`, and holds an event, or no boundary;
     unsent(fd, chunk)               this should go on to the other leg, whose socket does not take it now.

   A WebSocket's line is the same with a step in front and one behind: what was received is taken out of its frames before
   it is scanned, and what is sent is put into frames (_frames.h). Where that is not simple, the transport's own Python code
   has done it when the step returns, and there is nothing to undo.

   So the rules are in pump.py and lane.py. No call on a socket is repeated to find out what it meant: a TLS socket says
   "ended" only once. When one is broken, `broken` is called before any other TLS socket is (tls_errors.py).

   The four callbacks do not raise exceptions for which a session is to blame. An exception of the scanner or of a TLS
   socket ends the turn, and `serving` names the leg. Either way epoll reports again the legs that were not served.

   The callbacks may connect and disconnect any leg, and so may a TLS socket, which runs Python code. So before anything
   is called, what is needed of a line is copied and references to its objects are taken.

   All of it runs in one thread, under the GIL. The calls in here never wait, so only a TLS socket's release the GIL. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "../xmpp/framing/_scan.h"
#include "../xmpp/websocket/_frames.h"

/* Limits of one turn, one read and one TLS record, as in poller.py, live_session.py and transport.py; and how much longer
   the frames of what is sent at once may be, at least, than the elements in them. */
enum { MAX_EVENTS = 256, MAX_BYTES = 65536, RECORD_BYTES = 16384, FRAMES_BYTES = 16384 };

typedef struct {
    PyObject *scanner; /* NULL: not connected */
    PyObject *receive; /* receive(most, buffer) of a TLS leg; NULL: a plain one */
    PyObject *send;    /* send(bytes) of the other leg, the same */
    PyObject *unframe; /* the transport, if it is WebSocket's; NULL: it is none, and what is received is the stream */
    PyObject *frame;   /* the other leg's, the same */
    int to;            /* the other leg's descriptor */
    int most;          /* bytes to read at once */
    int side;          /* whose bytes these are, an index of `received` */
    double heard;      /* when bytes came last; 0.0: not since it was connected */
} line;

typedef struct {
    PyObject_HEAD
    int epoll;
    int serving; /* a descriptor, -1: none */
    int busy;
    int count;
    line *lines;       /* by descriptor */
    unsigned long long received[2]; /* bytes of all lines that there ever were, by side */
    PyObject *memory;  /* a bytearray: room for frames, what was held, a chunk behind it, and frames that came */
    PyObject *buffer;  /* a view of the chunk */
    char *chunk;       /* the bytes in that; there is room for a NUL behind the last */
    PyObject *frames;  /* a view of what came in frames, until it is a chunk */
    char *framed;      /* the bytes in that */
    PyObject *not_now; /* a tuple: what a TLS socket raises that could not read, or write, yet */
    PyObject *broken;  /* called when one has raised any other OSError */
    int next, reported; /* of these: which is served next, and how many there are */
    struct epoll_event events[MAX_EVENTS];
} Switchboard;

/* The arguments of a turn. */
typedef struct {
    double now, seconds; /* the time, and how much of it there is */
    PyObject *ready, *ended, *scanned, *unsent;
} callbacks;

static const scanner_api *scanners;
static const frames_api *websockets;

/* --- lines */

static line *line_of(const Switchboard *self, long fd) { return fd >= 0 && fd < self->count ? &self->lines[fd] : NULL; }

static int make_room(Switchboard *self, int fd)
{
    int count = self->count ? self->count : 64;
    if (fd < self->count)
        return 0;
    while (count <= fd)
        count *= 2;
    line *grown = PyMem_Realloc(self->lines, (size_t)count * sizeof *grown);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(grown + self->count, 0, (size_t)(count - self->count) * sizeof *grown);
    self->lines = grown;
    self->count = count;
    return 0;
}

static void keep(const line *it)
{
    Py_XINCREF(it->scanner);
    Py_XINCREF(it->receive);
    Py_XINCREF(it->send);
    Py_XINCREF(it->unframe);
    Py_XINCREF(it->frame);
}

static void release(const line *it)
{
    Py_XDECREF(it->scanner);
    Py_XDECREF(it->receive);
    Py_XDECREF(it->send);
    Py_XDECREF(it->unframe);
    Py_XDECREF(it->frame);
}

/* What was given for a part of a line: NULL where that is None. */
static PyObject *part(PyObject *given) { return given == Py_None ? NULL : given; }

static int is_websocket(PyObject *given) { return given == NULL || PyObject_TypeCheck(given, websockets->type); }

static PyObject *connect_leg(PyObject *object, PyObject *args)
{
    Switchboard *self = (Switchboard *)object;
    int fd;
    line new = {0};
    if (!PyArg_ParseTuple(args, "iiiO!iOOOO", &fd, &new.to, &new.side, scanners->type, &new.scanner, &new.most,
                          &new.receive, &new.send, &new.unframe, &new.frame))
        return NULL;
    new.receive = part(new.receive);
    new.send = part(new.send);
    new.unframe = part(new.unframe);
    new.frame = part(new.frame);
    if (!is_websocket(new.unframe) || !is_websocket(new.frame)) {
        PyErr_SetString(PyExc_TypeError, "expected WebSocket transports, or None");
        return NULL;
    }
    if (fd < 0 || fd >= 1 << 28 || new.to < 0 || (new.side & ~1) || new.most < 1 || new.most > MAX_BYTES) {
        PyErr_Format(PyExc_ValueError, "expected two descriptors, a side, and 1 to %d bytes", MAX_BYTES);
        return NULL;
    }
    if (make_room(self, fd) < 0)
        return NULL;
    line old = self->lines[fd];
    new.heard = old.heard;
    keep(&new);
    self->lines[fd] = new;
    release(&old);
    Py_RETURN_NONE;
}

static PyObject *disconnect_leg(PyObject *object, PyObject *number)
{
    long fd = PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    line *it = line_of((Switchboard *)object, fd), old = {0};
    if (it != NULL) {
        old = *it;
        memset(it, 0, sizeof *it);
    }
    release(&old);
    return PyFloat_FromDouble(old.heard);
}

static PyObject *heard_leg(PyObject *object, PyObject *number)
{
    long fd = PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    const line *it = line_of((Switchboard *)object, fd);
    return PyFloat_FromDouble(it != NULL ? it->heard : 0.0);
}

static int done(PyObject *answer)
{
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* --- receiving and sending: how many bytes, or one of these */

enum { NOT_NOW = 0, RAISED = -1, GONE = -2 };

/* Interpret the result of recv() or send(). Neither is called for no bytes, so 0 means that the stream has ended. */
static Py_ssize_t moved(ssize_t count)
{
    if (count > 0)
        return count;
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? NOT_NOW : GONE;
}

/* Interpret the result of a TLS socket's method, or a WebSocket transport's, that was called for `most` bytes. Steals the
   reference. */
static Py_ssize_t moved_tls(const Switchboard *self, PyObject *answer, Py_ssize_t most)
{
    if (answer == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return RAISED;
        int later = PyErr_ExceptionMatches(self->not_now);
        PyErr_Clear();
        if (later)
            return NOT_NOW;
        return done(PyObject_CallNoArgs(self->broken)) < 0 ? RAISED : GONE;
    }
    if (answer == Py_None) {
        Py_DECREF(answer);
        return NOT_NOW;
    }
    Py_ssize_t count = PyLong_AsSsize_t(answer);
    Py_DECREF(answer);
    if (count == -1 && PyErr_Occurred())
        return RAISED;
    if (count < 0 || count > most) {
        PyErr_SetString(PyExc_ValueError, "a socket that moves more than there is");
        return RAISED;
    }
    return count ? count : GONE;
}

/* Read into `bytes`, of which `buffer` is a view. A plain socket is read by recv() itself, which costs no Python call. */
static Py_ssize_t receive_into(const Switchboard *self, int fd, const line *on, char *bytes, PyObject *buffer)
{
    if (on->receive == NULL)
        return moved(recv(fd, bytes, (size_t)on->most, MSG_DONTWAIT));
    return moved_tls(self, PyObject_CallFunction(on->receive, "iO", on->most, buffer), on->most);
}

/* Read into `chunk`. */
static Py_ssize_t receive_chunk(const Switchboard *self, int fd, const line *on)
{
    if (on->unframe == NULL)
        return receive_into(self, fd, on, self->chunk, self->buffer);
    if (!websockets->may_take(on->unframe))
        return NOT_NOW;
    Py_ssize_t size = receive_into(self, fd, on, self->framed, self->frames);
    return size > 0 ? websockets->take(on->unframe, self->framed, size, self->chunk) : size;
}

static Py_ssize_t send_bytes(const Switchboard *self, const line *on, const char *bytes, Py_ssize_t size)
{
    if (on->send == NULL)
        return moved(send(on->to, bytes, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL));
    Py_ssize_t sent = 0;
    while (sent < size) {
        Py_ssize_t record = size - sent < RECORD_BYTES ? size - sent : RECORD_BYTES;
        Py_ssize_t count = moved_tls(self, PyObject_CallFunction(on->send, "y#", bytes + sent, record), record);
        if (count == NOT_NOW)
            break;
        if (count < 0)
            return count;
        sent += count;
    }
    return sent;
}

/* The same for a WebSocket: elements are put into frames where they lie, and `room` bytes in front of them may be written
   to. The transport's Python code does what is left, and answers for all. Bytes that it says it has not taken stand for
   frames that it keeps; nobody looks at them again. */
static Py_ssize_t send_framed(const Switchboard *self, const line *on, char *bytes, Py_ssize_t size, Py_ssize_t room)
{
    put_elements made = {.at = 0};
    bytes[size] = 0; /* for the scanner, as above; what was held of an element behind it is not here any more */
    while (made.at < size) {
        if (websockets->put(on->frame, bytes, size, room, &made) < 0)
            return RAISED;
        Py_ssize_t sent = made.size ? send_bytes(self, on, made.frames, made.size) : 0;
        if (sent < 0)
            return sent;
        made.frames += sent;
        made.size -= sent;
        if (made.size || made.stopped)
            return moved_tls(self, websockets->put_on(on->frame, bytes, size, &made), size);
    }
    return size;
}

/* --- a turn */

/* `held` bytes lie in front of the chunk. */
static int pass_on(Switchboard *self, int fd, const line *on, Py_ssize_t held, uint32_t events, const callbacks *pump)
{
    int reported;
    Py_ssize_t used, size = receive_chunk(self, fd, on);
    if (size == RAISED)
        return -1;
    if (size == GONE)
        return done(PyObject_CallFunction(pump->ended, "i", fd));
    if (size == NOT_NOW) /* the pump reads again, and finds out whether TLS has to write first */
        return done(PyObject_CallFunction(pump->ready, "iI", fd, (unsigned)events));
    line *it = line_of(self, fd);
    if (it != NULL)
        it->heard = pump->now;
    self->received[on->side] += (unsigned long long)size;
    self->chunk[size] = 0; /* the scanner stops at a NUL instead of comparing each position with the end */
    Py_ssize_t boundary = scanners->scan(on->scanner, self->chunk, size, &used, &reported);
    if (boundary < 0)
        return -1;
    if (reported || boundary == 0)
        return done(PyObject_CallFunction(pump->scanned, "iy#nn", fd, self->chunk, size, boundary, used));
    if ((held || boundary < size) && scanners->hold(on->scanner, self->chunk + boundary, size - boundary) < 0)
        return -1;
    char *bytes = self->chunk - held;
    size = held + boundary;
    Py_ssize_t sent = on->frame == NULL ? send_bytes(self, on, bytes, size)
                                        : send_framed(self, on, bytes, size, FRAMES_BYTES + MAX_BYTES - held);
    if (sent == RAISED)
        return -1;
    if (sent == size || sent == GONE) /* reading from the other leg will say so, behind what it has sent before */
        return 0;
    return done(PyObject_CallFunction(pump->unsent, "iy#", fd, bytes + sent, size - sent));
}

static int serve(Switchboard *self, int fd, uint32_t events, const callbacks *pump)
{
    const line *it = line_of(self, fd);
    PyObject *held = it != NULL && it->scanner != NULL ? scanners->all_held(it->scanner) : NULL;
    Py_ssize_t size = held != NULL ? PyBytes_Size(held) : 0;
    /* EPOLLOUT: bytes wait to be written to this leg, and the pump keeps them. */
    if (held == NULL || size > MAX_BYTES || events & EPOLLOUT)
        return done(PyObject_CallFunction(pump->ready, "iI", fd, (unsigned)events));
    if (size) /* in front of the chunk, so that both are sent by one call */
        memcpy(self->chunk - size, PyBytes_AsString(held), (size_t)size);
    const line on = *it;
    keep(&on);
    int failed = pass_on(self, fd, &on, size, events, pump);
    release(&on);
    return failed;
}

static double seconds(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

/* Serve until nothing is ready, MAX_EVENTS were served, or the time is over. Asking epoll once more costs less than a
   round through trio's loop: with 100 busy sessions, a round trip took 13 us instead of 15. Events that were reported
   and not served come first in the next turn; otherwise a busy leg in front could keep the others from being served. */
static int serve_all(Switchboard *self, const callbacks *pump)
{
    const double until = seconds() + pump->seconds;
    for (int left = MAX_EVENTS; left > 0; left--) {
        self->serving = -1;
        if (self->next == self->reported) {
            self->next = self->reported = 0;
            int count = epoll_wait(self->epoll, self->events, MAX_EVENTS, 0);
            if (count < 0 && errno != EINTR) {
                PyErr_SetFromErrno(PyExc_OSError);
                return -1;
            }
            if (count <= 0)
                return 0;
            self->reported = count;
        }
        const struct epoll_event event = self->events[self->next++];
        self->serving = event.data.fd;
        if (serve(self, event.data.fd, event.events, pump) < 0)
            return -1;
        if (seconds() >= until)
            break;
    }
    self->serving = -1;
    return 0;
}

static PyObject *turn(PyObject *object, PyObject *args)
{
    Switchboard *self = (Switchboard *)object;
    callbacks pump;
    if (!PyArg_ParseTuple(args, "ddOOOO", &pump.now, &pump.seconds, &pump.ready, &pump.ended, &pump.scanned, &pump.unsent))
        return NULL;
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "a turn in a turn");
        return NULL;
    }
    self->busy = 1;
    int failed = serve_all(self, &pump) < 0;
    self->busy = 0;
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* --- to Python */

/* Where in `memory` a chunk begins, and where what came in frames does. */
enum { CHUNK_AT = FRAMES_BYTES + MAX_BYTES, FRAMED_AT = CHUNK_AT + MAX_BYTES + 1, MEMORY_BYTES = FRAMED_AT + MAX_BYTES };

static int add_buffers(Switchboard *self)
{
    /* While a view exists, the bytearray cannot be resized, so `chunk` and `framed` stay valid. */
    PyObject *all = PyMemoryView_FromObject(self->memory);
    if (all == NULL)
        return -1;
    self->buffer = PySequence_GetSlice(all, CHUNK_AT, CHUNK_AT + MAX_BYTES);
    self->frames = self->buffer == NULL ? NULL : PySequence_GetSlice(all, FRAMED_AT, FRAMED_AT + MAX_BYTES);
    self->chunk = PyByteArray_AsString(self->memory) + CHUNK_AT;
    self->framed = PyByteArray_AsString(self->memory) + FRAMED_AT;
    Py_DECREF(all);
    return self->frames == NULL ? -1 : 0;
}

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    int epoll;
    PyObject *not_now, *broken;
    if (!PyArg_ParseTuple(args, "iO!O", &epoll, &PyTuple_Type, &not_now, &broken))
        return NULL;
    if (keywords != NULL && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "expected no keywords");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Switchboard *self = (Switchboard *)allocate(type, 0); /* all zero */
    if (self == NULL)
        return NULL;
    self->epoll = epoll;
    self->serving = -1;
    self->not_now = Py_NewRef(not_now);
    self->broken = Py_NewRef(broken);
    if ((self->memory = PyByteArray_FromStringAndSize(NULL, MEMORY_BYTES)) == NULL || add_buffers(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void drop(PyObject *object)
{
    Switchboard *self = (Switchboard *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (int fd = 0; fd < self->count; fd++)
        release(&self->lines[fd]);
    Py_XDECREF(self->not_now);
    Py_XDECREF(self->broken);
    Py_XDECREF(self->buffer);
    Py_XDECREF(self->frames);
    Py_XDECREF(self->memory);
    PyMem_Free(self->lines);
    freefunc give_back = (freefunc)PyType_GetSlot(type, Py_tp_free);
    give_back(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"connect", connect_leg, METH_VARARGS,
     "connect($self, fd, to, side, scanner, most, receive, send, unframe, frame, /)\n--\n\n"
     "Pass on what comes in on `fd` to `to`, at most so many bytes at once, while `scanner` has nothing to report. `side`, "
     "0 or 1, says among which bytes they are counted."},
    {"disconnect", disconnect_leg, METH_O,
     "disconnect($self, fd, /)\n--\n\nForget the descriptor. Returns what `heard` would have."},
    {"heard", heard_leg, METH_O,
     "heard($self, fd, /)\n--\n\nThe time of the turn in which bytes came last, 0.0 if none came in here."},
    {"turn", turn, METH_VARARGS,
     "turn($self, now, seconds, ready, ended, scanned, unsent, /)\n--\n\n"
     "Serve what is ready, or have it served: one at least, and no more once so many seconds are over."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"serving", T_INT, offsetof(Switchboard, serving), READONLY,
     "The descriptor that is served, or at which an exception ended the turn; -1: none."},
    {"received_0", T_ULONGLONG, offsetof(Switchboard, received[0]), READONLY, "Bytes that were read, of side 0."},
    {"received_1", T_ULONGLONG, offsetof(Switchboard, received[1]), READONLY, "Bytes that were read, of side 1."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Switchboard(epoll, not_now, broken)\n--\n\nServes the descriptors registered with an epoll, which it does not own."},
    {Py_tp_new, make},
    {Py_tp_dealloc, drop},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

/* Without support for the cyclic collector: scanners hold no references that could lead back here. */
static PyType_Spec spec = {"cxfr_proxy.relay._turn.Switchboard", sizeof(Switchboard), 0, Py_TPFLAGS_DEFAULT, slots};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_turn", "The relay loop's hot path.", -1, NULL, NULL, NULL, NULL, NULL,
};

/* The table of functions in another module's capsule. It is static, and stays. */
static const void *table_of(const char *module_name, const char *capsule_name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *capsule = module == NULL ? NULL : PyObject_GetAttrString(module, "api");
    const void *table = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, capsule_name);
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    return table;
}

PyMODINIT_FUNC PyInit__turn(void)
{
    if ((scanners = table_of("cxfr_proxy.xmpp.framing._scan", SCANNER_API)) == NULL ||
        (websockets = table_of("cxfr_proxy.xmpp.websocket._frames", FRAMES_API)) == NULL)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL || PyModule_AddObjectRef(module, "Switchboard", type) < 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
