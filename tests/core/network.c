#include "network.h"

#include <stdlib.h>
#include <string.h>

static struct ts_crc_fast tables;

/* splitmix64 (Steele, Lea and Flood 2014) */
uint32_t net_random(struct net *net) {
    uint64_t z = net->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

static bool chance(struct net *net, uint32_t per_10000) {
    return per_10000 != 0 && net_random(net) % 10000u < per_10000;
}

struct net *net_new(uint64_t seed) {
    struct net *net = calloc(1, sizeof *net);
    net->rng = seed * 77777u + 1;
    net->now = 1000000;
    net->delay_us = 1000;
    return net;
}

void net_free(struct net *net) {
    for (uint32_t i = 0; i < net->packet_count; i++) {
        free(net->packets[i].bytes);
    }
    free(net);
}

struct ts_addr host_addr(uint8_t index) {
    struct ts_addr a = {.link = 0, .len = 6, .bytes = {2, 0, 0, 0, 0, index}};
    return a;
}

uint64_t host_now(const struct host *h) {
    return h->net->now + h->clock_offset_us;
}

static void put_packet(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    if (net->packet_count == NET_PACKETS) {
        return;
    }
    struct packet *p = &net->packets[net->packet_count++];
    uint64_t delay = net->delay_us + (net->jitter_us != 0 ? net_random(net) % net->jitter_us : 0);
    if (chance(net, net->reorder)) {
        delay += net_random(net) % (4u * net->delay_us + 1u);
    }
    p->at = net->now + delay;
    p->order = net->order++;
    p->from = from;
    p->to = to;
    p->len = (uint16_t)len;
    p->bytes = malloc(len);
    memcpy(p->bytes, bytes, len);
    if (chance(net, net->corrupt)) {
        uint32_t flips = 1 + net_random(net) % 4;
        for (uint32_t i = 0; i < flips; i++) {
            uint32_t bit = net_random(net) % (8u * (uint32_t)len);
            p->bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
    }
}

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *bytes, size_t len) {
    struct host *h = ctx;
    struct net *net = h->net;
    if (h->full) {
        return TS_E_WOULD_BLOCK;
    }
    if (to->len != 6 || to->bytes[5] >= NET_HOSTS || len > h->link.mtu) {
        return TS_E_SEND_FAILED;
    }
    if (net->tap != NULL) {
        net->tap(net, h->index, to->bytes[5], bytes, len);
    }
    if (bytes[0] >> 4 == TS_F_DATA) {
        net->data_frames++;
    } else {
        net->other_frames++;
    }
    net->bytes += len;
    if (net->cut || chance(net, net->loss)) {
        return TS_OK;
    }
    put_packet(net, h->index, to->bytes[5], bytes, len);
    if (chance(net, net->duplicate)) {
        put_packet(net, h->index, to->bytes[5], bytes, len);
    }
    return TS_OK;
}

static uint32_t random_word(void *ctx) {
    return net_random(((struct host *)ctx)->net);
}

static void on_event(void *ctx, const struct ts_event *e) {
    struct host *h = ctx;
    switch (e->type) {
    case TS_EV_UP:
        h->ups++;
        break;
    case TS_EV_DOWN:
        h->downs++;
        h->last_down = e->code;
        break;
    case TS_EV_SENT:
        if (e->code == TS_OK) {
            h->sent_ok++;
        } else {
            h->sent_failed++;
        }
        h->last_sent_code = e->code;
        h->last_detail = e->detail;
        break;
    case TS_EV_MESSAGE:
        h->messages++;
        h->last_len = e->len;
        if (e->len > 0) {
            memcpy(h->last_body, e->body, e->len);
        }
        if (h->hold) {
            h->held_slot = e->slot;
            h->held_session = e->session;
        } else {
            ts_release(&h->node.ep, h->node.ep.raw, e->session, e->slot);
        }
        break;
    }
}

static uint8_t input_byte(const struct host *h, uint32_t inference, uint32_t i) {
    uint8_t byte = (uint8_t)(h->index * 101u + inference * 31u + i * 7u + (i >> 8));
    return h->net->mask != 0 ? byte & h->net->mask : byte;
}

static int run_stage(void *ctx, struct ts_invoke *run) {
    struct host *h = ctx;
    h->invoked++;
    run->count = run->input->count;
    for (uint32_t i = 0; i < run->count; i++) {
        run->bytes[i] = run->input->bytes[i];
    }
    for (uint32_t i = 0; i < run->input->total && i < run->output_cap; i++) {
        run->output[i] = (uint8_t)(run->input->data[i] + h->cfg.endpoint.stage + 1);
    }
    if (h->async) {
        h->engine = run;
        h->engine_done = h->net->now + h->invoke_us;
        return TS_E_WOULD_BLOCK;
    }
    run->invoke_us = h->invoke_us;
    return h->invoke_code;
}

static void on_result(void *ctx, const struct ts_result *r) {
    struct host *h = ctx;
    h->last_code = r->code;
    h->last_stage = r->stage;
    if (r->inference < NET_LOG) {
        h->log[r->inference]++;
    }
    if (r->code != TS_OK) {
        h->failures++;
        return;
    }
    h->results++;
    uint32_t added = 0;
    for (uint32_t i = 0; i < h->cfg.endpoint.stage_count; i++) {
        added += i + 1;
    }
    for (uint32_t i = 0; i < r->tensors->total; i++) {
        if (r->tensors->data[i] != (uint8_t)(input_byte(h, r->inference, i) + added)) {
            h->inexact++;
            break;
        }
    }
    if (r->inference < NET_LOG && r->tensors->total != h->asked[r->inference]) {
        h->inexact++;
    }
    h->phases_seen = r->tensors->phase_count;
}

struct host *host_setup(struct net *net, uint8_t index, uint8_t role, uint8_t stage, uint8_t stages, int next) {
    struct host *h = &net->hosts[index];
    if (tables.crc16[0][1] == 0) {
        ts_crc_fast_init(&tables);
    }
    memset(h, 0, sizeof *h);
    h->net = net;
    h->index = index;
    h->link = (struct ts_link){.mtu = 250};
    if (next >= 0) {
        h->next = host_addr((uint8_t)next);
    }
    h->cfg = (struct ts_node_config){.endpoint = {.ctx = h,
                                                  .crc = {&tables, ts_crc16_fast, ts_crc32_fast},
                                                  .send = send_frame,
                                                  .random = random_word,
                                                  .role = role,
                                                  .stage = stage,
                                                  .stage_count = stages,
                                                  .bundle = {1, 2, 3},
                                                  .accept_control = true,
                                                  .accept_blob = true,
                                                  .links = &h->link,
                                                  .link_count = 1,
                                                  .sessions = h->sessions,
                                                  .session_count = NET_SESSIONS,
                                                  .rx_memory = h->rx,
                                                  .rx_memory_bytes = sizeof h->rx,
                                                  .max_message = NET_MESSAGE,
                                                  .frame = h->frame,
                                                  .frame_bytes = sizeof h->frame},
                                     .downstream = next >= 0 ? &h->next : NULL,
                                     .jobs = h->jobs,
                                     .job_count = NET_JOBS,
                                     .out_memory = h->out,
                                     .out_memory_bytes = sizeof h->out,
                                     .max_output = NET_MESSAGE,
                                     .invoke = run_stage,
                                     .result = on_result,
                                     .event = on_event};
    return h;
}

static uint64_t coding_clock(void *ctx) {
    struct host *h = ctx;
    return h->coding_clock_us += CODING_US;
}

void host_code(struct host *h) {
    if (ts_coding_init(&h->coding, h->coded, sizeof h->coded, NET_JOBS, NET_MESSAGE, NET_MESSAGE) != TS_OK) {
        abort();
    }
    h->coding.clock_us = coding_clock;
    h->cfg.coding = &h->coding;
    h->cfg.endpoint.codecs = TS_CODECS_RAW | TS_CODECS_RANGE;
}

void host_start(struct host *h) {
    h->engine = NULL;
    if (ts_node_init(&h->node, &h->cfg, host_now(h)) != TS_OK) {
        abort();
    }
    h->alive = true;
    h->wake = h->net->now;
}

void host_kill(struct host *h) {
    h->alive = false;
}

static uint8_t inputs[NET_HOSTS][NET_LOG][NET_MESSAGE];

int host_infer(struct host *h, uint32_t inference, uint32_t len, uint32_t timeout_ms) {
    uint8_t *data = inputs[h->index][inference % NET_LOG];
    for (uint32_t i = 0; i < len; i++) {
        data[i] = input_byte(h, inference, i);
    }
    struct ts_tensors t = {.count = 1, .bytes = {len}, .total = len, .data = data};
    if (inference < NET_LOG) {
        h->asked[inference] = len;
    }
    int code = ts_node_infer(&h->node, host_now(h), inference, &t, timeout_ms);
    h->wake = h->net->now;
    return code;
}

void net_inject(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    struct ts_addr addr = host_addr(from);
    struct host *h = &net->hosts[to];
    ts_node_on_datagram(&h->node, host_now(h), &addr, bytes, len);
    h->wake = net->now;
}

void net_post(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    put_packet(net, from, to, bytes, len);
}

static void poll_host(struct host *h) {
    if (h->engine != NULL && h->net->now >= h->engine_done) {
        struct ts_invoke *run = h->engine;
        h->engine = NULL;
        run->invoke_us = h->invoke_us;
        ts_node_invoked(&h->node, host_now(h), run, h->invoke_code);
    }
    uint64_t until = ts_node_poll(&h->node, host_now(h));
    h->wake = until == TS_NEVER ? TS_NEVER : until - h->clock_offset_us;
    if (h->wake <= h->net->now && until != TS_NEVER) {
        h->wake = h->net->now + 1;
    }
    if (h->engine != NULL && h->engine_done < h->wake) {
        h->wake = h->engine_done;
    }
}

bool net_run(struct net *net, uint64_t us, bool (*done)(struct net *net)) {
    uint64_t end = net->now + us;
    for (;;) {
        if (done != NULL && done(net)) {
            return true;
        }
        uint64_t next = end;
        uint32_t packet = NET_PACKETS;
        for (uint32_t i = 0; i < net->packet_count; i++) {
            const struct packet *p = &net->packets[i];
            if (p->at < next || (packet < NET_PACKETS && p->at == next && p->order < net->packets[packet].order)) {
                next = p->at;
                packet = i;
            }
        }
        struct host *host = NULL;
        for (uint32_t i = 0; i < NET_HOSTS; i++) {
            if (net->hosts[i].alive && net->hosts[i].wake < next) {
                next = net->hosts[i].wake;
                host = &net->hosts[i];
            }
        }
        if (next >= end) {
            net->now = end;
            return false;
        }
        net->now = next > net->now ? next : net->now;
        if (host != NULL) {
            poll_host(host);
            continue;
        }
        struct packet p = net->packets[packet];
        net->packets[packet] = net->packets[--net->packet_count];
        struct host *to = &net->hosts[p.to];
        if (to->alive) {
            struct ts_addr from = host_addr(p.from);
            ts_node_on_datagram(&to->node, host_now(to), &from, p.bytes, p.len);
            poll_host(to);
        }
        free(p.bytes);
    }
}

static bool pair_up(struct net *net) {
    return net->hosts[0].ups > 0 && net->hosts[1].ups > 0;
}

struct net *net_pair(uint64_t seed) {
    struct net *net = net_new(seed);
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1));
    if (!net_run(net, 1000000, pair_up)) {
        abort();
    }
    return net;
}
