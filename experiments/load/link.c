/* tinysplit's own protocol: firmware/core as heads, over UDP and TCP. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"
#include "machine.h"

#define UDP_MTU 1452u
#define OUT_BYTES (64u * 1024u)
#define AGAIN_NS 200000u
#define RECONNECT_NS 200000000u
#define RESULT_ROOM 1024u

struct own {
    struct ts_link link;
    struct ts_session session;
    struct ts_job jobs[MOST_OUTSTANDING];
    struct ts_node_config config;
    struct ts_node node;
    struct ts_tensors input[MOST_OUTSTANDING];
    struct ts_stream reader;
    uint64_t reconnect_ns; /* 0: connected or connecting */
    bool gone;             /* the connection broke, and the core does not know yet */
    uint8_t *rx, *jobs_out, *stream_frame, *out;
    size_t out_len;
};

static const struct ts_addr tail = {.len = 1};
static struct ts_crc_fast tables;
static uint8_t frame[TS_MAX_MTU]; /* one is built at a time */

static bool is_tcp(void) {
    return options.protocol == P_TCP;
}

static void broke(struct head *h) {
    struct own *o = h->own;
    close_socket(h);
    o->out_len = 0;
    o->gone = true;
    o->reconnect_ns = now_ns() + RECONNECT_NS;
}

static void flush(struct head *h) {
    struct own *o = h->own;
    size_t at = 0;
    while (h->fd >= 0 && !h->connecting && at < o->out_len) {
        ssize_t sent = send(h->fd, o->out + at, o->out_len - at, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                broke(h);
                return;
            }
            break;
        }
        at += (size_t)sent;
    }
    memmove(o->out, o->out + at, o->out_len - at);
    o->out_len -= at;
    watch_writes(h, h->connecting || o->out_len > 0);
}

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *bytes, size_t len) {
    struct head *h = ctx;
    struct own *o = h->own;
    (void)to;
    if (h->fd < 0) {
        return TS_E_SEND_FAILED;
    }
    if (is_tcp()) {
        if (o->out_len + TS_PREFIX_BYTES + len > OUT_BYTES) {
            return TS_E_WOULD_BLOCK;
        }
        ts_put16(o->out + o->out_len, (uint32_t)len);
        memcpy(o->out + o->out_len + TS_PREFIX_BYTES, bytes, len);
        o->out_len += TS_PREFIX_BYTES + len;
        return TS_OK;
    }
    ssize_t sent = send(h->fd, bytes, len, 0);
    if (sent < 0 && errno == ECONNREFUSED) {
        sent = send(h->fd, bytes, len, 0); /* that was what an earlier frame met */
    }
    return sent >= 0 || (errno != EAGAIN && errno != ENOBUFS) ? TS_OK : TS_E_WOULD_BLOCK;
}

/* The stage of a head that has computed already: its input is its boundary. */
static int invoke(void *ctx, struct ts_invoke *run) {
    (void)ctx;
    memcpy(run->output, run->input->data, run->input->total);
    memcpy(run->bytes, run->input->bytes, sizeof run->bytes);
    run->count = run->input->count;
    return TS_OK;
}

static void result(void *ctx, const struct ts_result *r) {
    const char *why = r->code == TS_OK ? NULL : ts_error_name(r->code);
    finished(ctx, r->inference - 1, why, why == NULL ? r->tensors->data : NULL, why == NULL ? r->tensors->total : 0);
}

static void event(void *ctx, const struct ts_event *e) {
    if (e->type == TS_EV_UP) {
        is_up(ctx);
    } else if (e->type == TS_EV_DOWN) {
        is_down(ctx, ts_error_name(e->code));
    }
}

/* Does what is due and plans the next time. */
static void step(struct head *h) {
    struct own *o = h->own;
    uint64_t due_us = 0;
    uint64_t now_us = vb_now_us();
    for (unsigned turn = 0; turn < 2 * MOST_OUTSTANDING && due_us <= now_us; turn++) {
        if (o->gone) {
            o->gone = false;
            ts_gone(&o->node.ep, now_us, &tail);
        }
        due_us = ts_node_poll(&o->node, now_us); /* runs one engine at a time */
    }
    if (is_tcp()) {
        flush(h);
    }
    uint64_t due_ns = due_us == TS_NEVER ? NEVER_NS : due_us * 1000u;
    if (due_us <= now_us) {
        due_ns = now_ns() + AGAIN_NS; /* the socket is full */
    }
    *h->due_ns = o->reconnect_ns != 0 && o->reconnect_ns < due_ns ? o->reconnect_ns : due_ns;
}

static void connect_tail(struct head *h) {
    struct own *o = h->own;
    o->reconnect_ns = 0;
    if (open_socket(h, is_tcp() ? SOCK_STREAM : SOCK_DGRAM) < 0) {
        o->reconnect_ns = now_ns() + RECONNECT_NS;
        return;
    }
    ts_stream_init(&o->reader, false, o->stream_frame, TS_MAX_MTU);
}

