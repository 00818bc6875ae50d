/* A load generator: N clients in one process, each with a socket of its own.
 *
 *     heads udp|tcp|http|grpc HOST PORT EXAMPLES --heads N [--timeout MS] [--path P] [--header H] [--connect S]
 *
 * EXAMPLES is what generator.py writes. Clients open, then the process says {"up": N, ..} and takes blocks on stdin:
 *
 *     closed WARM_S SECONDS OUTSTANDING    each client sends its next request when a result is there
 *     open WARM_S SECONDS RATE SEED        requests come as a Poisson process of RATE per second, each to any client
 *
 * and answers each with one line of JSON; the end of stdin is goodbye. A round trip is from the moment its request
 * came (in an open block: also if the client was still busy) to the verified result. Exits 1 if any result was wrong
 * or any request was lost. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ull
#define MOST_HEADS 10000u
#define MOST_NAMES 32u
#define EVENTS 256
#define BUFFER_BYTES (256 * 1024)

struct options options = {.heads = 1, .outstanding = 1, .timeout_ms = 10000, .path = "/", .header = ""};
struct examples examples;

struct tally {
    const char *name;
    uint64_t count;
};

static struct {
    enum { IDLE, CLOSED, OPEN } mode;
    uint64_t begin_ns, end_ns; /* what is measured; before it, warm-up */
    double rate;
    uint64_t seed, next_ns;
    uint64_t sent, done, in_time, wrong, lost;
    struct tally errors[MOST_NAMES], ends[MOST_NAMES];
    uint32_t *took_ns100; /* every counted round trip, units of 100 ns */
    size_t count, room;
    double cpu_s;
} block;

static struct head *heads;
static uint64_t *due;
static const struct wire *wire;
static int epoll_fd;
static uint32_t up;
static bool failed;

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

_Noreturn void die(const char *what) {
    fprintf(stderr, "heads: %s: %s\n", what, strerror(errno));
    exit(2);
}

static const uint8_t *example(const struct head *h, uint32_t number) {
    size_t stride = examples.boundary_bytes + examples.result_bytes;
    return examples.data + (number + h->index) % examples.count * stride;
}

const uint8_t *boundary_of(const struct head *h, uint32_t number) {
    return example(h, number);
}

const uint8_t *result_of(const struct head *h, uint32_t number) {
    return example(h, number) + examples.boundary_bytes;
}

static void add(struct tally *tallies, const char *name) {
    uint32_t i = 0;
    while (i + 1 < MOST_NAMES && tallies[i].name != NULL && strcmp(tallies[i].name, name) != 0) {
        i++;
    }
    tallies[i].name = name;
    tallies[i].count++;
}

/* Sockets. */

static void watch(struct head *h, int operation) {
    struct epoll_event e = {.events = EPOLLIN | (h->want_write ? (uint32_t)EPOLLOUT : 0), .data.ptr = h};
    if (epoll_ctl(epoll_fd, operation, h->fd, &e) != 0) {
        die("epoll_ctl");
    }
}

