/* A node that costs little: the login, then every byte comes back. `node HOST PORT`; says "ready" when it listens.
 *
 * A client that begins with GET speaks WebSocket to it, a whole frame in each chunk or several. A chunk that ends with </stream:stream> is echoed like any other, which answers it, and the connection is closed. */

#include "wire.h"

enum stage { HEADER, SASL, RESTART, BINDING, ECHO, WEBSOCKET = 8 /* beside one of these */ };

static unsigned bound;

static bool say_bytes(int fd, bool framed, const char *data, size_t size) {
    static char frame[14 + MAX_FRAME];
    if (!framed) return send_all(fd, data, size);
    size_t head = frame_head(frame, size, false);
    memcpy(frame + head, data, size);
    return send_all(fd, frame, head + size);
}

static bool say(int fd, bool framed, const char *text) { return say_bytes(fd, framed, text, strlen(text)); }

/* A header and the features behind it. */
static bool greet(int fd, bool framed, const char *features) {
    static char both[1024];
    if (framed) return say(fd, true, NODE_OPEN) && say(fd, true, features);
    snprintf(both, sizeof both, "%s%s", NODE_HEADER, features);
    return say(fd, false, both);
}

/* What answers `data` in this stage; false: close. */
static bool serve(int fd, uint8_t *state, const char *data, size_t size) {
    char reply[512];
    bool framed = *state & WEBSOCKET;
    uint8_t flag = framed ? WEBSOCKET : 0;
    const char *header = framed ? "<open " : "<stream:stream";
    if ((*state & ~WEBSOCKET) == ECHO || memmem(data, size, STREAM_END, strlen(STREAM_END))) {
        size_t end = strlen(STREAM_END);
        bool over = size >= end && !memcmp(data + size - end, STREAM_END, end);
        return say_bytes(fd, framed, data, size) && !over;
    }
    switch (*state & ~WEBSOCKET) {
    case HEADER:
        if (!memmem(data, size, header, strlen(header))) return true;
        *state = SASL | flag;
        return greet(fd, framed, SASL_FEATURES);
    case SASL:
        if (!memmem(data, size, "</auth>", 7)) return true;
        *state = RESTART | flag;
        return say(fd, framed, SUCCESS);
    case RESTART:
        if (!memmem(data, size, header, strlen(header))) return true;
        *state = BINDING | flag;
        return greet(fd, framed, BIND_FEATURES);
    default:
        if (!memmem(data, size, "</iq>", 5)) return true;
        *state = ECHO | flag;
        snprintf(reply, sizeof reply,
                 "<iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>u%u@localhost/bench</jid>"
                 "</bind></iq>",
                 bound++);
        return say(fd, framed, reply);
    }
}

/* The same for what may be frames, which are whole and not long. */
static bool serve_any(int fd, uint8_t *state, char *data, size_t size) {
    if (*state == HEADER && size > 4 && !memcmp(data, "GET ", 4)) {
        *state = HEADER | WEBSOCKET;
        return send_all(fd, UPGRADED, strlen(UPGRADED));
    }
    if (!(*state & WEBSOCKET)) return serve(fd, state, data, size);
    while (size) {
        const unsigned char *head = (const unsigned char *)data;
        if (size < 8 || head[0] != 0x81 || (head[1] & 0x7F) > 126) return false;
        size_t length = head[1] & 0x7F, begins = length == 126 ? 8 : 6;
        if (length == 126) length = (size_t)head[2] << 8 | head[3];
        if (size < begins + length) return false;
        mask(data + begins, length, data + begins - 4);
        if (!serve(fd, state, data + begins, length)) return false;
        data += begins + length;
        size -= begins + length;
    }
    return true;
}

int main(int argc, char **argv) {
    static char buffer[65536];
    static struct epoll_event events[512];
    if (argc != 3) return 2;
    signal(SIGPIPE, SIG_IGN);
    uint8_t *stages = calloc((size_t)raise_descriptors(), 1);
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_on(argv[1], atoi(argv[2]));
    watch(epoll, listener, EPOLLIN, EPOLL_CTL_ADD);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    set_nodelay(fd);
                    stages[fd] = HEADER;
                    watch(epoll, fd, EPOLLIN, EPOLL_CTL_ADD);
                }
                if (errno != EAGAIN) usleep(1000); /* out of descriptors: let some go first */
                continue;
            }
            ssize_t size = recv(fd, buffer, sizeof buffer, 0);
            if (size < 0 && errno == EAGAIN) continue;
            if (size <= 0 || !serve_any(fd, &stages[fd], buffer, (size_t)size)) close(fd);
        }
    }
}
