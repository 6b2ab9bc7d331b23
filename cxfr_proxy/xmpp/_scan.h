/* What the native framing engine is to other C code: a table of functions, in a capsule of the module. All of them want
   the GIL, and an object that is an instance of `type`. */

#ifndef CXFR_SCAN_H
#define CXFR_SCAN_H

#define SCANNER_API "cxfr_proxy.xmpp._scan.api"

typedef struct {
    PyTypeObject *type;

    /* Whether what was read so far ends at a boundary: no part of an element is waiting for its rest. */
    int (*at_boundary)(PyObject *scanner);

    /* As Scanner.scan, of bytes behind which lies a NUL: how many of them lie before the last boundary, -1 with an
       exception set. `noted`: whether something was. Only the making of a note runs Python code. */
    Py_ssize_t (*scan)(PyObject *scanner, const char *bytes, Py_ssize_t size, int *noted);
} scanner_api;

#endif