int open_socket(struct head *h, int type) {
    int one = 1;
    int buffer = BUFFER_BYTES;
    h->fd = socket(options.to.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (h->fd < 0) {
        die("socket");
    }
    if (type == SOCK_STREAM) {
        setsockopt(h->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    } else {
        setsockopt(h->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    }
    int code = connect(h->fd, (struct sockaddr *)&options.to, options.to_len);
    if (code != 0 && errno != EINPROGRESS) {
        close(h->fd);
        h->fd = -1;
        return -1;
    }
    h->connecting = h->want_write = type == SOCK_STREAM;
    watch(h, EPOLL_CTL_ADD);
    return h->fd;
}

void close_socket(struct head *h) {
    if (h->fd >= 0) {
        close(h->fd);
        h->fd = -1;
    }
}

void watch_writes(struct head *h, bool on) {
    if (h->fd >= 0 && on != h->want_write) {
        h->want_write = on;
        watch(h, EPOLL_CTL_MOD);
    }
}

/* Requests. */

static bool begin(struct head *h, uint64_t since_ns) {
    struct request *r = &h->request[h->next % MOST_OUTSTANDING];
    if (r->busy) {
        return false;
    }
    h->in_flight++;
    if (!wire->start(h, h->next)) {
        h->in_flight--;
        return false;
    }
    *r = (struct request){.number = h->next++, .busy = true, .since_ns = since_ns};
    r->counted = since_ns >= block.begin_ns && since_ns < block.end_ns;
    block.sent++;
    return true;
}

/* Begins what this client can take. */
static void feed(struct head *h) {
    uint64_t now = block.mode == CLOSED ? now_ns() : 0;
    if (block.mode == CLOSED) {
        while (h->up && h->in_flight < options.outstanding && now < block.end_ns && begin(h, now)) {
        }
        return;
    }
    while (h->up && h->waiting > 0 && h->in_flight < options.outstanding && begin(h, h->waiting_ns[h->first])) {
        h->first = (h->first + 1) % BACKLOG;
        h->waiting--;
    }
}

static void lose(const char *why) {
    block.lost++;
    failed = true;
    add(block.errors, why);
}

static void record(uint64_t took_ns) {
    if (block.count == block.room) {
        block.room = block.room == 0 ? 65536 : 2 * block.room;
        block.took_ns100 = realloc(block.took_ns100, block.room * sizeof *block.took_ns100);
        if (block.took_ns100 == NULL) {
            die("memory");
        }
    }
    uint64_t units = took_ns / 100;
    block.took_ns100[block.count++] = units < UINT32_MAX ? (uint32_t)units : UINT32_MAX;
}

void finished(struct head *h, uint32_t number, const char *why, const uint8_t *result, size_t len) {
    struct request *r = &h->request[number % MOST_OUTSTANDING];
    uint64_t now = now_ns();
    if (!r->busy || r->number != number) {
        lose("unasked");
        return;
    }
    r->busy = false;
    h->in_flight--;
    if (why != NULL) {
        lose(why);
        return;
    }
    if (len != examples.result_bytes || memcmp(result, result_of(h, number), len) != 0) {
        block.wrong++;
        failed = true;
        return;
    }
    block.done++;
    if (r->counted) {
        record(now - r->since_ns);
    }
    if (now >= block.begin_ns && now < block.end_ns) {
        block.in_time++;
        h->done++;
    }
}

void is_up(struct head *h) {
    if (!h->up) {
        h->up = true;
        up++;
    }
}

void is_down(struct head *h, const char *why) {
    add(block.ends, why);
    if (h->up) {
        h->up = false;
        up--;
    }
}

/* Blocks. */

/* splitmix64 (Steele, Lea and Flood 2014), as a number in (0, 1]. */
static double draw(void) {
    uint64_t z = block.seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0 + 1.0 / 18014398509481984.0;
}

/* The requests that came until now; each client gets as many on average. */
static void arrive(uint64_t now) {
    while (block.mode == OPEN && block.next_ns <= now && block.next_ns < block.end_ns) {
        struct head *h = &heads[(uint32_t)(draw() * options.heads) % options.heads];
        if (h->waiting == BACKLOG) {
            lose("backlog");
        } else {
            h->waiting_ns[(h->first + h->waiting++) % BACKLOG] = block.next_ns;
            feed(h);
        }
        block.next_ns += (uint64_t)(-log(draw()) / block.rate * (double)SECOND_NS);
    }
}

static uint64_t under_way(void) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < options.heads; i++) {
        sum += heads[i].in_flight + heads[i].waiting;
    }
    return sum;
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* One round of the loop: at most until `until`. */
static void turn(uint64_t until, bool *line) {
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns();
    uint64_t wake = until;
    arrive(now);
    for (uint32_t i = 0; i < options.heads; i++) {
        if (due[i] <= now) {
            wire->timer(&heads[i]);
            feed(&heads[i]);
        }
        wake = due[i] < wake ? due[i] : wake;
    }
    if (block.mode == OPEN && block.next_ns < block.end_ns && block.next_ns < wake) {
        wake = block.next_ns;
    }
    now = now_ns();
    uint64_t wait_ns = wake > now ? wake - now : 0;
    struct timespec wait = {(time_t)(wait_ns / SECOND_NS), (long)(wait_ns % SECOND_NS)};
    struct pollfd both[2] = {{.fd = epoll_fd, .events = POLLIN}, {.fd = line != NULL ? 0 : -1, .events = POLLIN}};
    if (ppoll(both, 2, &wait, NULL) < 0 && errno != EINTR) {
        die("ppoll");
    }
    if (line != NULL) {
        *line = both[1].revents != 0;
    }
    int count = both[0].revents != 0 ? epoll_wait(epoll_fd, events, EVENTS, 0) : 0;
    for (int i = 0; i < count; i++) {
        struct head *h = events[i].data.ptr;
        if (h->fd >= 0 && (events[i].events & EPOLLOUT) != 0) {
            wire->writable(h);
        }
        if (h->fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT) != 0) {
            wire->readable(h);
        }
        feed(h);
        if (*h->due_ns <= now) {
            wire->timer(h);
        }
    }
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_us(double q) {
    if (block.count == 0) {
        return 0;
    }
    size_t at = (size_t)ceil(q * (double)block.count);
    return block.took_ns100[at > 0 ? at - 1 : 0] / 10.0;
}

static void print_tallies(const char *name, const struct tally *tallies) {
    printf(", \"%s\": {", name);
    for (uint32_t i = 0; i < MOST_NAMES && tallies[i].name != NULL; i++) {
        printf("%s\"%s\": %llu", i > 0 ? ", " : "", tallies[i].name, (unsigned long long)tallies[i].count);
    }
    printf("}");
}

/* Counts per class; each is a twelfth of an octave wide. */
static void print_histogram(void) {
    const char *comma = "";
    printf(", \"histogram_us\": [");
    for (size_t i = 0; i < block.count;) {
        double edge = block.took_ns100[i] > 0 ? pow(2, ceil(log2(block.took_ns100[i] / 10.0) * 12 + 1e-9) / 12) : 0.1;
        size_t from = i;
        while (i < block.count && (block.took_ns100[i] / 10.0 <= edge || i == from)) {
            i++;
        }
        printf("%s[%.1f, %zu]", comma, edge, i - from);
        comma = ", ";
    }
    printf("]");
}

static void report(double seconds) {
    double sum = 0;
    double squares = 0;
    double total_us = 0;
    uint32_t least = UINT32_MAX;
    uint32_t most = 0;
    for (uint32_t i = 0; i < options.heads; i++) {
        double n = heads[i].done;
        sum += n;
        squares += n * n;
        least = heads[i].done < least ? heads[i].done : least;
        most = heads[i].done > most ? heads[i].done : most;
    }
    if (block.count > 0) {
        qsort(block.took_ns100, block.count, sizeof *block.took_ns100, ascending);
    }
    for (size_t i = 0; i < block.count; i++) {
        total_us += block.took_ns100[i] / 10.0;
    }
    printf("{\"sent\": %llu, \"exact\": %llu, \"wrong\": %llu, \"lost\": %llu, \"up\": %u",
           (unsigned long long)block.sent, (unsigned long long)block.done, (unsigned long long)block.wrong,
           (unsigned long long)block.lost, up);
    print_tallies("errors", block.errors);
    print_tallies("session_ends", block.ends);
    printf(", \"seconds\": %.6f, \"per_second\": %.3f, \"counted\": %zu", seconds, (double)block.in_time / seconds,
           block.count);
    printf(", \"latency_us\": {\"min\": %.1f, \"mean\": %.1f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, "
           "\"p999\": %.1f, \"max\": %.1f}",
           quantile_us(0), block.count > 0 ? total_us / (double)block.count : 0, quantile_us(0.5), quantile_us(0.9),
           quantile_us(0.99), quantile_us(0.999), quantile_us(1));
    printf(", \"per_head\": {\"min\": %u, \"max\": %u, \"jain\": %.6f}", least, most,
           squares > 0 ? sum * sum / (squares * options.heads) : 0);
    print_histogram();
    printf(", \"cpu_s\": %.6f}\n", cpu_s() - block.cpu_s);
    fflush(stdout);
    memset(block.ends, 0, sizeof block.ends);
}

/* Every request ends by its own deadline; what has none by then is lost. */
static void drain(void) {
    uint64_t until = now_ns() + (options.timeout_ms + 1000ull) * 1000000u;
    while (under_way() > 0 && now_ns() < until) {
        turn(until, NULL);
    }
    for (uint32_t i = 0; i < options.heads; i++) {
        for (; heads[i].waiting > 0; heads[i].waiting--) {
            lose("backlog");
        }
        for (uint32_t r = 0; r < MOST_OUTSTANDING; r++) {
            if (heads[i].request[r].busy) {
                heads[i].request[r].busy = false;
                heads[i].in_flight--;
                lose("no answer");
            }
        }
    }
}

/* For the next block; how sessions ended meanwhile is told with it. */
static void clear(void) {
    memset(block.errors, 0, sizeof block.errors);
    block.sent = block.done = block.in_time = block.wrong = block.lost = 0;
    block.count = 0;
}

static bool run_block(const char *line) {
    double warm_s = 0;
    double seconds = 0;
    double third = 0;
    unsigned long long seed = 1;
    char mode[8];
    int words = sscanf(line, "%7s %lf %lf %lf %llu", mode, &warm_s, &seconds, &third, &seed);
    bool open = strcmp(mode, "open") == 0;
    if (words < 4 || (!open && strcmp(mode, "closed") != 0) || warm_s < 0 || seconds <= 0 || third <= 0 ||
        (!open && third > MOST_OUTSTANDING)) {
        fprintf(stderr, "heads: not a block: %s", line);
        return false;
    }
    uint64_t now = now_ns();
    clear();
    block.begin_ns = now + (uint64_t)(warm_s * (double)SECOND_NS);
    block.end_ns = block.begin_ns + (uint64_t)(seconds * (double)SECOND_NS);
    block.rate = open ? third : 0;
    block.seed = seed;
    block.next_ns = now;
    block.mode = open ? OPEN : CLOSED;
    options.outstanding = open ? 1 : (uint32_t)third;
    block.cpu_s = cpu_s();
    for (uint32_t i = 0; i < options.heads; i++) {
        heads[i].done = 0;
        feed(&heads[i]);
    }
    while (now_ns() < block.end_ns) {
        turn(block.end_ns, NULL);
    }
    arrive(block.end_ns); /* what came since the last look, too: the same seed is the same load */
    drain();
    block.mode = IDLE;
    report(seconds);
    return true;
}

static void read_examples(const char *name) {
    FILE *file = fopen(name, "rb");
    uint8_t head[TS_BUNDLE_BYTES + 16 + 4 * TS_MAX_TENSORS + 4];
    if (file == NULL || fread(head, sizeof head, 1, file) != 1) {
        die(name);
    }
    const uint8_t *at = head + TS_BUNDLE_BYTES;
    memcpy(examples.bundle, head, TS_BUNDLE_BYTES);
    examples.stage = ts_get32(at);
    examples.stage_count = ts_get32(at + 4);
    examples.count = ts_get32(at + 8);
    examples.tensors = ts_get32(at + 12);
    for (uint32_t i = 0; i < TS_MAX_TENSORS; i++) {
        examples.bytes[i] = ts_get32(at + 16 + 4 * i);
        examples.boundary_bytes += examples.bytes[i];
    }
    examples.result_bytes = ts_get32(at + 16 + 4 * TS_MAX_TENSORS);
    size_t size = (size_t)examples.count * (examples.boundary_bytes + examples.result_bytes);
    uint8_t *data = malloc(size);
    errno = EINVAL;
    if (size == 0 || data == NULL || fread(data, size, 1, file) != 1) {
        die(name);
    }
    examples.data = data;
    fclose(file);
}

static bool resolve(const char *host, const char *port) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)&options.to;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&options.to;
    unsigned long number = strtoul(port, NULL, 10);
    snprintf(options.authority, sizeof options.authority, "%s:%s", host, port);
    if (number == 0 || number > 65535) {
        return false;
    }
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        *v4 = (struct sockaddr_in){AF_INET, htons((uint16_t)number), v4->sin_addr, {0}};
        options.to_len = sizeof *v4;
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)number);
        options.to_len = sizeof *v6;
        return true;
    }
    return false;
}

