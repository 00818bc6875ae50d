/* The C half of bench_link.py, which compiles and runs it.
 *
 *     bench_link wire MTU                   DATA and ACK bytes of one boundary, in memory, no loss
 *     bench_link loss MTU COUNT LOSS        DATA frames for COUNT boundaries, in memory; LOSS in 1/10000
 *     bench_link race A B HOST CORE_A CORE_B NAME..   boundaries over real sockets, as stdin asks
 *     bench_link relay A B LOSS DELAY_US    a wire between two network namespaces that loses and delays
 *
 * `wire` and `loss` run firmware/core over tests/core/network.c; `race` runs the virtual board
 * beside bare sockets. A and B are files that name network namespaces, or `-` for the one it is
 * started in. One-way time is from the moment the message is handed to the link (or to the
 * socket) to the moment the receiver has all of it: both ends are threads of one process, so
 * CLOCK_MONOTONIC is the same clock. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "board.h"
#include "network.h"

#define TENSOR 5488u
#define RESULT 10u
#define UDP_MTU 1452u
#define FRAME_PAYLOAD (UDP_MTU - TS_DATA_OVERHEAD)
#define DATAGRAMS ((TS_ENVELOPE + 12u + TENSOR + FRAME_PAYLOAD - 1u) / FRAME_PAYLOAD)
#define GIVE_UP_S 60
#define IDLE_MS 6000000u

static void die(const char *what) {
    fprintf(stderr, "bench_link: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What a boundary of this number is; the number leads it. */
static void fill(uint8_t *tensor, uint32_t number) {
    for (uint32_t i = 0; i < TENSOR; i++) {
        tensor[i] = (uint8_t)(number * 31u + i * 7u + (i >> 8));
    }
    ts_put32(tensor, number);
}

static bool exact(const uint8_t *tensor) {
    uint8_t wanted[TENSOR];
    fill(wanted, ts_get32(tensor));
    return memcmp(tensor, wanted, TENSOR) == 0;
}

/* In memory, in simulated time. */

struct count {
    uint64_t data_frames, data_bytes, ack_frames, ack_bytes;
    uint32_t delivered, inexact;
};

static void tap(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    struct count *c = net->tap_ctx;
    (void)to;
    if (from == 0 && bytes[0] >> 4 == TS_F_DATA) {
        c->data_frames++;
        c->data_bytes += len;
    } else if (from == 1 && bytes[0] >> 4 == TS_F_ACK) {
        c->ack_frames++;
        c->ack_bytes += len;
    }
}

static int judge(void *ctx, struct ts_invoke *run) {
    struct count *c = ((struct host *)ctx)->net->tap_ctx;
    c->delivered++;
    c->inexact += run->input->total != TENSOR || run->inference != c->delivered ||
                  ts_get32(run->input->data) != c->delivered || !exact(run->input->data);
    memset(run->output, 0, RESULT);
    run->count = 1;
    run->bytes[0] = RESULT;
    return TS_OK;
}

static bool up(struct net *net) {
    return net->hosts[0].ups > 0 && net->hosts[1].ups > 0;
}

static uint32_t boundaries;

static bool all_sent(struct net *net) {
    return net->hosts[0].sent_ok + net->hosts[0].sent_failed == boundaries;
}

/* Sends boundaries one after the other. They go by ts_send, so that only the acknowledgement ends
 * one: with ts_node_infer a RESULT would do as well, and hide what a lost acknowledgement costs. */
static void simulate(uint16_t mtu, uint32_t count, uint32_t loss, struct count *c) {
    static uint8_t body[12 + TENSOR];
    struct net *net = net_new(mtu + count + loss);
    struct host *head = host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1);
    struct host *tail = host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1);
    head->link.mtu = tail->link.mtu = mtu;
    host_start(head);
    tail->cfg.invoke = judge;
    host_start(tail);
    net->tap_ctx = c;
    if (!net_run(net, 1000000, up)) {
        die("no session");
    }
    net->tap = tap;
    net->loss = loss;
    for (boundaries = 1; boundaries <= count; boundaries++) {
        struct ts_tensors t = {.inference = boundaries, .count = 1, .bytes = {TENSOR}, .total = TENSOR};
        fill(body + ts_tensors_encode(TS_TENSOR, &t, body), boundaries);
        uint16_t session = (uint16_t)head->node.downstream;
        if (ts_send(&head->node.ep, host_now(head), session, TS_TENSOR, body, sizeof body, 60000, 1) != TS_OK) {
            die("ts_send");
        }
        head->wake = net->now;
        net_run(net, 61000000, all_sent);
        net_run(net, 100000, NULL);
    }
    c->inexact += head->sent_failed;
    net_free(net);
}

