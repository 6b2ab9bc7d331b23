/* The load: thousands of clients in one process, told what to do by lines on stdin, answering each with a line of JSON.
 *
 *     load HOST PORT SOURCES TLS STANZA_BYTES WEBSOCKET
 *
 *     open COUNT PARALLEL STAGE PID...        COUNT more clients, PARALLEL at a time, up to STAGE: tls, login or online
 *     run WARM SECONDS IN_FLIGHT PID...       each client keeps IN_FLIGHT stanzas on the way, for SECONDS or longer
 *     pace WARM SECONDS RATE PID...           RATE stanzas a second over all clients, sent when they are due
 *     close                                   close all
 *
 * The answer holds the CPU time, in nanoseconds, of each PID and of the load itself between the same two instants as
 * the count. Latency is counted from the instant a stanza was *due* (pace) or sent (run): a relay that makes the load
 * late does not look better for it. Clients connect from SOURCES addresses, 127.0.0.1 and up.
 *
 * What comes back is what was sent, so a round trip is over when STANZA_BYTES have come; what comes together is
 * answered together. Over WebSocket each stanza is a frame, masked with the same four bytes, and comes back unmasked. */

#include "wire.h"

#include <openssl/ssl.h>

#define RING 64 /* stanzas on the way, for each client */
#define ROUNDS 4 /* round trips that each of them has, on average, while it is measured */
#define MAX_PIDS 64
#define SUB_BITS 5 /* buckets of a histogram for each power of two: 3 % wide */

enum stage { CONNECTING, HANDSHAKE, WAIT_UPGRADE, WAIT_SASL, WAIT_SUCCESS, WAIT_BIND, WAIT_JID, WAIT_PRESENCE, READY, FAILED };

struct client {
    SSL *ssl;
    uint64_t sent_at[RING], began;
    uint32_t got;
    uint16_t head, tail; /* of sent_at; equal: nothing is on the way */
    uint8_t stage;
};

static const char client_header[] = CLIENT_HEADER;
static struct client *clients; /* by descriptor */
static int *order;             /* descriptors of those that are ready */
static int opened, sources, epoll;
static SSL_CTX *context;
static struct sockaddr_in target;
static char *stanza;
static size_t sent_bytes, stanza_bytes; /* of one as it is sent, and as it comes back */
static bool websocket;
static uint64_t histogram[64 << SUB_BITS], slowest, counted, failed, tickets;
static pid_t pids[MAX_PIDS];
static uint64_t used[MAX_PIDS + 1];
static int pid_count;

static unsigned bucket_of(uint64_t ns) {
    if (ns < (1u << SUB_BITS)) return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - SUB_BITS;
    return ((shift + 1) << SUB_BITS) + (unsigned)((ns >> shift) & ((1u << SUB_BITS) - 1));
}

static uint64_t middle_of(unsigned bucket) {
    if (bucket < (1u << SUB_BITS)) return bucket;
    unsigned shift = (bucket >> SUB_BITS) - 1;
    return ((uint64_t)((1u << SUB_BITS) | (bucket & ((1u << SUB_BITS) - 1))) << shift) + ((1ull << shift) >> 1);
}

static void record(uint64_t ns) {
    histogram[bucket_of(ns)]++;
    if (ns > slowest) slowest = ns;
    counted++;
}

static uint64_t percentile(double share) {
    uint64_t sum = 0, wanted = (uint64_t)((double)counted * share);
    for (unsigned i = 0; i < (64u << SUB_BITS); i++)
        if ((sum += histogram[i]) > wanted) return middle_of(i);
    return slowest;
}

