/* What the native framing engine is to other C code: a table of functions, in a capsule of the module. All of them want
   the GIL, and an object that is an instance of `type`. */

#ifndef CXFR_SCAN_H
#define CXFR_SCAN_H

#define SCANNER_API "cxfr_proxy.xmpp.framing._scan.api"

typedef struct {
    PyTypeObject *type;

    /* Scanner.held, if it is a bytes object and all that was read behind the last boundary: a borrowed reference. NULL,
       without an exception, if it is not: an element is being cut through, or gathered in an array. */
    PyObject *(*all_held)(PyObject *scanner);

    /* As Scanner.scan, of bytes behind which lies a NUL: how many of them lie before the last boundary, -1 with an
       exception set. `used`: how many were read, fewer than there are only if much was reported. `reported`: whether
       anything was. */
    Py_ssize_t (*scan)(PyObject *scanner, const char *bytes, Py_ssize_t size, Py_ssize_t *used, int *reported);

    /* Set Scanner.held; -1 with an exception set. */
    int (*hold)(PyObject *scanner, const char *bytes, Py_ssize_t size);

    /* As Scanner.step, but an element's end is not reported: `ended` says that one has ended behind what was read. How
       many bytes were read, -1 with an exception set. Scanner.events tells of whatever else there is. */
    Py_ssize_t (*element)(PyObject *scanner, const char *bytes, Py_ssize_t size, int *ended);
} scanner_api;

#endif
