/* Many clients in one process, each with a socket of its own: the parts of `heads`.
 *
 * heads.c has the clock: when a client starts a request, how long it took, whether its result was
 * right. A protocol (link.c: tinysplit's; http.c: HTTP/1.1 and gRPC, for comparison) brings a boundary
 * over and its result back. All of them are driven by one epoll loop and measured by the same code. */
#ifndef TINYSPLIT_LOAD_H
#define TINYSPLIT_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "tinysplit/tinysplit.h"

#define MOST_OUTSTANDING 8u
#define BACKLOG 64u
#define NEVER_NS UINT64_MAX

/* What every client sends and must get back. */
struct examples {
    uint8_t bundle[TS_BUNDLE_BYTES];
    uint32_t stage, stage_count; /* of the client */
    uint32_t tensors, bytes[TS_MAX_TENSORS];
    uint32_t boundary_bytes, result_bytes;
    uint32_t count;
    const uint8_t *data; /* boundary and result of each, one behind the other */
};

enum protocol { P_UDP, P_TCP, P_HTTP, P_GRPC };

struct options {
    enum protocol protocol;
    struct sockaddr_storage to;
    socklen_t to_len;
    char authority[64]; /* HOST:PORT, as HTTP wants it */
    uint32_t heads, outstanding, timeout_ms;
    const char *path, *header; /* HTTP and gRPC */
};

/* A client. `up`: it can take a request. */
struct head {
    int fd; /* -1: none */
    bool up, connecting;
    bool want_write; /* as epoll was told */
    uint32_t index;
    uint32_t in_flight;
    uint32_t next; /* number of the next request */
    struct request {
        uint32_t number;
        bool busy, counted;
        uint64_t since_ns;
    } request[MOST_OUTSTANDING];
    uint64_t waiting_ns[BACKLOG]; /* when the requests came that wait for this client: a ring */
    uint32_t waiting, first;
    uint32_t done;    /* in this block */
    uint64_t *due_ns; /* when `timer` wants to be called; NEVER_NS: not by itself */
    void *own;        /* the protocol's */
};

/* A way to the tail. All calls come from one thread. */
struct wire {
    /* Prepares a client; it is not connected. */
    void (*create)(struct head *h);
    void (*destroy)(struct head *h);
    /* Begins to connect, or to open the session. */
    void (*open)(struct head *h);
    /* Sends request `number`, the boundary of that example; `finished` follows. False: it cannot take one. */
    bool (*start)(struct head *h, uint32_t number);
    void (*readable)(struct head *h);
    void (*writable)(struct head *h);
    void (*timer)(struct head *h);
    /* Says goodbye. */
    void (*close)(struct head *h);
};

extern const struct wire link_wire, http_wire;
extern struct options options;
extern struct examples examples;

/* What request `number` of a client brings, and what must come back. */
const uint8_t *boundary_of(const struct head *h, uint32_t number);
const uint8_t *result_of(const struct head *h, uint32_t number);

uint64_t now_ns(void);
_Noreturn void die(const char *what);

/* A socket to the tail, non-blocking, watched by the loop; -1 if it fails. */
int open_socket(struct head *h, int type);
void close_socket(struct head *h);
void watch_writes(struct head *h, bool on);

/* For protocols to report: request `number` is over, with `why` NULL and its result, or with the name of an error. */
void finished(struct head *h, uint32_t number, const char *why, const uint8_t *result, size_t len);
/* The client is up. */
void is_up(struct head *h);
/* It is not any more; its requests were reported. */
void is_down(struct head *h, const char *why);

#endif
