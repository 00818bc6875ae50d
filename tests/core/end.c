/* One node with one peer and no sockets, for tests that drive the core from another language.
 *
 * Frames to send and things that happened wait in queues until they are taken. The engine
 * reverses each tensor at the last stage and adds 1 to each byte at the others. */
#include "tinysplit/tinysplit.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGE 8192
#define SESSIONS 2
#define JOBS 4
#define QUEUE 512

struct end_event {
    uint32_t type;                /* 0 up, 1 down, 2 sent, 3 message, 4 result */
    uint32_t code, token, length; /* token: of a message sent; the inference; the kind of a message */
    uint8_t body[MESSAGE];
};

struct end {
    struct ts_node node;
    struct ts_node_config cfg;
    struct ts_link link;
    struct ts_addr peer;
    struct ts_session sessions[SESSIONS];
    struct ts_job jobs[JOBS];
    uint8_t rx[TS_RX_MEMORY(SESSIONS, MESSAGE)];
    uint8_t out[TS_JOB_MEMORY(JOBS, MESSAGE)];
    uint8_t frame[TS_MAX_MTU];
    struct ts_coding coding;
    uint8_t coded[TS_CODING_MEMORY(JOBS, MESSAGE, MESSAGE)];
    uint64_t now, seed;
    struct ts_crc_fast tables;
    struct {
        size_t len;
        uint8_t *bytes;
    } frames[QUEUE];
    uint32_t frames_from, frames_to, room;
    struct end_event *events[QUEUE];
    uint32_t events_from, events_to;
    uint8_t inputs[JOBS * 4][MESSAGE];
    uint8_t bodies[JOBS * 4][MESSAGE];
    uint32_t input_next, body_next;
};

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *bytes, size_t len) {
    struct end *e = ctx;
    (void)to;
    if (e->frames_to - e->frames_from >= e->room) {
        return TS_E_WOULD_BLOCK;
    }
    uint32_t i = e->frames_to++ % QUEUE;
    e->frames[i].len = len;
    e->frames[i].bytes = malloc(len);
    memcpy(e->frames[i].bytes, bytes, len);
    return TS_OK;
}

