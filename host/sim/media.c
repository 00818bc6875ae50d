/* How frames travel: links with rate and delay, one 802.11 channel, BLE's connection events. */
#include <stdlib.h>
#include <string.h>

#include "world.h"

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

struct packet *sim_pop(struct sim *w) {
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
    struct packet *p = malloc(sizeof *p + len);
    if (p == NULL) {
        return;
    }
    p->at = at;
    p->order = w->order++;
    p->from = from;
    p->to = to;
    p->len = len;
    memcpy(p->bytes, bytes, len);
    if (sim_chance(w, w->config.corrupt)) {
        uint32_t flips = 1 + sim_below(w, 4);
        for (uint32_t i = 0; i < flips; i++) {
            uint32_t bit = sim_below(w, 8u * len);
            p->bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
    }
    heap_push(w, p);
}

#define MOST_QUEUED_US 200000u /* more than that, and a sender is told to wait */

static int send_wire(struct sim *w, struct node *n, uint8_t to, const uint8_t *bytes, uint16_t len) {
    const struct sim_config *c = &w->config;
    bool stream = c->medium == SIM_STREAM;
    uint64_t *busy = c->medium == SIM_WIRE ? &n->busy_until : &w->medium_free;
    uint64_t start = *busy > w->now ? *busy : w->now;
    if (start - w->now > MOST_QUEUED_US) {
        return TS_E_WOULD_BLOCK;
    }
    uint32_t again = 0, rounds = 0; /* packets sent again; until the last one arrives */
    for (uint32_t i = 0; stream && i < c->packets[len]; i++) {
        uint32_t tries = 0;
        while (sim_chance(w, c->loss)) {
            tries++;
        }
        again += tries;
        rounds = tries > rounds ? tries : rounds;
    }
    uint64_t late = (uint64_t)rounds * 2u * c->delay_us; /* until the sender knows, each time */
    if (c->rate_bps != 0) {
        uint32_t bytes_again = stream ? again * (len / c->packets[len]) : 0;
        uint64_t taken = (uint64_t)(len + bytes_again) * 8u * MILLION / c->rate_bps;
        if (c->medium != SIM_WIRE) {
            sim_note_at(w, start, n->index, SIM_AIR, to, (uint32_t)taken);
            w->report.air_us += taken;
        }
        start += taken;
        *busy = start;
    }
    if (!stream && sim_chance(w, c->loss)) {
        w->report.lost++;
        sim_note(w, n->index, SIM_LOST, to, frame_value(bytes, len));
        return TS_OK;
    }
    uint32_t copies = 1u + (!stream && sim_chance(w, c->duplicate));
    for (uint32_t i = 0; i < copies; i++) {
        uint64_t at = start + late + c->delay_us + (c->jitter_us != 0 ? sim_below(w, c->jitter_us) : 0);
        if (!stream && sim_chance(w, c->reorder_chance)) {
            at += sim_below(w, 4u * c->delay_us + 1000u);
        }
        if (stream) {
            at = at > n->arrival[to] ? at : n->arrival[to];
            n->arrival[to] = at;
        }
        deliver_at(w, at, n->index, to, bytes, len);
    }
    return TS_OK;
}

/* The first event of a connection at or after `at`. Connections begin their intervals at different times. */
static uint64_t next_event(const struct sim *w, const struct node *a, const struct node *b, uint64_t at) {
    uint8_t low = a->index < b->index ? a->index : b->index, high = a->index < b->index ? b->index : a->index;
    uint64_t interval = w->config.interval_us;
    uint64_t anchor = (uint64_t)(low * 7u + high * 13u) * 997u % interval;
    return at <= anchor ? anchor : anchor + (at - anchor + interval - 1) / interval * interval;
}

/* Packets of one frame, each answered, in connection events; what is lost comes again. An event goes on as long as
 * there is more to send. A radio does one thing at a time. */
static int send_ble(struct sim *w, struct node *n, uint8_t to, const uint8_t *bytes, uint16_t len) {
    const struct sim_config *c = &w->config;
    struct node *peer = &w->nodes[to];
    uint64_t at = n->busy_until > peer->busy_until ? n->busy_until : peer->busy_until;
    at = at > w->now ? at : w->now;
    if (at - w->now > MOST_QUEUED_US) {
        return TS_E_WOULD_BLOCK;
    }
    uint64_t end = n->event_end[to];
    if (at != n->event_free[to] || at >= end) {
        at = next_event(w, n, peer, at);
        end = at + c->interval_us - c->gap_us;
    }
    uint64_t first = at;
    uint32_t taken = c->air_us[len] / c->packets[len];
    for (uint32_t i = 0; i < c->packets[len];) {
        if (at + taken > end) {
            at = next_event(w, n, peer, end);
            end = at + c->interval_us - c->gap_us;
        }
        at += taken;
        w->report.air_us += taken;
        i += !(sim_chance(w, c->loss) || sim_chance(w, c->loss)); /* the packet, or its answer */
    }
    n->busy_until = peer->busy_until = at;
    n->event_free[to] = peer->event_free[n->index] = at;
    n->event_end[to] = peer->event_end[n->index] = end;
    sim_note_at(w, first, n->index, SIM_AIR, to, (uint32_t)(at - first));
    deliver_at(w, at, n->index, to, bytes, len);
    return TS_OK;
}

/* When a station with a frame begins, if nobody does before it (802.11-2016, 10.3.4). */
static uint64_t idle_since(const struct sim *w, const struct node *n) {
    return (w->medium_free > n->ready_at ? w->medium_free : n->ready_at) + w->config.difs_us;
}

static uint64_t start_of(const struct sim *w, const struct node *n) {
    return idle_since(w, n) + (uint64_t)n->backoff * w->config.slot_us;
}

void sim_contend(struct sim *w) {
    w->contention_at = UINT64_MAX;
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        const struct node *n = &w->nodes[i];
        if (n->alive && n->queue_count > 0 && start_of(w, n) < w->contention_at) {
            w->contention_at = start_of(w, n);
        }
    }
}