static bool read_arguments(int count, char **words, double *connect_s) {
    static const struct option names[] = {{"heads", 1, NULL, 'n'},  {"timeout", 1, NULL, 't'}, {"path", 1, NULL, 'p'},
                                          {"header", 1, NULL, 'h'}, {"connect", 1, NULL, 'c'}, {NULL, 0, NULL, 0}};
    static const char *const protocols[] = {"udp", "tcp", "http", "grpc"};
    for (int option; (option = getopt_long(count, words, "", names, NULL)) != -1;) {
        if (option == 'n') {
            options.heads = (uint32_t)strtoul(optarg, NULL, 10);
        } else if (option == 't') {
            options.timeout_ms = (uint32_t)strtoul(optarg, NULL, 10);
        } else if (option == 'p') {
            options.path = optarg;
        } else if (option == 'h') {
            options.header = optarg;
        } else if (option == 'c') {
            *connect_s = strtod(optarg, NULL);
        } else {
            return false;
        }
    }
    if (count - optind != 4 || options.heads == 0 || options.heads > MOST_HEADS ||
        !resolve(words[optind + 1], words[optind + 2])) {
        return false;
    }
    for (uint32_t i = 0; i < sizeof protocols / sizeof *protocols; i++) {
        if (strcmp(words[optind], protocols[i]) == 0) {
            options.protocol = (enum protocol)i;
            read_examples(words[optind + 3]);
            return true;
        }
    }
    return false;
}

