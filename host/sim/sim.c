#include <stdlib.h>
#include <string.h>

#include "world.h"

#define JOBS 4
#define SLACK_BYTES 512u

/* splitmix64 (Steele, Lea and Flood 2014) */
uint32_t sim_draw(struct sim *w) {
    uint64_t z = w->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

uint32_t sim_below(struct sim *w, uint32_t limit) {
    return (uint32_t)((uint64_t)sim_draw(w) * limit >> 32);
}

bool sim_chance(struct sim *w, uint32_t millionths) {
    return millionths != 0 && !w->settling && sim_below(w, MILLION) < millionths;
}

static void digest(struct sim *w, const void *bytes, size_t len) {
    w->report.digest = ts_crc32_fast(&w->tables, w->report.digest, bytes, len);
}

void sim_note(struct sim *w, uint8_t node, uint8_t kind, uint16_t other, uint32_t value) {
    sim_note_at(w, w->now, node, kind, other, value);
}

void sim_note_at(struct sim *w, uint64_t at, uint8_t node, uint8_t kind, uint16_t other, uint32_t value) {
    uint8_t stamp[16];
    ts_put64(stamp, at);
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
    w->events[w->event_count++] = (struct sim_event){at, node, kind, other, value};
}

uint64_t sim_clock(const struct node *n) {
    uint64_t at = n->world->now;
    int64_t drift = (int64_t)(at / MILLION) * n->config->drift_ppm +
                    (int64_t)(at % MILLION) * n->config->drift_ppm / (int64_t)MILLION;
    return n->config->clock_offset_us + at + (uint64_t)drift;
}

/* When the node's clock shows `until`, at the earliest: never too late for a clock that runs fast. */
static uint64_t time_of(const struct node *n, uint64_t until) {
    uint64_t here = sim_clock(n);
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

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    struct node *n = ctx;
    struct sim *w = n->world;
    if (to->len != 6 || to->bytes[5] >= w->config.nodes || len == 0 || len > w->config.mtu) {
        return TS_E_SEND_FAILED;
    }
    int code = sim_send(n, to->bytes[5], frame, (uint16_t)len);
    if (code == TS_OK) {
        digest(w, frame, len);
    }
    return code;
}

static uint32_t random_word(void *ctx) {
    struct node *n = ctx;
    return sim_draw(n->world);
}

void sim_compute(uint32_t word, uint8_t stage, const uint8_t *input, uint32_t in_len, uint8_t *output,
                 uint32_t out_len) {
    for (uint32_t i = 0, from = stage % in_len; i < out_len; i++) {
        output[i] = (uint8_t)(input[from] * 5u + stage * 29u + i + (i >> 8) + (word >> 8u * (i & 3u)));
        from += 7u;
        from = from < in_len ? from : from % in_len;
    }
}

uint32_t sim_output_bytes(const struct sim *w, uint8_t bundle, uint8_t stage) {
    return w->config.stage_bytes[w->config.versions != 0 ? bundle % SIM_CUTS : 0][stage];
}

uint32_t sim_input_bytes(const struct sim *w, uint8_t bundle, uint8_t stage) {
    return stage == 0 ? w->config.input_bytes : sim_output_bytes(w, bundle, (uint8_t)(stage - 1));
}

/* What a stage of a bundle computes with. */
static uint32_t word_of(const struct sim *w, uint8_t bundle, uint8_t stage) {
    if (w->config.versions == 0) {
        return bundle * 0x9e3779b9u;
    }
    uint32_t version = bundle % SIM_CUTS == 0 ? SIM_CUTS : bundle % SIM_CUTS; /* the first with this bundle */
    return w->config.image[(version - 1) * w->config.stages + stage].word;
}

static int invoke(void *ctx, struct ts_invoke *run) {
    struct node *n = ctx;
    struct sim *w = n->world;
    uint8_t stage = n->config->stage;
    uint32_t len = sim_output_bytes(w, n->bundle, stage);
    if (run->input->count != 1 || run->input->total != sim_input_bytes(w, n->bundle, stage)) {
        return TS_E_MALFORMED;
    }
    if (len > run->output_cap) {
        return TS_E_INVOKE_FAILED;
    }
    uint32_t word = n->device != NULL ? sim_updates_word(n) : word_of(w, n->bundle, stage);
    sim_compute(word, stage, run->input->data, run->input->total, run->output, len);
    run->count = 1;
    run->bytes[0] = len;
    run->invoke_us = n->config->invoke_us;
    sim_note(w, n->index, SIM_INVOKE, stage, n->config->invoke_us);
    if (n->config->invoke_us == 0) {
        return TS_OK;
    }
    n->engine = run;
    n->engine_done = w->now + n->config->invoke_us;
    return TS_E_WOULD_BLOCK;
}

static void make_input(struct node *n, uint32_t inference) {
    uint8_t *input = n->input;
    uint32_t len = n->world->config.input_bytes, first = n->index * 101u + inference * 31u;
    for (uint32_t i = 0; i < len; i++) {
        input[i] = (uint8_t)(first + i * 7u + (i >> 8) * inference);
    }
}

/* The node that runs `stage` for a head. */
static const struct node *in_chain(const struct sim *w, const struct node *head, uint8_t stage) {
    const struct node *at = head;
    while (at->config->stage < stage && at->config->next != NO_NODE) {
        at = &w->nodes[at->config->next];
    }
    return at;
}

/* Whether a head's inferences can succeed: all nodes of its chain have its bundle. */
static bool one_bundle(const struct sim *w, const struct node *head) {
    for (uint8_t stage = 1; stage < w->config.stages; stage++) {
        if (in_chain(w, head, stage)->bundle != head->bundle) {
            return false;
        }
    }
    return true;
}

/* Whether a result is what the chain makes in which bit s of `foreign` gives stage s another bundle than the head's. */
static bool is_made_by(struct sim *w, const struct node *n, const struct ts_result *r, uint32_t foreign) {
    const uint8_t *data = n->input;
    uint32_t len = w->config.input_bytes;
    for (uint8_t stage = 0; stage < w->config.stages; stage++) {
        uint8_t bundle = n->bundle;
        if ((foreign >> stage & 1u) != 0) {
            bundle = w->config.versions != 0 ? (uint8_t)(bundle ^ 1u) : in_chain(w, n, stage)->bundle;
        }
        uint8_t *made = w->scratch[stage % 2];
        uint32_t out_len = sim_output_bytes(w, bundle, stage);
        sim_compute(word_of(w, bundle, stage), stage, data, len, made, out_len);
        data = made;
        len = out_len;
    }
    return r->tensors != NULL && r->tensors->count == 1 && r->tensors->total == len &&
           memcmp(r->tensors->data, data, len) == 0;
}

static bool is_mixed(struct sim *w, const struct node *n, const struct ts_result *r) {
    bool found = false;
    for (uint32_t foreign = 2; !found && foreign < 1u << w->config.stages; foreign += 2) {
        found = is_made_by(w, n, r, foreign);
    }
    return found;
}

static void on_result(void *ctx, const struct ts_result *r) {
    struct node *n = ctx;
    struct sim *w = n->world;
    struct sim_report *report = &w->report;
    sim_note(w, n->index, SIM_RESULT, r->code, r->inference);
    if (!n->pending || r->inference != n->inference) {
        report->wrong++;
        return;
    }
    n->pending = false;
    if (r->code != TS_OK) {
        report->failed++;
        report->failures[r->code < SIM_CODES - 1 ? r->code : SIM_CODES - 1]++;
    } else if (!is_made_by(w, n, r, 0)) {
        *(is_mixed(w, n, r) ? &report->mixed : &report->wrong) += 1;
    } else {
        uint64_t took = w->now - n->begun_at;
        report->exact++;
        report->latency_sum_us += took;
        report->latency_max_us = took > report->latency_max_us ? took : report->latency_max_us;
        n->done_settled += w->settling;
    }
    n->wake = w->now;
}

static void plan_reboot(struct node *n) {
    struct sim *w = n->world;
    n->reboot_at = UINT64_MAX;
    if (n->config->reboot_every_us != 0 && !w->settling) {
        /* Uniform up to twice the mean: no floating point, which need not be the same everywhere. */
        n->reboot_at = w->now + 1 + (uint64_t)sim_draw(w) * 2u * n->config->reboot_every_us / UINT32_MAX;
    }
}

static void start_node(struct node *n) {
    struct sim *w = n->world;
    n->engine = NULL;
    n->queue_count = 0;
    if ((n->device != NULL || n->sender != NULL) && !sim_updates_boot(n)) {
        return; /* down again */
    }
    n->alive = ts_node_init(&n->core, &n->cfg, sim_clock(n)) == TS_OK;
    n->wake = w->now;
    n->infer_at = w->now + n->config->period_us;
    plan_reboot(n);
}

void sim_off(struct node *n, uint8_t kind) {
    struct sim *w = n->world;
    sim_note(w, n->index, kind, 0, n->config->down_us);
    n->alive = false;
    n->queue_count = 0;
    n->up_at = w->now + n->config->down_us;
    n->reboot_at = UINT64_MAX;
    if (n->pending) {
        n->pending = false; /* goes down with the head */
        w->report.lost_heads++;
    }
    sim_contend(w);
}

static void reboot(struct node *n) {
    n->world->report.reboots++;
    sim_off(n, SIM_REBOOT);
}

static void begin_inference(struct node *n) {
    struct sim *w = n->world;
    n->inference++;
    make_input(n, n->inference);
    struct ts_tensors input = {
        .count = 1, .bytes = {w->config.input_bytes}, .total = w->config.input_bytes, .data = n->input};
    n->pending = true;
    n->begun_at = w->now;
    int code = ts_node_infer(&n->core, sim_clock(n), n->inference, &input, w->config.timeout_ms);
    if (code != TS_OK) {
        n->pending = false;
        w->report.refused++;
    } else {
        w->report.begun++;
        sim_note(w, n->index, SIM_BEGUN, 0, n->inference);
    }
    n->infer_at = w->now + n->config->period_us;
}

static void step_node(struct node *n) {
    struct sim *w = n->world;
    if (!n->alive) {
        start_node(n);
        if (!n->alive) {
            return;
        }
    }
    if (n->reboot_at <= w->now) {
        reboot(n);
        return;
    }
    if (n->engine != NULL && n->engine_done <= w->now) {
        struct ts_invoke *run = n->engine;
        n->engine = NULL;
        ts_node_invoked(&n->core, sim_clock(n), run, TS_OK);
    }
    if (n->config->period_us != 0 && !n->pending && n->infer_at <= w->now) {
        begin_inference(n);
    }
    uint64_t update = UINT64_MAX;
    if ((n->device != NULL || n->sender != NULL) && !sim_updates_step(n, &update)) {
        return;
    }
    uint64_t until = ts_node_poll(&n->core, sim_clock(n));
    uint64_t wake = until == TS_NEVER ? UINT64_MAX : time_of(n, until);
    wake = n->stirred ? w->now : update < wake ? update : wake;
    n->stirred = false;
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
    struct packet *p = sim_pop(w);
    struct node *n = &w->nodes[p->to];
    if (n->alive) {
        sim_note(w, p->to, SIM_ARRIVED, p->from, (uint32_t)p->bytes[0] << 16 | p->len);
        struct ts_addr from = address_of(p->from);
        ts_node_on_datagram(&n->core, sim_clock(n), &from, p->bytes, p->len);
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
            sim_transmit(w);
        } else {
            step_node(who);
        }
    }
}

