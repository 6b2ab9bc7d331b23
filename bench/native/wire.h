/* What the programs of the bench have in common: the login's bytes, clocks, descriptors.
 *
 * The login is the shortest one XMPP has: header, features, SASL PLAIN, restart, features, bind. Everybody who says
 * these lines sends each in one piece and waits for the answer, so nobody needs a parser to know where they end. */

#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NODE_HEADER                                                                                                    \
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "      \
    "id='bench' from='localhost' version='1.0'>"
#define SASL_FEATURES                                                                                                  \
    "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>" \
    "</stream:features>"
#define BIND_FEATURES "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"
#define SUCCESS "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
#define CLIENT_HEADER                                                                                                  \
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "      \
    "to='localhost' version='1.0'>"
#define AUTH "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJlbmNoAGJlbmNo</auth>"
#define BIND "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
#define STREAM_END "</stream:stream>"
/* What real clients say next (XEP-0115). The proxy looks at what a client says until it knows its software by this. */
#define PRESENCE                                                                                                       \
    "<presence xmlns='jabber:client'><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' "                         \
    "node='https://bench.example/' ver='QgayPKawpkPSDYmwT/WM94uAlu0='/></presence>"

/* The same over WebSocket (RFC 7395), where the node speaks it as well: behind a relay that does not look inside. */
#define FRAMING "xmlns='urn:ietf:params:xml:ns:xmpp-framing'"
#define CLIENT_OPEN "<open " FRAMING " to='localhost' version='1.0'/>"
#define NODE_OPEN "<open " FRAMING " id='bench' from='localhost' version='1.0'/>"
#define UPGRADE                                                                                                        \
    "GET /xmpp-websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"                \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"                                     \
    "Sec-WebSocket-Protocol: xmpp\r\n\r\n"
#define UPGRADED                                                                                                       \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"                              \
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"
#define MASK "bench" /* the first four bytes of it */
#define MAX_FRAME 65535

__attribute__((noreturn)) static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    return clock_gettime(clock, &t) ? 0 : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* What all threads of a process have used so far, dead ones included, in nanoseconds; 0 if there is none. This is how
 * clock_getcpuclockid(3) names another process's clock. */
static inline uint64_t cpu_ns(pid_t pid) { return clock_ns((clockid_t)((~(unsigned)pid << 3) | 2)); }

static inline int raise_descriptors(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) die("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    return (int)(limit.rlim_cur > 1000000 ? 1000000 : limit.rlim_cur);
}

static inline void set_nodelay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline struct sockaddr_in address_of(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die(host);
    return address;
}

static inline int listen_on(const char *host, int port) {
    struct sockaddr_in address = address_of(host, port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one); /* one process has too few descriptors for all */
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) die("listen");
    return fd;
}

static inline void watch(int epoll, int fd, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, how, fd, &event)) die("epoll_ctl");
}

/* The head of a frame that is a whole message of text, at most MAX_FRAME bytes; how long it is. `masked`: a client's. */
static inline size_t frame_head(char *to, size_t size, bool masked) {
    size_t at = 0;
    to[at++] = (char)0x81;
    if (size < 126) {
        to[at++] = (char)(size | (masked ? 0x80u : 0u));
    } else {
        to[at++] = (char)(126u | (masked ? 0x80u : 0u));
        to[at++] = (char)(size >> 8);
        to[at++] = (char)size;
    }
    if (masked) {
        memcpy(to + at, MASK, 4);
        at += 4;
    }
    return at;
}

static inline void mask(char *data, size_t size, const char *with) {
    for (size_t i = 0; i < size; i++) data[i] = (char)(data[i] ^ with[i % 4]);
}

/* All of it, or false. The bench never has more on the way than a socket's buffer holds, so waiting is the exception. */
static inline bool send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            if (poll(&room, 1, 5000) != 1) return false;
        } else if (sent < 0) {
            return false;
        } else {
            data += sent;
            size -= (size_t)sent;
        }
    }
    return true;
}

#endif
