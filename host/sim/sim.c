#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "tinysplit/tinysplit.h"

#define NO_NODE 255
#define JOBS 4
#define MILLION 1000000u
#define SLACK_BYTES 512u
#define QUEUE 32

struct packet {
    uint64_t at, order;
    uint8_t from, to;
    uint16_t len;
    uint8_t bytes[SIM_MAX_FRAME];
};

/* A frame that waits for the medium. */
struct waiting {
    uint8_t to;
    uint16_t len;
    uint8_t bytes[SIM_MAX_FRAME];
};

struct node {
    struct sim *world;
    const struct sim_node_config *config;
    uint8_t index;
    bool alive;
    struct ts_addr next;
    struct ts_link link;
    struct ts_node_config cfg;
    struct ts_node core;
    uint64_t wake, up_at, reboot_at, infer_at;
    struct ts_invoke *engine;
    uint64_t engine_done;
    uint64_t busy_until; /* SIM_WIRE: the sender's queue */
    /* SIM_ESPNOW */
    struct waiting queue[QUEUE];
    uint8_t queue_first, queue_count, tries;
    uint16_t window;
    uint32_t backoff;
    uint64_t ready_at; /* when it came to have a frame */
    /* heads */
    uint32_t inference;
    bool pending;
    uint64_t begun_at;
    uint64_t done_settled;
    uint8_t *input;
};

struct sim {
    struct sim_config config;
    uint64_t now, end, rng, order;
    bool settling;
    struct node nodes[SIM_NODES];
    struct packet **heap;
    size_t heap_count, heap_room;
    uint64_t medium_free;   /* SIM_ESPNOW: when the transmission on the air is over */
    uint64_t contention_at; /* when the next one begins, UINT64_MAX: nobody has a frame */
    struct ts_crc_fast tables;
    struct sim_report report;
    struct sim_event *events;
    size_t event_count, event_room;
    uint8_t *scratch[2];
};