static void create(struct head *h) {
    struct own *o = calloc(1, sizeof *o);
    uint32_t most = RESULT_ROOM + examples.result_bytes;
    if (tables.crc16[0][1] == 0) {
        ts_crc_fast_init(&tables);
    }
    if (o != NULL) {
        o->rx = aligned_alloc(16, TS_RX_MEMORY(1, most));
        o->jobs_out = aligned_alloc(16, TS_JOB_MEMORY(MOST_OUTSTANDING, examples.boundary_bytes));
    }
    if (o != NULL && is_tcp()) {
        o->stream_frame = malloc(TS_MAX_MTU);
        o->out = malloc(OUT_BYTES);
    }
    if (o == NULL || o->rx == NULL || o->jobs_out == NULL ||
        (is_tcp() && (o->stream_frame == NULL || o->out == NULL))) {
        die("memory");
    }
    h->own = o;
    o->link = (struct ts_link){
        .mtu = is_tcp() ? TS_MAX_MTU : UDP_MTU, .reorder = is_tcp() ? 1 : 0, .rto_min_us = is_tcp() ? 1000000 : 0};
    o->config = (struct ts_node_config){.endpoint = {.ctx = h,
                                                     .crc = {&tables, ts_crc16_fast, ts_crc32_fast},
                                                     .send = send_frame,
                                                     .random = vb_random,
                                                     .role = examples.stage == 0 ? TS_ROLE_HEAD : TS_ROLE_RELAY,
                                                     .stage = (uint8_t)examples.stage,
                                                     .stage_count = (uint8_t)examples.stage_count,
                                                     .links = &o->link,
                                                     .link_count = 1,
                                                     .sessions = &o->session,
                                                     .session_count = 1,
                                                     .rx_memory = o->rx,
                                                     .rx_memory_bytes = TS_RX_MEMORY(1, most),
                                                     .max_message = most,
                                                     .frame = frame,
                                                     .frame_bytes = sizeof frame},
                                        .downstream = &tail,
                                        .jobs = o->jobs,
                                        .job_count = MOST_OUTSTANDING,
                                        .out_memory = o->jobs_out,
                                        .out_memory_bytes = TS_JOB_MEMORY(MOST_OUTSTANDING, examples.boundary_bytes),
                                        .max_output = examples.boundary_bytes,
                                        .invoke = invoke,
                                        .result = result,
                                        .event = event};
    memcpy(o->config.endpoint.bundle, examples.bundle, TS_BUNDLE_BYTES);
}

static void destroy(struct head *h) {
    struct own *o = h->own;
    free(o->rx);
    free(o->jobs_out);
    free(o->stream_frame);
    free(o->out);
    free(o);
}

static void open_head(struct head *h) {
    struct own *o = h->own;
    connect_tail(h);
    if (ts_node_init(&o->node, &o->config, vb_now_us()) != TS_OK) {
        errno = EINVAL;
        die("the core does not take this configuration");
    }
    step(h);
}

static bool start(struct head *h, uint32_t number) {
    struct own *o = h->own;
    struct ts_tensors *t = &o->input[number % MOST_OUTSTANDING];
    *t = (struct ts_tensors){
        .count = (uint8_t)examples.tensors, .total = examples.boundary_bytes, .data = boundary_of(h, number)};
    memcpy(t->bytes, examples.bytes, sizeof t->bytes);
    if (ts_node_infer(&o->node, vb_now_us(), number + 1, t, options.timeout_ms) != TS_OK) {
        return false;
    }
    *h->due_ns = 0; /* stepped by the loop, or by whoever called */
    return true;
}

static void deliver(void *ctx, const uint8_t *bytes, size_t len) {
    struct head *h = ctx;
    ts_node_on_datagram(&((struct own *)h->own)->node, vb_now_us(), &tail, bytes, len);
}

static void readable(struct head *h) {
    struct own *o = h->own;
    static uint8_t buffer[65536];
    ssize_t got = recv(h->fd, buffer, sizeof buffer, 0);
    if (!is_tcp()) {
        if (got > 0) {
            deliver(h, buffer, (size_t)got);
        }
    } else if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR) ||
               (got > 0 && ts_stream_read(&o->reader, buffer, (size_t)got, deliver, h) != TS_OK)) {
        broke(h);
    }
    *h->due_ns = 0;
}

static void writable(struct head *h) {
    if (h->connecting) {
        int error = 0;
        socklen_t len = sizeof error;
        if (getsockopt(h->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
            broke(h);
        }
        h->connecting = false;
    }
    *h->due_ns = 0;
}

static void timer(struct head *h) {
    struct own *o = h->own;
    if (o->reconnect_ns != 0 && now_ns() >= o->reconnect_ns) {
        connect_tail(h);
    }
    step(h);
}

static void close_head(struct head *h) {
    struct own *o = h->own;
    if (o->node.downstream >= 0) {
        ts_close(&o->node.ep, vb_now_us(), (uint16_t)o->node.downstream);
        step(h);
    }
    close_socket(h);
}

const struct wire link_wire = {create, destroy, open_head, start, readable, writable, timer, close_head};