/* Of the longest message and of the longest tensor. */
static uint32_t longest_tensor(const struct sim_config *c) {
    uint32_t longest = c->input_bytes;
    for (uint32_t i = 0; i < SIM_CUTS * c->stages; i++) {
        uint32_t bytes = c->stage_bytes[i / c->stages][i % c->stages];
        longest = bytes > longest ? bytes : longest;
    }
    return longest;
}

static bool set_up_jobs(struct node *n, uint32_t longest) {
    const struct sim_config *c = &n->world->config;
    struct ts_node_config *cfg = &n->cfg;
    cfg->downstream = n->config->next != NO_NODE ? &n->next : NULL;
    cfg->job_count = JOBS;
    cfg->jobs = calloc(JOBS, sizeof *cfg->jobs);
    cfg->max_output = longest;
    cfg->out_memory_bytes = TS_JOB_MEMORY(JOBS, longest);
    cfg->out_memory = aligned_alloc(16, cfg->out_memory_bytes);
    cfg->invoke = invoke;
    cfg->result = on_result;
    n->input = malloc(c->input_bytes);
    return cfg->jobs != NULL && cfg->out_memory != NULL && n->input != NULL;
}

static bool set_up(struct sim *w, struct node *n, uint8_t index) {
    const struct sim_config *c = &w->config;
    uint32_t longest = longest_tensor(c);
    uint8_t stage = c->node[index].stage;
    bool computes = stage != SIM_NO_STAGE;
    n->world = w;
    n->config = &c->node[index];
    n->index = index;
    n->bundle = n->config->bundle;
    n->link = (struct ts_link){.mtu = c->mtu,
                               .window = c->window,
                               .reorder = c->reorder,
                               .rto_initial_us = c->rto_initial_us,
                               .rto_min_us = c->rto_min_us,
                               .pace_ns_per_byte = c->pace_ns_per_byte,
                               .pace_burst_us = c->pace_burst_us};
    n->next = address_of(n->config->next);
    struct ts_config *e = &n->cfg.endpoint;
    e->ctx = n;
    e->crc = (struct ts_crc){&w->tables, ts_crc16_fast, ts_crc32_fast};
    e->send = send_frame;
    e->random = random_word;
    e->role = stage == 0               ? TS_ROLE_HEAD
              : !computes              ? TS_ROLE_HOST
              : stage == c->stages - 1 ? TS_ROLE_TAIL
                                       : TS_ROLE_RELAY;
    e->stage = computes ? stage : TS_NO_STAGE;
    e->stage_count = c->stages;
    memset(e->bundle, computes ? n->config->bundle + 1 : 0, sizeof e->bundle);
    e->links = &n->link;
    e->link_count = 1;
    e->session_count = (uint16_t)(c->nodes < 2 ? 2 : c->nodes);
    e->sessions = calloc(e->session_count, sizeof *e->sessions);
    e->max_message = (longest > c->piece_bytes ? longest : c->piece_bytes) + SLACK_BYTES;
    e->rx_memory_bytes = TS_RX_MEMORY(e->session_count, e->max_message);
    e->rx_memory = aligned_alloc(16, e->rx_memory_bytes);
    e->frame = malloc(c->mtu);
    e->frame_bytes = c->mtu;
    n->queue = malloc(QUEUE * sizeof *n->queue);
    if (e->sessions == NULL || e->rx_memory == NULL || e->frame == NULL || n->queue == NULL ||
        (computes && !set_up_jobs(n, longest))) {
        return false;
    }
    if (c->versions != 0) {
        e->accept_control = e->accept_blob = true;
        n->cfg.event = sim_updates_event;
        if (!sim_updates_set_up(n)) {
            return false;
        }
    }
    start_node(n);
    n->infer_at = w->now + sim_below(w, n->config->period_us + 1u);
    return n->alive;
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
    bool good = config->nodes <= SIM_NODES && config->stages <= SIM_STAGES && config->mtu <= SIM_MAX_FRAME &&
                config->queue <= QUEUE && (config->medium != SIM_ESPNOW || config->mtu <= ESPNOW_FRAME) &&
                config->versions != 1;
    for (uint32_t i = 0; good && i < 2; i++) {
        w->scratch[i] = malloc(longest_tensor(config));
        good = w->scratch[i] != NULL;
    }
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
        w->report.under_way += n->pending;
    }
    w->report.outdated = w->config.versions != 0 ? sim_updates_outdated(w) : 0;
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
        free(n->queue);
        sim_updates_free(n);
    }
    while (w->heap_count > 0) {
        free(sim_pop(w));
    }
    free(w->heap);
    free(w->events);
    free(w->scratch[0]);
    free(w->scratch[1]);
    free(w);
}