/* splitmix64 (Steele, Lea and Flood 2014) */
static uint32_t draw(struct sim *w) {
    uint64_t z = w->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

static uint32_t below(struct sim *w, uint32_t limit) {
    return (uint32_t)((uint64_t)draw(w) * limit >> 32);
}

static bool chance(struct sim *w, uint32_t millionths) {
    return millionths != 0 && !w->settling && below(w, MILLION) < millionths;
}

static void digest(struct sim *w, const void *bytes, size_t len) {
    w->report.digest = ts_crc32_fast(&w->tables, w->report.digest, bytes, len);
}

static void note(struct sim *w, uint8_t node, uint8_t kind, uint16_t other, uint32_t value) {
    uint8_t stamp[16];
    ts_put64(stamp, w->now);
    stamp[8] = node;
    stamp[9] = kind;
    ts_put16(stamp + 10, other);
    ts_put32(stamp + 12, value);
    digest(w, stamp, sizeof stamp);
    w->report.events++;
    if (!w->config.trace) {
        return;
    }
    if (w->event_count == w->event_room) {
        size_t room = w->event_room != 0 ? 2 * w->event_room : 4096;
        struct sim_event *grown = realloc(w->events, room * sizeof *grown);
        if (grown == NULL) {
            w->config.trace = 0;
            return;
        }
        w->events = grown;
        w->event_room = room;
    }
    w->events[w->event_count++] = (struct sim_event){w->now, node, kind, other, value};
}

static uint64_t clock_of(const struct node *n, uint64_t at) {
    int64_t drift = (int64_t)(at / MILLION) * n->config->drift_ppm +
                    (int64_t)(at % MILLION) * n->config->drift_ppm / (int64_t)MILLION;
    return n->config->clock_offset_us + at + (uint64_t)drift;
}

/* When the node's clock shows `until`, at the earliest: never too late for a clock that runs fast. */
static uint64_t time_of(const struct node *n, uint64_t until) {
    uint64_t here = clock_of(n, n->world->now);
    if (until <= here) {
        return n->world->now;
    }
    uint64_t left = until - here;
    int64_t ppm = n->config->drift_ppm;
    uint64_t wait =
        ppm > 0 ? left - left * (uint64_t)ppm / (MILLION + (uint64_t)ppm) : left + left * (uint64_t)-ppm / MILLION;
    return n->world->now + wait;
}

static struct ts_addr address_of(uint8_t index) {
    return (struct ts_addr){.link = 0, .len = 6, .bytes = {2, 0, 0, 0, 0, index}};
}

static bool sooner(const struct packet *a, const struct packet *b) {
    return a->at < b->at || (a->at == b->at && a->order < b->order);
}

static void heap_push(struct sim *w, struct packet *p) {
    if (w->heap_count == w->heap_room) {
        size_t room = w->heap_room != 0 ? 2 * w->heap_room : 256;
        struct packet **grown = realloc(w->heap, room * sizeof(struct packet *));
        if (grown == NULL) {
            free(p);
            return;
        }
        w->heap = grown;
        w->heap_room = room;
    }
    size_t at = w->heap_count++;
    while (at > 0 && sooner(p, w->heap[(at - 1) / 2])) {
        w->heap[at] = w->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    w->heap[at] = p;
}

static struct packet *heap_pop(struct sim *w) {
    struct packet *first = w->heap[0];
    struct packet *last = w->heap[--w->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= w->heap_count) {
            break;
        }
        if (child + 1 < w->heap_count && sooner(w->heap[child + 1], w->heap[child])) {
            child++;
        }
        if (!sooner(w->heap[child], last)) {
            break;
        }
        w->heap[at] = w->heap[child];
        at = child;
    }
    if (w->heap_count > 0) {
        w->heap[at] = last;
    }
    return first;
}

static uint32_t frame_value(const uint8_t *bytes, size_t len) {
    return (uint32_t)bytes[0] << 16 | (uint32_t)len;
}

static void deliver_at(struct sim *w, uint64_t at, uint8_t from, uint8_t to, const uint8_t *bytes, uint16_t len) {
    struct packet *p = malloc(sizeof *p);
    if (p == NULL) {
        return;
    }
    p->at = at;
    p->order = w->order++;
    p->from = from;
    p->to = to;
    p->len = len;
    memcpy(p->bytes, bytes, len);
    if (chance(w, w->config.corrupt)) {
        uint32_t flips = 1 + below(w, 4);
        for (uint32_t i = 0; i < flips; i++) {
            uint32_t bit = below(w, 8u * len);
            p->bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
    }
    heap_push(w, p);
}

static int send_wire(struct sim *w, struct node *n, uint8_t to, const uint8_t *bytes, uint16_t len) {
    uint64_t start = n->busy_until > w->now ? n->busy_until : w->now;
    if (start - w->now > 200000u) {
        return TS_E_WOULD_BLOCK; /* a fifth of a second is queued */
    }
    if (w->config.rate_bps != 0) {
        start += (uint64_t)len * 8u * MILLION / w->config.rate_bps;
        n->busy_until = start;
    }
    if (chance(w, w->config.loss)) {
        w->report.lost++;
        note(w, n->index, SIM_LOST, to, frame_value(bytes, len));
        return TS_OK;
    }
    uint32_t copies = 1u + chance(w, w->config.duplicate);
    for (uint32_t i = 0; i < copies; i++) {
        uint64_t delay = w->config.delay_us + (w->config.jitter_us != 0 ? below(w, w->config.jitter_us) : 0);
        if (chance(w, w->config.reorder_chance)) {
            delay += below(w, 4u * w->config.delay_us + 1000u);
        }
        deliver_at(w, start + delay, n->index, to, bytes, len);
    }
    return TS_OK;
}

/* When a station with a frame begins, if nobody does before it (802.11-2016, 10.3.4). */
static uint64_t idle_since(const struct sim *w, const struct node *n) {
    return (w->medium_free > n->ready_at ? w->medium_free : n->ready_at) + w->config.difs_us;
}

static uint64_t start_of(const struct sim *w, const struct node *n) {
    return idle_since(w, n) + (uint64_t)n->backoff * w->config.slot_us;
}

static void contend(struct sim *w) {
    w->contention_at = UINT64_MAX;
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        const struct node *n = &w->nodes[i];
        if (n->alive && n->queue_count > 0 && start_of(w, n) < w->contention_at) {
            w->contention_at = start_of(w, n);
        }
    }
}

static void new_backoff(struct sim *w, struct node *n) {
    n->backoff = below(w, n->window + 1u);
}

static void next_in_queue(struct sim *w, struct node *n) {
    n->queue_first = (uint8_t)((n->queue_first + 1) % QUEUE);
    n->queue_count--;
    n->tries = 0;
    n->window = w->config.cw_min;
    new_backoff(w, n);
    n->wake = w->now; /* the core may have been told that the link was full */
}

static void transmit_failed(struct sim *w, struct node *n) {
    const struct waiting *frame = &n->queue[n->queue_first];
    if (++n->tries >= w->config.tries) {
        w->report.lost++;
        note(w, n->index, SIM_LOST, frame->to, frame_value(frame->bytes, frame->len));
        next_in_queue(w, n);
        return;
    }
    uint32_t wider = 2u * n->window + 1u;
    n->window = (uint16_t)(wider < w->config.cw_max ? wider : w->config.cw_max);
    new_backoff(w, n);
}

/* Returns how long the medium is taken. */
static uint32_t transmit_one(struct sim *w, struct node *n, bool collides) {
    const struct waiting frame = n->queue[n->queue_first];
    uint32_t air = w->config.air_us[frame.len];
    uint32_t taken = air + w->config.sifs_us + w->config.ack_us;
    bool there = frame.to < w->config.nodes && w->nodes[frame.to].alive;
    note(w, n->index, SIM_AIR, frame.to, taken);
    if (collides) {
        w->report.collisions++;
        note(w, n->index, SIM_COLLIDED, frame.to, frame_value(frame.bytes, frame.len));
        transmit_failed(w, n);
        return taken;
    }
    if (!there || chance(w, w->config.loss)) {
        transmit_failed(w, n);
        return taken;
    }
    deliver_at(w, w->now + air, n->index, frame.to, frame.bytes, frame.len);
    bool repeated = chance(w, w->config.loss) && n->tries + 1 < w->config.tries;
    next_in_queue(w, n);
    /* If the acknowledgement was lost, the frame takes its time twice; the receiver drops the repeat. */
    return repeated ? 2 * taken + w->config.difs_us : taken;
}

/* The station whose backoff ends first begins; those that begin in the same slot spoil it. */
static void transmit(struct sim *w) {
    uint64_t slot_end = w->contention_at + w->config.slot_us;
    uint32_t senders = 0;
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        const struct node *n = &w->nodes[i];
        senders += n->alive && n->queue_count > 0 && start_of(w, n) < slot_end;
    }
    uint32_t longest = 0;
    bool began[SIM_NODES] = {false};
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        struct node *n = &w->nodes[i];
        if (!n->alive || n->queue_count == 0) {
            continue;
        }
        began[i] = start_of(w, n) < slot_end;
        if (!began[i] && idle_since(w, n) < w->now) {
            n->backoff -= (uint32_t)((w->now - idle_since(w, n)) / w->config.slot_us);
        }
    }
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        if (began[i]) {
            uint32_t taken = transmit_one(w, &w->nodes[i], senders > 1);
            longest = taken > longest ? taken : longest;
        }
    }
    w->medium_free = w->now + longest;
    w->report.air_us += longest;
    contend(w);
}