static void print_count(const struct count *c) {
    printf("{\"data_frames\": %llu, \"data_bytes\": %llu, \"ack_frames\": %llu, \"ack_bytes\": %llu, "
           "\"delivered\": %u, \"inexact\": %u}\n",
           (unsigned long long)c->data_frames, (unsigned long long)c->data_bytes, (unsigned long long)c->ack_frames,
           (unsigned long long)c->ack_bytes, c->delivered, c->inexact);
}

/* Real sockets, real time. */

enum variant { OURS_UDP, OURS_UDP_ONE, OURS_TCP, UDP_ONE, UDP_MANY, TCP_PLAIN, TCP_NO_DELAY, VARIANTS };

static const char *const names[VARIANTS] = {"ours_udp", "ours_udp_one", "ours_tcp",   "udp_one",
                                            "udp_many", "tcp",          "tcp_nodelay"};

struct lane {
    enum variant variant;
    pthread_t thread;
    vb *tail, *head;
    int receiver, sender;
    uint16_t port;
    uint64_t handed_ns;
    _Atomic uint64_t arrived_ns;
    _Atomic uint32_t arrived, inexact;
    uint32_t sent, resent_before;
};

static struct lane lanes[VARIANTS];
static const char *space[2];
static const char *host_of;
static int core_of[2] = {-1, -1};

/* A head and a tail are two machines: each end has a core of its own, or all share one. */
static void pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)core, &set);
    if (core >= 0 && sched_setaffinity(0, sizeof set, &set) != 0) {
        die("sched_setaffinity");
    }
}

static void enter(const char *file) {
    if (strcmp(file, "-") == 0) {
        return;
    }
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) {
        die(file);
    }
    close(fd);
}

static void arrived(struct lane *l, uint64_t at, const uint8_t *tensor) {
    if (!exact(tensor)) {
        atomic_fetch_add(&l->inexact, 1);
    }
    atomic_store(&l->arrived_ns, at);
    atomic_store(&l->arrived, ts_get32(tensor));
}

static int head_engine(void *ctx, const uint8_t *input, const uint32_t *bytes, uint8_t count, uint8_t *output,
                       uint32_t cap, uint32_t *out_bytes, uint8_t *out_count, uint32_t *invoke_us,
                       uint32_t *encode_us) {
    struct lane *l = ctx;
    (void)count;
    (void)cap;
    (void)invoke_us;
    (void)encode_us;
    memcpy(output, input, bytes[0]);
    out_bytes[0] = bytes[0];
    *out_count = 1;
    l->handed_ns = now_ns();
    return TS_OK;
}

static int tail_engine(void *ctx, const uint8_t *input, const uint32_t *bytes, uint8_t count, uint8_t *output,
                       uint32_t cap, uint32_t *out_bytes, uint8_t *out_count, uint32_t *invoke_us,
                       uint32_t *encode_us) {
    uint64_t at = now_ns();
    (void)bytes;
    (void)count;
    (void)cap;
    (void)invoke_us;
    (void)encode_us;
    arrived(ctx, at, input);
    memset(output, 0, RESULT);
    out_bytes[0] = RESULT;
    *out_count = 1;
    return TS_OK;
}

static vb *board(struct lane *l, uint8_t role) {
    bool head = role == TS_ROLE_HEAD;
    struct vb_config c = {.transport = l->variant == OURS_TCP ? VB_TCP : VB_UDP,
                          .role = role,
                          .stage = head ? 0 : 1,
                          .stage_count = 2,
                          .bundle = {1},
                          .listen_host = head ? NULL : host_of,
                          .next_host = head ? host_of : NULL,
                          .next_port = l->port,
                          .mtu = l->variant == OURS_UDP_ONE ? TS_MAX_MTU : 0,
                          .peers = 2,
                          .jobs = 4,
                          .max_message = 8192,
                          .max_output = 8192,
                          .idle_timeout_ms = IDLE_MS,
                          .message_timeout_ms = GIVE_UP_S * 1000,
                          .invoke = head ? head_engine : tail_engine,
                          .ctx = l};
    int error;
    vb *b = vb_new(&c, &error);
    if (b == NULL) {
        errno = error;
        die("vb_new");
    }
    return b;
}

