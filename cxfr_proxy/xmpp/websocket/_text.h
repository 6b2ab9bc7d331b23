/* What messages are made of, byte by byte: masks, UTF-8, white space, names. */

#ifndef CXFR_TEXT_H
#define CXFR_TEXT_H

#include <stdint.h>
#include <string.h>

typedef unsigned char byte;

/* Eight bytes at a time, which the compiler makes more. */
static inline void unmask_into(byte *to, const byte *from, size_t size, const byte *mask)
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

static inline int is_continuation(byte c) { return (c & 0xC0) == 0x80; }

/* Whether all of it is UTF-8 (RFC 3629), and ends with a whole character. */
static inline int is_utf8(const byte *p, const byte *end)
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

static inline int is_space(byte c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static inline const byte *behind_space(const byte *p, const byte *end)
{
    while (p < end && is_space(*p))
        p++;
    return p;
}

/* --- names */

static inline int is_delimiter(byte c) { return is_space(c) || c == '/' || c == '>'; }

static inline const byte *name_end(const byte *p, const byte *end)
{
    while (p < end && !is_delimiter(*p))
        p++;
    return p;
}

static inline int is_word(const byte *p, size_t size, const char *word)
{
    return size == strlen(word) && !memcmp(p, word, size);
}

/* Whether an element of that name may be a stream. */
static inline int is_stream(const byte *name, size_t size)
{
    return size >= 6 && !memcmp(name + size - 6, "stream", 6) && (size == 6 || name[size - 7] == ':');
}

/* Whether a message may be about the stream itself. */
static inline int is_of_stream(const byte *name, const byte *end)
{
    size_t size = (size_t)(name_end(name, end) - name);
    return is_word(name, size, "open") || is_word(name, size, "close") || is_stream(name, size);
}

static inline int is_stanza(const byte *name, size_t size)
{
    return is_word(name, size, "message") || is_word(name, size, "presence") || is_word(name, size, "iq");
}

#endif