static int send_espnow(struct sim *w, struct node *n, uint8_t to, const uint8_t *bytes, uint16_t len) {
    if (n->queue_count >= w->config.queue) {
        return TS_E_WOULD_BLOCK;
    }
    struct waiting *slot = &n->queue[(n->queue_first + n->queue_count) % QUEUE];
    slot->to = to;
    slot->len = len;
    memcpy(slot->bytes, bytes, len);
    if (n->queue_count++ == 0) {
        n->tries = 0;
        n->window = w->config.cw_min;
        n->ready_at = w->now;
        new_backoff(w, n);
    }
    contend(w);
    return TS_OK;
}

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    struct node *n = ctx;
    struct sim *w = n->world;
    if (to->len != 6 || to->bytes[5] >= w->config.nodes || len == 0 || len > w->config.mtu) {
        return TS_E_SEND_FAILED;
    }
    uint8_t peer = to->bytes[5];
    int code = w->config.medium == SIM_ESPNOW ? send_espnow(w, n, peer, frame, (uint16_t)len)
                                              : send_wire(w, n, peer, frame, (uint16_t)len);
    if (code == TS_OK) {
        w->report.frames++;
        w->report.bytes += len;
        digest(w, frame, len);
        note(w, n->index, SIM_SENT, peer, frame_value(frame, len));
    }
    return code;
}

static uint32_t random_word(void *ctx) {
    struct node *n = ctx;
    return draw(n->world);
}

/* What a stage makes: every byte of it depends on all lengths, the stage and one byte of the input. */
static void compute(uint8_t stage, const uint8_t *input, uint32_t in_len, uint8_t *output, uint32_t out_len) {
    for (uint32_t i = 0; i < out_len; i++) {
        output[i] = (uint8_t)(input[(i * 7u + stage) % in_len] * 5u + stage * 29u + i + (i >> 8));
    }
}