int main(int count, char **words) {
    double connect_s = 30;
    char line[128];
    if (!read_arguments(count, words, &connect_s)) {
        fprintf(stderr, "usage: heads udp|tcp|http|grpc HOST PORT EXAMPLES --heads N (see heads.c)\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setvbuf(stdin, NULL, _IONBF, 0);
    wire = options.protocol <= P_TCP ? &link_wire : &http_wire;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    heads = calloc(options.heads, sizeof *heads);
    due = calloc(options.heads, sizeof *due);
    if (epoll_fd < 0 || heads == NULL || due == NULL) {
        die("memory");
    }
    uint64_t began = now_ns();
    uint64_t until = began + (uint64_t)(connect_s * (double)SECOND_NS);
    for (uint32_t i = 0; i < options.heads; i++) {
        heads[i].index = i;
        heads[i].fd = -1;
        heads[i].due_ns = &due[i];
        due[i] = NEVER_NS;
        wire->create(&heads[i]);
        wire->open(&heads[i]);
    }
    while (up < options.heads && now_ns() < until) {
        turn(until, NULL);
    }
    printf("{\"up\": %u, \"seconds\": %.6f", up, (double)(now_ns() - began) / (double)SECOND_NS);
    print_tallies("session_ends", block.ends);
    printf("}\n");
    fflush(stdout);
    memset(block.ends, 0, sizeof block.ends);
    failed = failed || up < options.heads;
    for (bool ready = false, on = true; on;) {
        turn(now_ns() + SECOND_NS, &ready);
        if (ready) {
            on = fgets(line, sizeof line, stdin) != NULL && run_block(line);
        }
    }
    for (uint32_t i = 0; i < options.heads; i++) {
        wire->close(&heads[i]);
        wire->destroy(&heads[i]);
    }
    free(heads);
    free(due);
    free(block.took_ns100);
    free((void *)(uintptr_t)examples.data);
    return failed ? 1 : 0;
}