static bool read_all(int fd, uint8_t *to, size_t len) {
    for (size_t have = 0; have < len;) {
        ssize_t got = recv(fd, to + have, len - have, 0);
        if (got <= 0) {
            return false;
        }
        have += (size_t)got;
    }
    return true;
}

static void receive_datagrams(struct lane *l) {
    uint8_t tensor[TENSOR];
    uint32_t pieces = l->variant == UDP_MANY ? DATAGRAMS : 1;
    struct sockaddr_in from;
    for (;;) {
        size_t have = 0;
        for (uint32_t i = 0; i < pieces; i++) {
            socklen_t len = sizeof from;
            ssize_t got = recvfrom(l->receiver, tensor + have, sizeof tensor - have, 0, (struct sockaddr *)&from, &len);
            if (got < 0) {
                die("recvfrom");
            }
            have += (size_t)got;
        }
        arrived(l, now_ns(), tensor);
        sendto(l->receiver, "", 1, 0, (struct sockaddr *)&from, sizeof from);
    }
}

static void receive_stream(struct lane *l) {
    uint8_t tensor[TENSOR];
    int fd = accept(l->receiver, NULL, NULL);
    int one = 1;
    if (l->variant == TCP_NO_DELAY) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    while (fd >= 0 && read_all(fd, tensor, sizeof tensor)) {
        arrived(l, now_ns(), tensor);
        if (send(fd, "", 1, MSG_NOSIGNAL) != 1) {
            break;
        }
    }
}

static void *receive(void *ctx) {
    struct lane *l = ctx;
    pin(core_of[1]);
    if (l->variant <= OURS_TCP) {
        while (vb_step(l->tail, -1, -1) >= 0) {
        }
    } else if (l->variant == UDP_ONE || l->variant == UDP_MANY) {
        receive_datagrams(l);
    } else {
        receive_stream(l);
    }
    return NULL;
}

static struct sockaddr_in address_of(const char *host, uint16_t port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        die(host);
    }
    return a;
}

/* The receiving end, made in the receiver's namespace. */
static void open_receiver(struct lane *l) {
    if (l->variant <= OURS_TCP) {
        l->tail = board(l, TS_ROLE_TAIL);
        struct vb_status status;
        vb_get_status(l->tail, &status);
        l->port = status.port;
        return;
    }
    bool udp = l->variant == UDP_ONE || l->variant == UDP_MANY;
    struct sockaddr_in a = address_of(host_of, 0);
    socklen_t len = sizeof a;
    l->receiver = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (bind(l->receiver, (struct sockaddr *)&a, len) != 0 || (!udp && listen(l->receiver, 1) != 0) ||
        getsockname(l->receiver, (struct sockaddr *)&a, &len) != 0) {
        die("bind");
    }
    l->port = ntohs(a.sin_port);
}