static int invoke(void *ctx, struct ts_invoke *run) {
    struct node *n = ctx;
    struct sim *w = n->world;
    uint8_t stage = n->config->stage;
    uint32_t len = w->config.stage_bytes[stage];
    uint32_t expected = stage == 0 ? w->config.input_bytes : w->config.stage_bytes[stage - 1];
    if (run->input->count != 1 || run->input->total != expected) {
        return TS_E_MALFORMED;
    }
    if (len > run->output_cap) {
        return TS_E_INVOKE_FAILED;
    }
    compute(stage, run->input->data, run->input->total, run->output, len);
    run->count = 1;
    run->bytes[0] = len;
    run->invoke_us = n->config->invoke_us;
    note(w, n->index, SIM_INVOKE, stage, n->config->invoke_us);
    if (n->config->invoke_us == 0) {
        return TS_OK;
    }
    n->engine = run;
    n->engine_done = w->now + n->config->invoke_us;
    return TS_E_WOULD_BLOCK;
}

static uint32_t input_bytes_of(const struct sim *w, uint8_t stage) {
    return stage == 0 ? w->config.input_bytes : w->config.stage_bytes[stage - 1];
}

static void make_input(struct node *n, uint32_t inference) {
    for (uint32_t i = 0; i < n->world->config.input_bytes; i++) {
        n->input[i] = (uint8_t)(n->index * 101u + inference * 31u + i * 7u + (i >> 8) * inference);
    }
}

/* The node that makes results for a head: false if its chain crosses two bundles. */
static bool one_bundle(const struct sim *w, const struct node *head) {
    const struct node *at = head;
    while (at->config->next != NO_NODE) {
        const struct node *next = &w->nodes[at->config->next];
        if (next->config->bundle != head->config->bundle) {
            return false;
        }
        at = next;
    }
    return true;
}

static bool is_exact(struct sim *w, const struct node *n, const struct ts_result *r) {
    const uint8_t *data = n->input;
    for (uint8_t stage = 0; stage < w->config.stages; stage++) {
        uint8_t *made = w->scratch[stage % 2];
        compute(stage, data, input_bytes_of(w, stage), made, w->config.stage_bytes[stage]);
        data = made;
    }
    uint32_t len = w->config.stage_bytes[w->config.stages - 1];
    return r->tensors != NULL && r->tensors->count == 1 && r->tensors->total == len &&
           memcmp(r->tensors->data, data, len) == 0;
}

static void on_result(void *ctx, const struct ts_result *r) {
    struct node *n = ctx;
    struct sim *w = n->world;
    struct sim_report *report = &w->report;
    note(w, n->index, SIM_RESULT, r->code, r->inference);
    if (!n->pending || r->inference != n->inference) {
        report->wrong++;
        return;
    }
    n->pending = false;
    if (r->code != TS_OK) {
        report->failed++;
        report->failures[r->code < 31 ? r->code : 31]++;
    } else if (!one_bundle(w, n)) {
        report->mixed++;
    } else if (!is_exact(w, n, r)) {
        report->wrong++;
    } else {
        uint64_t took = w->now - n->begun_at;
        report->exact++;
        report->latency_sum_us += took;
        report->latency_max_us = took > report->latency_max_us ? took : report->latency_max_us;
        n->done_settled += w->settling;
    }
    n->wake = w->now;
}

static void start_node(struct node *n) {
    n->engine = NULL;
    n->queue_count = 0;
    if (n->pending) {
        n->pending = false; /* went down with the head */
    }
    n->alive = ts_node_init(&n->core, &n->cfg, clock_of(n, n->world->now)) == TS_OK;
    n->wake = n->world->now;
    n->infer_at = n->world->now + n->config->period_us;
}

static void plan_reboot(struct node *n) {
    struct sim *w = n->world;
    n->reboot_at = UINT64_MAX;
    if (n->config->reboot_every_us != 0 && !w->settling) {
        /* Uniform up to twice the mean: no floating point, which need not be the same everywhere. */
        n->reboot_at = w->now + 1 + (uint64_t)draw(w) * 2u * n->config->reboot_every_us / UINT32_MAX;
    }
}

static void reboot(struct node *n) {
    struct sim *w = n->world;
    note(w, n->index, SIM_REBOOT, 0, n->config->down_us);
    w->report.reboots++;
    n->alive = false;
    n->queue_count = 0;
    contend(w);
    n->up_at = w->now + n->config->down_us;
    n->reboot_at = UINT64_MAX;
}