static void new_backoff(struct sim *w, struct node *n) {
    n->backoff = sim_below(w, n->window + 1u);
}

static void next_in_queue(struct sim *w, struct node *n) {
    n->queue_first = (uint8_t)((n->queue_first + 1) % QUEUE);
    n->queue_count--;
    n->tries = 0;
    n->received = false;
    n->window = w->config.cw_min;
    new_backoff(w, n);
    n->wake = w->now; /* the core may have been told that the link was full */
}

static void transmit_failed(struct sim *w, struct node *n) {
    const struct waiting *frame = &n->queue[n->queue_first];
    if (++n->tries >= w->config.tries) {
        w->report.lost += !n->received;
        if (!n->received) {
            sim_note(w, n->index, SIM_LOST, frame->to, frame_value(frame->bytes, frame->len));
        }
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
    sim_note(w, n->index, SIM_AIR, frame.to, taken);
    if (collides) {
        w->report.collisions++;
        sim_note(w, n->index, SIM_COLLIDED, frame.to, frame_value(frame.bytes, frame.len));
        transmit_failed(w, n);
        return taken;
    }
    if (!there || sim_chance(w, w->config.loss)) {
        transmit_failed(w, n);
        return taken;
    }
    if (!n->received) { /* a repeat, because the acknowledgement was lost, is dropped by the receiver's MAC */
        deliver_at(w, w->now + air, n->index, frame.to, frame.bytes, frame.len);
        n->received = true;
    }
    if (sim_chance(w, w->config.loss)) {
        transmit_failed(w, n);
    } else {
        next_in_queue(w, n);
    }
    return taken;
}

/* The station whose backoff ends first begins; those that begin in the same slot spoil it. */
void sim_transmit(struct sim *w) {
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
    sim_contend(w);
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
        n->received = false;
        n->window = w->config.cw_min;
        n->ready_at = w->now;
        new_backoff(w, n);
    }
    sim_contend(w);
    return TS_OK;
}

int sim_send(struct node *n, uint8_t to, const uint8_t *bytes, uint16_t len) {
    struct sim *w = n->world;
    int code = w->config.medium == SIM_ESPNOW ? send_espnow(w, n, to, bytes, len)
               : w->config.medium == SIM_BLE  ? send_ble(w, n, to, bytes, len)
                                              : send_wire(w, n, to, bytes, len);
    if (code == TS_OK) {
        w->report.frames++;
        w->report.bytes += len;
        sim_note(w, n->index, SIM_SENT, to, frame_value(bytes, len));
    }
    return code;
}
