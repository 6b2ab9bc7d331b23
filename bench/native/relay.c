/* The bare relay: what epoll, recv and send cost and nothing else. `relay HOST PORT NODE_HOST NODE_PORT`.
 *
 * It looks at no byte, keeps no time and has no limits: nobody would run it, and nobody can be much below it. */

#include "wire.h"

int main(int argc, char **argv) {
    static char buffer[65536];
    static struct epoll_event events[512];
    if (argc != 5) return 2;
    signal(SIGPIPE, SIG_IGN);
    int *other = calloc((size_t)raise_descriptors(), sizeof *other);
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_on(argv[1], atoi(argv[2]));
    struct sockaddr_in node = address_of(argv[3], atoi(argv[4]));
    watch(epoll, listener, EPOLLIN, EPOLL_CTL_ADD);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    int up = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
                    if (up < 0 || connect(up, (struct sockaddr *)&node, sizeof node)) die("node");
                    fcntl(up, F_SETFL, O_NONBLOCK);
                    set_nodelay(fd);
                    set_nodelay(up);
                    other[fd] = up;
                    other[up] = fd;
                    watch(epoll, fd, EPOLLIN, EPOLL_CTL_ADD);
                    watch(epoll, up, EPOLLIN, EPOLL_CTL_ADD);
                }
                continue;
            }
            if (other[fd] < 0) continue; /* closed with its peer in this very turn */
            ssize_t size = recv(fd, buffer, sizeof buffer, 0);
            if (size < 0 && errno == EAGAIN) continue;
            if (size <= 0 || !send_all(other[fd], buffer, (size_t)size)) {
                int peer = other[fd];
                other[fd] = other[peer] = -1;
                close(fd);
                close(peer);
            }
        }
    }
}