static void begin_inference(struct node *n) {
    struct sim *w = n->world;
    n->inference++;
    make_input(n, n->inference);
    struct ts_tensors input = {
        .count = 1, .bytes = {w->config.input_bytes}, .total = w->config.input_bytes, .data = n->input};
    n->pending = true;
    n->begun_at = w->now;
    int code = ts_node_infer(&n->core, clock_of(n, w->now), n->inference, &input, w->config.timeout_ms);
    if (code != TS_OK) {
        n->pending = false;
        w->report.refused++;
    } else {
        w->report.begun++;
        note(w, n->index, SIM_BEGUN, 0, n->inference);
    }
    n->infer_at = w->now + n->config->period_us;
}

static void step_node(struct node *n) {
    struct sim *w = n->world;
    if (!n->alive) {
        start_node(n);
        plan_reboot(n);
    }
    if (n->reboot_at <= w->now) {
        reboot(n);
        return;
    }
    if (n->engine != NULL && n->engine_done <= w->now) {
        struct ts_invoke *run = n->engine;
        n->engine = NULL;
        ts_node_invoked(&n->core, clock_of(n, w->now), run, TS_OK);
    }
    if (n->config->period_us != 0 && !n->pending && n->infer_at <= w->now) {
        begin_inference(n);
    }
    uint64_t until = ts_node_poll(&n->core, clock_of(n, w->now));
    uint64_t wake = until == TS_NEVER ? UINT64_MAX : time_of(n, until);
    n->wake = wake > w->now ? wake : w->now + 1;
    if (n->engine != NULL && n->engine_done < n->wake) {
        n->wake = n->engine_done;
    }
    if (n->config->period_us != 0 && !n->pending && n->infer_at < n->wake) {
        n->wake = n->infer_at;
    }
    if (n->reboot_at < n->wake) {
        n->wake = n->reboot_at;
    }
}

static void deliver(struct sim *w) {
    struct packet *p = heap_pop(w);
    struct node *n = &w->nodes[p->to];
    if (n->alive) {
        note(w, p->to, SIM_ARRIVED, p->from, frame_value(p->bytes, p->len));
        struct ts_addr from = address_of(p->from);
        ts_node_on_datagram(&n->core, clock_of(n, w->now), &from, p->bytes, p->len);
        n->wake = w->now;
    }
    free(p);
}

static void advance(struct sim *w, uint64_t end) {
    for (;;) {
        uint64_t at = end;
        struct node *who = NULL;
        int what = 0;
        if (w->heap_count > 0 && w->heap[0]->at < at) {
            at = w->heap[0]->at;
            what = 1;
        }
        if (w->contention_at < at) {
            at = w->contention_at;
            what = 2;
        }
        for (uint8_t i = 0; i < w->config.nodes; i++) {
            struct node *n = &w->nodes[i];
            uint64_t due = n->alive ? n->wake : n->up_at;
            if (due < at) {
                at = due;
                who = n;
                what = 3;
            }
        }
        if (what == 0) {
            w->now = end;
            return;
        }
        w->now = at > w->now ? at : w->now;
        if (what == 1) {
            deliver(w);
        } else if (what == 2) {
            transmit(w);
        } else {
            step_node(who);
        }
    }
}