static void sample(uint64_t *into) {
    for (int i = 0; i < pid_count; i++) into[i] = cpu_ns(pids[i]);
    into[pid_count] = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static void begin(void) {
    memset(histogram, 0, sizeof histogram);
    slowest = counted = tickets = 0;
    sample(used);
}

static void answer(uint64_t elapsed, uint64_t unanswered) {
    uint64_t end[MAX_PIDS + 1];
    sample(end);
    printf("{\"count\": %" PRIu64 ", \"seconds\": %.6f, \"failed\": %" PRIu64 ", \"unanswered\": %" PRIu64
           ", \"tickets\": %" PRIu64 ", \"cpu\": {",
           counted, (double)elapsed / 1e9, failed, unanswered, tickets);
    for (int i = 0; i < pid_count; i++) printf("\"%d\": %" PRIu64 ", ", pids[i], end[i] - used[i]);
    printf("\"%d\": %" PRIu64 "}, ", getpid(), end[pid_count] - used[pid_count]);
    printf("\"p50\": %" PRIu64 ", \"p90\": %" PRIu64 ", \"p99\": %" PRIu64 ", \"max\": %" PRIu64 "}\n",
           percentile(0.5), percentile(0.9), percentile(0.99), slowest);
}

/* --- one client */

static ssize_t receive(struct client *c, int fd, char *into, size_t room) {
    if (!c->ssl) return recv(fd, into, room, 0);
    int size = SSL_read(c->ssl, into, (int)room);
    if (size > 0) return size;
    int why = SSL_get_error(c->ssl, size);
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : EPIPE;
    return why == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static bool transmit(struct client *c, int fd, const char *data, size_t size) {
    if (!c->ssl) return send_all(fd, data, size);
    for (;;) {
        int sent = SSL_write(c->ssl, data, (int)size);
        if (sent > 0) return true; /* partial writes are off */
        struct pollfd room = {.fd = fd, .events = POLLOUT};
        if (SSL_get_error(c->ssl, sent) != SSL_ERROR_WANT_WRITE || poll(&room, 1, 5000) != 1) return false;
    }
}

static void end_client(int fd) {
    struct client *c = &clients[fd];
    if (c->ssl) {
        SSL_set_quiet_shutdown(c->ssl, 1);
        SSL_free(c->ssl);
    }
    memset(c, 0, sizeof *c);
    close(fd);
}

static void fail_client(int fd) {
    end_client(fd);
    clients[fd].stage = FAILED;
    failed++;
}

static bool send_stanzas(int fd, unsigned count, uint64_t stamp) {
    struct client *c = &clients[fd];
    for (unsigned i = 0; i < count; i++) c->sent_at[c->tail++ % RING] = stamp;
    return transmit(c, fd, stanza, count * sent_bytes);
}

/* --- opening */

static int open_client(void) {
    static unsigned turn;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + turn++ % (unsigned)sources);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    set_nodelay(fd);
    if (bind(fd, (struct sockaddr *)&source, sizeof source)) die("bind");
    memset(&clients[fd], 0, sizeof clients[fd]);
    clients[fd].began = now_ns();
    if (connect(fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    watch(epoll, fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
    return fd;
}

static bool contains(const char *data, ssize_t size, const char *text) {
    return size > 0 && memmem(data, (size_t)size, text, strlen(text)) != NULL;
}

/* One element, or the header of a stream. */
static bool say(struct client *c, int fd, const char *text) {
    char frame[1024];
    if (!websocket) return transmit(c, fd, text, strlen(text));
    if (text == client_header) text = CLIENT_OPEN;
    size_t size = strlen(text), head = frame_head(frame, size, true);
    memcpy(frame + head, text, size);
    mask(frame + head, size, MASK);
    return transmit(c, fd, frame, head + size);
}

/* The first bytes of the stream, or those that come before it. */
static bool begin_stream(struct client *c, int fd) {
    c->stage = websocket ? WAIT_UPGRADE : WAIT_SASL;
    return websocket ? transmit(c, fd, UPGRADE, strlen(UPGRADE)) : say(c, fd, client_header);
}

/* One step of a login; `last` is what it waits for last. False: it failed. */
static bool step(int fd, enum stage last) {
    struct client *c = &clients[fd];
    char data[16384];
    ssize_t size;
    if (c->stage == CONNECTING) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) return false;
        watch(epoll, fd, EPOLLIN, EPOLL_CTL_MOD);
        c->stage = HANDSHAKE;
        if (!context) return begin_stream(c, fd);
        c->ssl = SSL_new(context);
        SSL_set_fd(c->ssl, fd);
        SSL_set_connect_state(c->ssl);
        SSL_set_tlsext_host_name(c->ssl, "localhost");
    }
    if (c->stage == HANDSHAKE) {
        int done = SSL_do_handshake(c->ssl);
        if (done != 1) return SSL_get_error(c->ssl, done) == SSL_ERROR_WANT_READ;
        if (last != HANDSHAKE) return begin_stream(c, fd);
        c->stage = READY;
        return true;
    }
    while ((size = receive(c, fd, data, sizeof data)) > 0) {
        if (c->stage == WAIT_UPGRADE && contains(data, size, "\r\n\r\n")) {
            c->stage = WAIT_SASL;
            if (!contains(data, size, " 101 ") || !say(c, fd, client_header)) return false;
        } else if (c->stage == WAIT_SASL && contains(data, size, "</stream:features>")) {
            c->stage = WAIT_SUCCESS;
            if (!say(c, fd, AUTH)) return false;
        } else if (c->stage == WAIT_SUCCESS && contains(data, size, "<success")) {
            c->stage = WAIT_BIND;
            if (!say(c, fd, client_header)) return false;
        } else if (c->stage == WAIT_BIND && contains(data, size, "</stream:features>")) {
            c->stage = WAIT_JID;
            if (!say(c, fd, BIND)) return false;
        } else if (c->stage == WAIT_JID && contains(data, size, "</iq>")) {
            c->stage = last == WAIT_JID ? READY : WAIT_PRESENCE;
            if (c->stage == WAIT_PRESENCE && !say(c, fd, PRESENCE)) return false;
        } else if (c->stage == WAIT_PRESENCE && contains(data, size, "</presence>")) {
            c->stage = READY;
        }
        if (!c->ssl) return true;
    }
    return size < 0 && errno == EAGAIN;
}

static void open_clients(int count, int parallel, enum stage last) {
    struct epoll_event events[256];
    int under_way = 0, begun = 0;
    uint64_t start, deadline;
    failed = 0;
    begin();
    start = now_ns();
    deadline = start + 120000000000u;
    while (under_way || (begun < count && !failed)) {
        while (under_way < parallel && begun < count && !failed) {
            if (open_client() < 0) {
                failed++;
                break;
            }
            under_way++;
            begun++;
        }
        int ready = epoll_wait(epoll, events, 256, 1000);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            struct client *c = &clients[fd];
            if (c->stage == READY) {
                if (!step(fd, last)) fail_client(fd); /* a session ticket, or the end */
            } else if (c->stage != FAILED && !step(fd, last)) {
                fail_client(fd);
                under_way--;
            } else if (c->stage == READY) {
                record(now_ns() - c->began);
                order[opened++] = fd;
                under_way--;
            }
        }
        if (now_ns() > deadline) {
            failed += (uint64_t)under_way;
            break;
        }
    }
    answer(now_ns() - start, 0);
}

/* --- traffic */

/* What has come; how many round trips it ended, or -1 for a client that is gone. */
static int take(int fd, uint64_t now) {
    static char data[65536];
    struct client *c = &clients[fd];
    int ended = 0;
    ssize_t size;
    while ((size = receive(c, fd, data, sizeof data)) > 0) {
        c->got += (uint32_t)size;
        for (; c->got >= stanza_bytes && c->head != c->tail; c->got -= (uint32_t)stanza_bytes, ended++)
            record(now - c->sent_at[c->head++ % RING]);
        if (!c->ssl) return ended;
    }
    return size < 0 && errno == EAGAIN ? ended : -1;
}

static uint64_t on_the_way(void) {
    uint64_t sum = 0;
    for (int i = 0; i < opened; i++) sum += (uint16_t)(clients[order[i]].tail - clients[order[i]].head);
    return sum;
}

/* Serve what is ready within `wait` nanoseconds; what has come is sent again if `again`. */
static void turn(uint64_t wait, bool again) {
    struct epoll_event events[512];
    struct timespec patience = {.tv_sec = (time_t)(wait / 1000000000u), .tv_nsec = (long)(wait % 1000000000u)};
    int ready = epoll_pwait2(epoll, events, 512, &patience, NULL);
    for (int i = 0; i < ready; i++) {
        int fd = events[i].data.fd;
        if (clients[fd].stage != READY) continue;
        uint64_t now = now_ns();
        int ended = take(fd, now);
        if (ended < 0 || (again && ended > 0 && !send_stanzas(fd, (unsigned)ended, now))) fail_client(fd);
    }
}

/* Wait for what is on the way, for five seconds at most; how much never came. */
static uint64_t settle(void) {
    uint64_t limit = now_ns() + 5000000000u, left;
    while ((left = on_the_way()) && now_ns() < limit) turn(20000000, false);
    return left;
}

static void finish(uint64_t start) {
    /* The count and the clocks first: what is still on the way belongs to neither. */
    uint64_t elapsed = now_ns() - start, end[MAX_PIDS + 1], count = counted, max = slowest;
    static uint64_t kept[64 << SUB_BITS];
    sample(end);
    memcpy(kept, histogram, sizeof kept);
    uint64_t left = settle(), later[MAX_PIDS + 1];
    memcpy(histogram, kept, sizeof kept);
    counted = count;
    slowest = max;
    sample(later);
    for (int i = 0; i <= pid_count; i++) used[i] += later[i] - end[i];
    answer(elapsed, left);
}

static void run(double warm, double seconds, int in_flight) {
    uint64_t start = now_ns(), warm_until = start + (uint64_t)(warm * 1e9), end;
    begin();
    for (int i = 0; i < opened; i++)
        if (clients[order[i]].stage == READY && !send_stanzas(order[i], (unsigned)in_flight, now_ns()))
            fail_client(order[i]);
    /* Thousands of sessions with several stanzas each take a while to come round for the first time. */
    uint64_t once = (uint64_t)opened * (uint64_t)in_flight, limit = warm_until + 10000000000u;
    while (now_ns() < warm_until || (counted < once && now_ns() < limit)) turn(10000000, true);
    begin();
    start = now_ns();
    end = start + (uint64_t)(seconds * 1e9);
    /* A slow relay serves all its sessions in turn, in bursts: a short time may see none of them, or little else. */
    limit = end + 20000000000u;
    for (uint64_t now = start; now < end || (counted < once * ROUNDS && now < limit); now = now_ns()) turn(10000000, true);
    finish(start);
}

static void pace(double warm, double seconds, double rate) {
    uint64_t start = now_ns(), warm_until = start + (uint64_t)(warm * 1e9), end = warm_until + (uint64_t)(seconds * 1e9);
    uint64_t sent = 0, now, due;
    bool warming = true;
    begin();
    while ((now = now_ns()) < end) {
        if (warming && now >= warm_until) {
            warming = false;
            begin();
        }
        while ((due = start + (uint64_t)((double)sent * 1e9 / rate)) <= now) {
            int fd = order[sent++ % (uint64_t)opened];
            struct client *c = &clients[fd];
            if (c->stage == READY && (uint16_t)(c->tail - c->head) < RING && !send_stanzas(fd, 1, due)) fail_client(fd);
        }
        turn(due > now ? due - now : 0, false);
    }
    finish(warm_until);
}

static void close_clients(void) {
    for (int i = 0; i < opened; i++)
        if (clients[order[i]].stage == READY) end_client(order[i]);
    opened = 0;
    begin();
    answer(0, 0);
}

/* --- orders */

static void read_pids(char *words) {
    pid_count = 0;
    for (char *word = strtok(words, " \n"); word && pid_count < MAX_PIDS; word = strtok(NULL, " \n"))
        pids[pid_count++] = atoi(word);
}

static void obey(char *line) {
    double warm, seconds, rate;
    int count, parallel, in_flight, at = 0;
    char stage[16];
    pid_count = 0;
    if (sscanf(line, "open %d %d %15s%n", &count, &parallel, stage, &at) == 3) {
        read_pids(line + at);
        open_clients(count, parallel,
                     !strcmp(stage, "tls") ? HANDSHAKE : !strcmp(stage, "login") ? WAIT_JID : WAIT_PRESENCE);
    } else if (sscanf(line, "run %lf %lf %d%n", &warm, &seconds, &in_flight, &at) == 3) {
        read_pids(line + at);
        run(warm, seconds, in_flight);
    } else if (sscanf(line, "pace %lf %lf %lf%n", &warm, &seconds, &rate, &at) == 3) {
        read_pids(line + at);
        pace(warm, seconds, rate);
    } else if (!strncmp(line, "close", 5)) {
        read_pids(line + 5);
        close_clients();
    } else {
        puts("{\"error\": \"no such order\"}");
    }
    fflush(stdout);
}

/* OpenSSL's callback for a session that could be resumed. Nobody does, and it is not kept. */
static int count_ticket(SSL *ssl, SSL_SESSION *session) {
    (void)ssl;
    (void)session;
    tickets++;
    return 0;
}

static void make_stanza(void) {
    static const char plain[] = "<message to='romeo@localhost/bench' from='juliet@localhost/bench' type='chat' id='bench1'><body>",
                      alone[] = "<message xmlns='jabber:client' to='romeo@localhost/b' from='juliet@localhost/b' type='chat'><body>",
                      tail[] = "</body><request xmlns='urn:xmpp:receipts'/></message>";
    const char *head = websocket ? alone : plain; /* in a message of WebSocket's it says its own namespace */
    size_t begins = strlen(head);
    char frame[14];
    if (stanza_bytes < begins + sizeof tail || stanza_bytes > MAX_FRAME) die("stanza too short");
    char *one = malloc(stanza_bytes);
    memset(one, 'x', stanza_bytes);
    memcpy(one, head, begins);
    memcpy(one + stanza_bytes - (sizeof tail - 1), tail, sizeof tail - 1);
    size_t in_front = websocket ? frame_head(frame, stanza_bytes, true) : 0;
    if (websocket) mask(one, stanza_bytes, MASK);
    sent_bytes = in_front + stanza_bytes;
    stanza = malloc(sent_bytes * RING);
    for (int i = 0; i < RING; i++) {
        memcpy(stanza + (size_t)i * sent_bytes, frame, in_front);
        memcpy(stanza + (size_t)i * sent_bytes + in_front, one, stanza_bytes);
    }
    free(one);
    if (websocket) stanza_bytes += frame_head(frame, stanza_bytes, false);
}

int main(int argc, char **argv) {
    char line[4096];
    if (argc != 7) return 2;
    signal(SIGPIPE, SIG_IGN);
    target = address_of(argv[1], atoi(argv[2]));
    sources = atoi(argv[3]);
    stanza_bytes = (size_t)atoi(argv[5]);
    websocket = atoi(argv[6]);
    make_stanza();
    if (atoi(argv[4])) {
        context = SSL_CTX_new(TLS_client_method());
        /* One cipher and one group, so that every relay does the same work. The certificate is the bench's own. */
        if (!SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384") || !SSL_CTX_set1_groups_list(context, "X25519"))
            die("TLS");
        SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
        SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, count_ticket);
    }
    int limit = raise_descriptors();
    clients = calloc((size_t)limit, sizeof *clients);
    order = calloc((size_t)limit, sizeof *order);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) obey(line);
    return 0;
}