/* splitmix64 (Steele, Lea and Flood 2014) */
static uint32_t random_word(void *ctx) {
    struct end *e = ctx;
    uint64_t z = e->seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

static void note(struct end *e, uint32_t type, uint32_t code, uint32_t token, const uint8_t *body, uint32_t len) {
    if (e->events_to - e->events_from == QUEUE || len > MESSAGE) {
        abort();
    }
    struct end_event *event = calloc(1, sizeof *event);
    event->type = type;
    event->code = code;
    event->token = token;
    event->length = len;
    if (len > 0) {
        memcpy(event->body, body, len);
    }
    e->events[e->events_to++ % QUEUE] = event;
}

static void on_event(void *ctx, const struct ts_event *event) {
    struct end *e = ctx;
    uint32_t token = event->type == TS_EV_MESSAGE ? event->kind : event->token;
    note(e, event->type, event->code, token, event->body, event->type == TS_EV_MESSAGE ? event->len : 0);
    if (event->type == TS_EV_MESSAGE) {
        ts_release(&e->node.ep, e->now, event->session, event->slot);
    }
}

static void on_result(void *ctx, const struct ts_result *r) {
    const uint8_t *body = r->tensors != NULL ? r->tensors->data : NULL;
    note(ctx, 4, r->code, r->inference, body, r->tensors != NULL ? r->tensors->total : 0);
}

static int run_stage(void *ctx, struct ts_invoke *run) {
    struct end *e = ctx;
    bool last = e->cfg.endpoint.stage + 1 == e->cfg.endpoint.stage_count;
    uint32_t at = 0;
    run->count = run->input->count;
    for (uint32_t t = 0; t < run->count; t++) {
        uint32_t len = run->bytes[t] = run->input->bytes[t];
        for (uint32_t i = 0; i < len; i++) {
            run->output[at + i] = last ? run->input->data[at + len - 1 - i] : (uint8_t)(run->input->data[at + i] + 1u);
        }
        at += len;
    }
    run->invoke_us = 50;
    return TS_OK;
}

struct end *end_new(int head, uint16_t mtu, int stream, int coding, uint32_t seed, uint64_t now);
void end_link(struct end *e, uint16_t window, uint8_t reorder, uint32_t rto_min_us, uint32_t room);
uint32_t end_data_out(const struct end *e);
void end_free(struct end *e);
void end_receive(struct end *e, uint64_t now, const uint8_t *frame, size_t len);
uint64_t end_poll(struct end *e, uint64_t now);
int end_infer(struct end *e, uint64_t now, uint32_t inference, const uint8_t *data, uint32_t len, uint32_t timeout_ms);
int end_send(struct end *e, uint64_t now, uint8_t kind, const uint8_t *body, uint32_t len, uint32_t timeout_ms,
             uint32_t token);
size_t end_take_frame(struct end *e, uint8_t *out);
int end_take_event(struct end *e, struct end_event *out);

struct end *end_new(int head, uint16_t mtu, int stream, int coding, uint32_t seed, uint64_t now) {
    struct end *e = calloc(1, sizeof *e);
    e->seed = seed;
    e->room = QUEUE;
    e->peer = (struct ts_addr){.len = 1, .bytes = {1}};
    e->link = (struct ts_link){.mtu = mtu, .reorder = stream ? 1 : 3, .rto_min_us = stream ? 1000000 : 5000};
    ts_crc_fast_init(&e->tables);
    e->cfg = (struct ts_node_config){.endpoint = {.ctx = e,
                                                  .crc = {&e->tables, ts_crc16_fast, ts_crc32_fast},
                                                  .send = send_frame,
                                                  .random = random_word,
                                                  .role = head ? TS_ROLE_HEAD : TS_ROLE_TAIL,
                                                  .stage = head ? 0 : 1,
                                                  .stage_count = 2,
                                                  .accept_control = true,
                                                  .accept_blob = true,
                                                  .accept_private = true,
                                                  .links = &e->link,
                                                  .link_count = 1,
                                                  .sessions = e->sessions,
                                                  .session_count = SESSIONS,
                                                  .rx_memory = e->rx,
                                                  .rx_memory_bytes = sizeof e->rx,
                                                  .max_message = MESSAGE,
                                                  .frame = e->frame,
                                                  .frame_bytes = sizeof e->frame},
                                     .downstream = head ? &e->peer : NULL,
                                     .jobs = e->jobs,
                                     .job_count = JOBS,
                                     .out_memory = e->out,
                                     .out_memory_bytes = sizeof e->out,
                                     .max_output = MESSAGE,
                                     .invoke = run_stage,
                                     .result = on_result,
                                     .event = on_event};
    for (uint32_t i = 0; i < TS_BUNDLE_BYTES; i++) {
        e->cfg.endpoint.bundle[i] = (uint8_t)i;
    }
    if (coding && ts_coding_init(&e->coding, e->coded, sizeof e->coded, JOBS, MESSAGE, MESSAGE) == TS_OK) {
        e->cfg.coding = &e->coding;
        e->cfg.endpoint.codecs = TS_CODECS_RAW | TS_CODECS_RANGE;
    }
    if (ts_node_init(&e->node, &e->cfg, now) != TS_OK) {
        free(e);
        return NULL;
    }
    return e;
}

/* Makes it another link than end_new did, before anything was sent. It takes `room` frames (at most QUEUE) that
 * end_take_frame has not fetched, and is full then. */
void end_link(struct end *e, uint16_t window, uint8_t reorder, uint32_t rto_min_us, uint32_t room) {
    e->link.window = window;
    e->link.reorder = reorder;
    e->link.rto_min_us = rto_min_us;
    e->room = room < QUEUE ? room : QUEUE;
}

/* DATA frames sent. */
uint32_t end_data_out(const struct end *e) {
    return e->node.ep.stats.data_out;
}

void end_free(struct end *e) {
    while (e->frames_from != e->frames_to) {
        free(e->frames[e->frames_from++ % QUEUE].bytes);
    }
    while (e->events_from != e->events_to) {
        free(e->events[e->events_from++ % QUEUE]);
    }
    free(e);
}

/* The frame lies in memory of exactly its length, so that a sanitizer sees a byte too far. */
void end_receive(struct end *e, uint64_t now, const uint8_t *frame, size_t len) {
    uint8_t *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, frame, len);
    e->now = now;
    ts_node_on_datagram(&e->node, now, &e->peer, copy, len);
    free(copy);
}

uint64_t end_poll(struct end *e, uint64_t now) {
    e->now = now;
    return ts_node_poll(&e->node, now);
}

int end_infer(struct end *e, uint64_t now, uint32_t inference, const uint8_t *data, uint32_t len, uint32_t timeout_ms) {
    uint8_t *input = e->inputs[e->input_next++ % (JOBS * 4)];
    memcpy(input, data, len);
    struct ts_tensors t = {.count = 1, .bytes = {len}, .total = len, .data = input};
    return ts_node_infer(&e->node, now, inference, &t, timeout_ms);
}

int end_send(struct end *e, uint64_t now, uint8_t kind, const uint8_t *body, uint32_t len, uint32_t timeout_ms,
             uint32_t token) {
    uint8_t *copy = e->bodies[e->body_next++ % (JOBS * 4)];
    memcpy(copy, body, len);
    for (uint16_t i = 0; i < SESSIONS; i++) {
        int code = ts_send(&e->node.ep, now, i, kind, copy, len, timeout_ms, token);
        if (code != TS_E_INVALID) {
            return code;
        }
    }
    return TS_E_INVALID;
}

size_t end_take_frame(struct end *e, uint8_t *out) {
    if (e->frames_from == e->frames_to) {
        return 0;
    }
    uint32_t i = e->frames_from++ % QUEUE;
    memcpy(out, e->frames[i].bytes, e->frames[i].len);
    free(e->frames[i].bytes);
    return e->frames[i].len;
}

int end_take_event(struct end *e, struct end_event *out) {
    if (e->events_from == e->events_to) {
        return 0;
    }
    uint32_t i = e->events_from++ % QUEUE;
    *out = *e->events[i];
    free(e->events[i]);
    return 1;
}