static bool set_up(struct sim *w, struct node *n, uint8_t index) {
    const struct sim_config *c = &w->config;
    uint32_t longest = c->input_bytes;
    for (uint8_t i = 0; i < c->stages; i++) {
        longest = c->stage_bytes[i] > longest ? c->stage_bytes[i] : longest;
    }
    n->world = w;
    n->config = &c->node[index];
    n->index = index;
    uint8_t stage = n->config->stage;
    n->link = (struct ts_link){.mtu = c->mtu,
                               .window = c->window,
                               .reorder = c->reorder,
                               .rto_initial_us = c->rto_initial_us,
                               .rto_min_us = c->rto_min_us,
                               .pace_ns_per_byte = c->pace_ns_per_byte,
                               .pace_burst_us = c->pace_burst_us};
    n->next = address_of(n->config->next);
    struct ts_node_config *cfg = &n->cfg;
    struct ts_config *e = &cfg->endpoint;
    e->ctx = n;
    e->crc = (struct ts_crc){&w->tables, ts_crc16_fast, ts_crc32_fast};
    e->send = send_frame;
    e->random = random_word;
    e->role = stage == 0 ? TS_ROLE_HEAD : stage == c->stages - 1 ? TS_ROLE_TAIL : TS_ROLE_RELAY;
    e->stage = stage;
    e->stage_count = c->stages;
    memset(e->bundle, n->config->bundle + 1, sizeof e->bundle);
    e->links = &n->link;
    e->link_count = 1;
    e->session_count = (uint16_t)(c->nodes < 2 ? 2 : c->nodes);
    e->sessions = calloc(e->session_count, sizeof *e->sessions);
    e->max_message = longest + SLACK_BYTES;
    e->rx_memory_bytes = TS_RX_MEMORY(e->session_count, e->max_message);
    e->rx_memory = aligned_alloc(16, e->rx_memory_bytes);
    e->frame = malloc(c->mtu);
    e->frame_bytes = c->mtu;
    cfg->downstream = n->config->next != NO_NODE ? &n->next : NULL;
    cfg->job_count = JOBS;
    cfg->jobs = calloc(JOBS, sizeof *cfg->jobs);
    cfg->max_output = longest;
    cfg->out_memory_bytes = TS_JOB_MEMORY(JOBS, longest);
    cfg->out_memory = aligned_alloc(16, cfg->out_memory_bytes);
    cfg->invoke = invoke;
    cfg->result = on_result;
    n->input = malloc(c->input_bytes);
    if (e->sessions == NULL || e->rx_memory == NULL || e->frame == NULL || cfg->jobs == NULL ||
        cfg->out_memory == NULL || n->input == NULL) {
        return false;
    }
    start_node(n);
    if (!n->alive) {
        return false;
    }
    plan_reboot(n);
    n->infer_at = w->now + below(w, n->config->period_us + 1u);
    return true;
}

sim *sim_new(const struct sim_config *config) {
    struct sim *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return NULL;
    }
    w->config = *config;
    w->rng = config->seed * 0x9e3779b97f4a7c15u + 1u;
    w->now = MILLION;
    w->contention_at = UINT64_MAX;
    ts_crc_fast_init(&w->tables);
    uint32_t longest = 1;
    for (uint8_t i = 0; i < config->stages && i < SIM_STAGES; i++) {
        longest = config->stage_bytes[i] > longest ? config->stage_bytes[i] : longest;
    }
    w->scratch[0] = malloc(longest);
    w->scratch[1] = malloc(longest);
    bool good = w->scratch[0] != NULL && w->scratch[1] != NULL && config->nodes <= SIM_NODES &&
                config->stages <= SIM_STAGES && config->mtu <= SIM_MAX_FRAME && config->queue <= QUEUE;
    for (uint8_t i = 0; good && i < config->nodes; i++) {
        good = set_up(w, &w->nodes[i], i);
    }
    if (!good) {
        sim_free(w);
        return NULL;
    }
    return w;
}

/* Everything heals; every head must then get inferences done, and none may be left without an end. */
static void settle(struct sim *w) {
    w->settling = true;
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        w->nodes[i].reboot_at = UINT64_MAX;
    }
    advance(w, w->now + w->config.settle_us);
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        const struct node *n = &w->nodes[i];
        bool head = n->config->period_us != 0;
        uint64_t longest = (uint64_t)w->config.timeout_ms * 1000u + MILLION;
        bool endless = head && n->pending && w->now - n->begun_at > longest;
        bool idle = head && n->done_settled == 0 && one_bundle(w, n);
        w->report.stuck += endless || idle;
    }
}

void sim_run(sim *w, struct sim_report *report) {
    advance(w, w->now + w->config.run_us);
    settle(w);
    *report = w->report;
}

const struct sim_event *sim_trace(const sim *w, size_t *count) {
    *count = w->event_count;
    return w->events;
}

void sim_free(sim *w) {
    if (w == NULL) {
        return;
    }
    for (uint8_t i = 0; i < SIM_NODES; i++) {
        struct node *n = &w->nodes[i];
        free(n->cfg.endpoint.sessions);
        free(n->cfg.endpoint.rx_memory);
        free(n->cfg.endpoint.frame);
        free(n->cfg.jobs);
        free(n->cfg.out_memory);
        free(n->input);
    }
    while (w->heap_count > 0) {
        free(heap_pop(w));
    }
    free(w->heap);
    free(w->events);
    free(w->scratch[0]);
    free(w->scratch[1]);
    free(w);
}
