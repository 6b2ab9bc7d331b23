/* A node that costs little: the login, then every byte comes back. `node HOST PORT`; says "ready" when it listens.
 *
 * A chunk that ends with </stream:stream> is echoed like any other, which answers it, and the connection is closed. */

#include "wire.h"

enum stage { HEADER, SASL, RESTART, BINDING, ECHO };

static unsigned bound;

static bool say(int fd, const char *text) { return send_all(fd, text, strlen(text)); }

/* What answers `data` in this stage; false: close. */
static bool serve(int fd, uint8_t *stage, const char *data, size_t size) {
    char reply[512];
    if (*stage == ECHO || memmem(data, size, STREAM_END, strlen(STREAM_END))) {
        size_t end = strlen(STREAM_END);
        bool over = size >= end && !memcmp(data + size - end, STREAM_END, end);
        return send_all(fd, data, size) && !over;
    }
    switch (*stage) {
    case HEADER:
        if (!memmem(data, size, "<stream:stream", 14)) return true;
        *stage = SASL;
        return say(fd, NODE_HEADER SASL_FEATURES);
    case SASL:
        if (!memmem(data, size, "</auth>", 7)) return true;
        *stage = RESTART;
        return say(fd, SUCCESS);
    case RESTART:
        if (!memmem(data, size, "<stream:stream", 14)) return true;
        *stage = BINDING;
        return say(fd, NODE_HEADER BIND_FEATURES);
    default:
        if (!memmem(data, size, "</iq>", 5)) return true;
        *stage = ECHO;
        snprintf(reply, sizeof reply,
                 "<iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>u%u@localhost/bench</jid>"
                 "</bind></iq>",
                 bound++);
        return say(fd, reply);
    }
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
            if (size <= 0 || !serve(fd, &stages[fd], buffer, (size_t)size)) close(fd);
        }
    }
}
