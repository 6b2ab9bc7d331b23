/* What WebSocket's hot path is to the switchboard: a table of functions, in a capsule of the module. All of them want the
   GIL, and an object that is an instance of `type`: a transport. What a function leaves undone it has the transport do in
   Python, so nothing is in between when it returns. */

#ifndef CXFR_FRAMES_H
#define CXFR_FRAMES_H

#define FRAMES_API "cxfr_proxy.xmpp.websocket._frames.api"

/* Elements that were put into frames. Offsets are in the bytes of the stream. */
typedef struct {
    const char *frames; /* what there is to send */
    Py_ssize_t size;
    Py_ssize_t at;    /* behind the last element that is in them */
    Py_ssize_t begun; /* how many bytes behind that were read, of an element that is not whole, or is none */
    int stopped;      /* something else follows */
} put_elements;

typedef struct {
    PyTypeObject *type;

    /* Whether what is read may be given to `take`. */
    int (*may_take)(PyObject *transport);

    /* Take `size` bytes that were read, more than none, out of their frames. How many bytes of the stream are at `to`
       then, where there is room for as many and one more; 0: the transport has them, and is read as any other; -1 with
       an exception set. */
    Py_ssize_t (*take)(PyObject *transport, const char *data, Py_ssize_t size, char *to);

    /* Put elements of the stream from `made->at` on into frames. They are made where the elements are, and in front: there
       may be written to `room` bytes before `bytes`, and to all in front of `made->at`. Behind the last byte lies a NUL.
       -1 with an exception set. */
    int (*put)(PyObject *transport, char *bytes, Py_ssize_t size, Py_ssize_t room, put_elements *made);

    /* Have the transport send what is left of the frames, and do the rest. Answers what a transport's write does. */
    PyObject *(*put_on)(PyObject *transport, const char *bytes, Py_ssize_t size, const put_elements *made);
} frames_api;

#endif