static void open_sender(struct lane *l) {
    if (l->variant <= OURS_TCP) {
        struct vb_status status = {0};
        l->head = board(l, TS_ROLE_HEAD);
        for (uint64_t end = now_ns() + GIVE_UP_S * 1000000000ull; !status.downstream_up && now_ns() < end;) {
            vb_step(l->head, 10000, -1);
            vb_get_status(l->head, &status);
        }
        if (!status.downstream_up) {
            die("no session");
        }
        return;
    }
    bool udp = l->variant == UDP_ONE || l->variant == UDP_MANY;
    struct sockaddr_in a = address_of(host_of, l->port);
    int one = 1;
    l->sender = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (!udp && connect(l->sender, (struct sockaddr *)&a, sizeof a) != 0) {
        die("connect");
    }
    if (l->variant == TCP_NO_DELAY) {
        setsockopt(l->sender, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
}

static uint32_t tcp_resent(const struct lane *l) {
    struct tcp_info info;
    socklen_t len = sizeof info;
    if (getsockopt(l->sender, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) {
        return 0;
    }
    return info.tcpi_total_retrans;
}

/* Sends one boundary and waits for its result (ours) or for one byte back. Sets what it took. */
static bool send_board(struct lane *l, const uint8_t *tensor, uint32_t *frames, uint32_t *resent) {
    struct vb_result r;
    uint8_t out[RESULT];
    uint32_t bytes = TENSOR;
    vb_step(l->head, 0, -1);
    if (vb_infer(l->head, l->sent, tensor, &bytes, 1, GIVE_UP_S * 1000) != TS_OK) {
        return false;
    }
    while (vb_take_result(l->head, &r, out, sizeof out) == 0) {
        if (vb_step(l->head, -1, -1) < 0) {
            die("vb_step");
        }
    }
    *frames = r.fragments_sent;
    *resent = r.fragments_resent;
    return r.code == TS_OK;
}

static bool send_bare(struct lane *l, const uint8_t *tensor, uint32_t *frames, uint32_t *resent) {
    struct sockaddr_in a = address_of(host_of, l->port);
    uint8_t byte;
    l->handed_ns = now_ns();
    if (l->variant == UDP_ONE) {
        sendto(l->sender, tensor, TENSOR, 0, (struct sockaddr *)&a, sizeof a);
        *frames = 1;
    } else if (l->variant == UDP_MANY) {
        for (size_t at = 0; at < TENSOR; at += UDP_MTU) {
            size_t len = TENSOR - at < UDP_MTU ? TENSOR - at : UDP_MTU;
            sendto(l->sender, tensor + at, len, 0, (struct sockaddr *)&a, sizeof a);
        }
        *frames = DATAGRAMS;
    } else if (send(l->sender, tensor, TENSOR, MSG_NOSIGNAL) != (ssize_t)TENSOR) {
        return false;
    }
    if (recv(l->sender, &byte, 1, 0) != 1) {
        return false;
    }
    if (l->variant == TCP_PLAIN || l->variant == TCP_NO_DELAY) {
        uint32_t total = tcp_resent(l);
        *resent = total - l->resent_before;
        l->resent_before = total;
    }
    return true;
}

static void send_one(struct lane *l) {
    static uint8_t tensor[TENSOR];
    uint32_t frames = 0;
    uint32_t resent = 0;
    bool ours = l->variant <= OURS_TCP;
    l->sent++;
    fill(tensor, l->sent);
    bool ok = ours ? send_board(l, tensor, &frames, &resent) : send_bare(l, tensor, &frames, &resent);
    if (atomic_load(&l->arrived) != l->sent || atomic_load(&l->inexact) != 0) {
        ok = false;
    }
    uint64_t took = ok ? atomic_load(&l->arrived_ns) - l->handed_ns : 0;
    printf("%s %s %llu %u %u\n", names[l->variant], ok ? "ok" : "failed", (unsigned long long)took, frames, resent);
}

/* Each line of stdin: COUNT PAUSE_US, that many boundaries of each variant, in turn. */
static int race(int argc, char **argv) {
    enum variant used[VARIANTS];
    uint32_t count = 0;
    for (int i = 0; i < argc; i++) {
        for (uint32_t v = 0; v < VARIANTS; v++) {
            if (strcmp(argv[i], names[v]) == 0 && count < VARIANTS) {
                used[count++] = (enum variant)v;
            }
        }
    }
    enter(space[1]);
    for (uint32_t i = 0; i < count; i++) {
        struct lane *l = &lanes[used[i]];
        l->variant = used[i];
        open_receiver(l);
        if (pthread_create(&l->thread, NULL, receive, l) != 0) {
            die("pthread_create");
        }
    }
    enter(space[0]);
    pin(core_of[0]);
    for (uint32_t i = 0; i < count; i++) {
        open_sender(&lanes[used[i]]);
    }
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *rest;
        unsigned long messages = strtoul(line, &rest, 10);
        unsigned long pause_us = strtoul(rest, NULL, 10);
        for (unsigned long n = 0; n < messages; n++) {
            for (uint32_t i = 0; i < count; i++) {
                struct timespec pause = {.tv_nsec = (long)pause_us * 1000};
                if (pause_us != 0) {
                    nanosleep(&pause, NULL);
                }
                send_one(&lanes[used[i]]);
            }
        }
        puts("done");
        fflush(stdout);
    }
    fflush(stdout);
    _exit(0); /* The receiving threads wait in their sockets. */
}

/* A wire between two namespaces, as a pair of tun devices with this process between them. */

#define WIRE_MTU 1500
#define QUEUE 1024u

struct held {
    uint64_t due_ns;
    uint16_t len;
    uint8_t bytes[WIRE_MTU];
};

struct direction {
    struct held queue[QUEUE];
    uint32_t first, count, carried, lost;
};

static volatile sig_atomic_t stopped;

static void stop(int signal_number) {
    (void)signal_number;
    stopped = 1;
}

static int open_tun(const char *file) {
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI, .ifr_name = "wire"};
    enter(file);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0) {
        die("/dev/net/tun");
    }
    return fd;
}

static uint64_t seed = 1;

/* splitmix64 (Steele, Lea and Flood 2014) */
static uint32_t draw(void) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

static void take_in(struct direction *d, int fd, uint32_t loss, uint64_t delay_ns) {
    for (;;) {
        struct held *h = &d->queue[(d->first + d->count) % QUEUE];
        uint8_t spill[WIRE_MTU];
        bool full = d->count == QUEUE;
        ssize_t got = read(fd, full ? spill : h->bytes, WIRE_MTU);
        if (got <= 0) {
            return;
        }
        d->carried++;
        if (full || draw() % 10000u < loss) {
            d->lost++;
            continue;
        }
        h->len = (uint16_t)got;
        h->due_ns = now_ns() + delay_ns;
        d->count++;
    }
}

static uint64_t let_out(struct direction *d, int fd) {
    while (d->count > 0 && d->queue[d->first].due_ns <= now_ns()) {
        struct held *h = &d->queue[d->first];
        if (write(fd, h->bytes, h->len) < 0) {
            d->lost++;
        }
        d->first = (d->first + 1) % QUEUE;
        d->count--;
    }
    return d->count > 0 ? d->queue[d->first].due_ns : UINT64_MAX;
}

static int relay(uint32_t loss, uint64_t delay_ns) {
    static struct direction ways[2];
    int fds[2] = {open_tun(space[0]), open_tun(space[1])};
    struct sigaction on_stop = {.sa_handler = stop};
    sigaction(SIGTERM, &on_stop, NULL);
    sigaction(SIGINT, &on_stop, NULL);
    puts("ready");
    fflush(stdout);
    while (!stopped) {
        uint64_t a = let_out(&ways[0], fds[1]);
        uint64_t b = let_out(&ways[1], fds[0]);
        uint64_t due = a < b ? a : b;
        uint64_t now = now_ns();
        uint64_t left = due > now ? due - now : 0;
        struct timespec wait = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
        /* The end of stdin is the end: whoever started this is gone. */
        struct pollfd ready[3] = {
            {.fd = fds[0], .events = POLLIN}, {.fd = fds[1], .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        if (ppoll(ready, 3, due == UINT64_MAX ? NULL : &wait, NULL) > 0) {
            stopped = ready[2].revents != 0 ? 1 : stopped;
            take_in(&ways[0], fds[0], loss, delay_ns);
            take_in(&ways[1], fds[1], loss, delay_ns);
        }
    }
    printf("{\"carried\": [%u, %u], \"lost\": [%u, %u]}\n", ways[0].carried, ways[1].carried, ways[0].lost,
           ways[1].lost);
    return 0;
}

static uint32_t number(const char *text) {
    return (uint32_t)strtoul(text, NULL, 10);
}

int main(int argc, char **argv) {
    struct count c = {0};
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "wire") == 0 && argc == 3) {
        simulate((uint16_t)number(argv[2]), 1, 0, &c);
        print_count(&c);
        return 0;
    }
    if (strcmp(what, "loss") == 0 && argc == 5) {
        simulate((uint16_t)number(argv[2]), number(argv[3]), number(argv[4]), &c);
        print_count(&c);
        return 0;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* Not to wait for a peer when whoever asked is gone. */
    if (argc >= 4) {
        space[0] = argv[2];
        space[1] = argv[3];
    }
    if (strcmp(what, "race") == 0 && argc > 7) {
        host_of = argv[4];
        core_of[0] = atoi(argv[5]);
        core_of[1] = atoi(argv[6]);
        return race(argc - 7, argv + 7);
    }
    if (strcmp(what, "relay") == 0 && argc == 6) {
        ssize_t got = getrandom(&seed, sizeof seed, 0);
        (void)got;
        return relay(number(argv[4]), number(argv[5]) * 1000ull);
    }
    fputs("bench_link: wire, loss, race or relay; see the head of bench_link.c\n", stderr);
    return 2;
}
