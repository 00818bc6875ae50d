#include "tinysplit/node.h"

#include "internal.h"

#include <string.h>

/* A relay with two sessions and two jobs: what a board carries beside its buffers. */
_Static_assert(sizeof(struct ts_node) + 2 * sizeof(struct ts_session) + 2 * sizeof(struct ts_job) < 4096 ||
                   TS_WINDOW > 64 || TS_TX_SLOTS + TS_RX_SLOTS > 4,
               "a node's own state stays under 4 KB");

static uint16_t job_index(const struct ts_node *n, const struct ts_job *job) {
    return (uint16_t)(job - n->cfg->jobs);
}

static uint32_t token_of(const struct ts_node *n, const struct ts_job *job) {
    return TS_NODE_TOKEN | job_index(n, job);
}

static uint8_t own_stage(const struct ts_node *n) {
    return n->cfg->endpoint.stage;
}

static bool last_stage(const struct ts_node *n) {
    return n->cfg->endpoint.stage + 1 == n->cfg->endpoint.stage_count;
}

static void drop_input(struct ts_node *n, struct ts_job *job) {
    if (job->input_held && job->upstream != TS_LOCAL) {
        ts_release(&n->ep, n->ep.raw, job->upstream, job->slot);
    }
    job->input_held = false;
}

static void drop_result(struct ts_node *n, struct ts_job *job) {
    if (job->result_held) {
        ts_release(&n->ep, n->ep.raw, (uint16_t)n->downstream, job->result_slot);
    }
    job->result_held = false;
}

static void free_job(struct ts_node *n, struct ts_job *job) {
    bool busy = n->running == job_index(n, job);
    uint16_t upstream = job->upstream;
    job->state = busy ? TS_J_DRAINING : TS_J_FREE;
    job->unsent = false;
    if (n->downstream >= 0) {
        ts_cancel(&n->ep, n->ep.raw, (uint16_t)n->downstream, token_of(n, job));
    }
    if (upstream != TS_LOCAL) {
        ts_cancel(&n->ep, n->ep.raw, upstream, token_of(n, job));
    }
    drop_result(n, job);
    if (!busy) {
        drop_input(n, job);
    }
}

static void report(struct ts_node *n, struct ts_job *job, uint16_t code, uint8_t stage, const char *text,
                   uint8_t text_len, const struct ts_tensors *tensors) {
    struct ts_result r = {.inference = job->input.inference,
                          .code = code,
                          .stage = stage,
                          .text = text,
                          .text_len = text_len,
                          .tensors = tensors,
                          .phases = &job->phases,
                          .fragments_sent = job->fragments_sent,
                          .fragments_resent = job->fragments_resent,
                          .total_us = n->ep.now - job->started};
    if (n->cfg->result != NULL) {
        n->cfg->result(n->cfg->endpoint.ctx, &r);
    }
}

/* Hands the job's body to the link; tried again later if the queue is full. */
static void send_body(struct ts_node *n, struct ts_job *job) {
    uint16_t session = job->state == TS_J_SENDING ? (uint16_t)n->downstream : job->upstream;
    uint32_t left = ts_due(n->ep.now, job->deadline) ? 0 : (job->deadline - n->ep.now) / 1000u;
    uint32_t timeout = left > 0 ? left : 1;
    if (job->state == TS_J_RETURNING && timeout < 1000) {
        timeout = 1000; /* an error about a missed deadline still has to get home */
    }
    int code = ts_send(&n->ep, n->ep.raw, session, job->kind, job->body, job->body_len, timeout, token_of(n, job));
    job->unsent = code == TS_E_NO_SLOT;
    if (code == TS_E_INVALID) { /* the session went away; its TS_EV_DOWN cleans up */
        job->unsent = job->state == TS_J_SENDING;
    }
}

/* A TENSOR goes down, a RESULT or ERROR up. */
static void send_on(struct ts_node *n, struct ts_job *job, uint8_t kind, const uint8_t *body, uint32_t len) {
    job->state = kind == TS_TENSOR ? TS_J_SENDING : TS_J_RETURNING;
    job->kind = kind;
    job->body = body;
    job->body_len = len;
    job->mark = n->ep.now;
    send_body(n, job);
}

/* The body of what a stage made: its header goes before data, the phases lie behind. */
static void send_tensors(struct ts_node *n, struct ts_job *job, uint8_t kind, uint8_t *data,
                         const struct ts_tensors *t) {
    uint8_t *body = data - TS_TENSOR_HEADER(t->count);
    uint32_t len = ts_tensors_encode(kind, t, body) + t->total + (uint32_t)t->phase_count * TS_PHASE_BYTES;
    send_on(n, job, kind, body, len);
}

/* Ends an inference without a result. */
static void fail_job(struct ts_node *n, struct ts_job *job, uint16_t code, uint8_t stage, const char *text,
                     uint8_t text_len) {
    if (n->downstream >= 0) {
        job->state = TS_J_RETURNING;
        ts_cancel(&n->ep, n->ep.raw, (uint16_t)n->downstream, token_of(n, job));
    }
    drop_result(n, job);
    if (job->upstream == TS_LOCAL) {
        report(n, job, code, stage, text, text_len, NULL);
        free_job(n, job);
        return;
    }
    struct ts_error_body e = {
        .inference = job->input.inference, .code = code, .stage = stage, .text = text, .text_len = text_len};
    /* Behind the output, which the engine may still be writing. */
    uint8_t *at = job->out + TS_OUT_HEADROOM + n->cfg->max_output;
    send_on(n, job, TS_ERROR, at, ts_error_encode(&e, at));
}

static void fail_here(struct ts_node *n, struct ts_job *job, int code) {
    fail_job(n, job, (uint16_t)code, own_stage(n), NULL, 0);
}

static struct ts_job *new_job(struct ts_node *n, uint16_t upstream, uint32_t started) {
    for (uint32_t i = 0; i < n->cfg->job_count; i++) {
        struct ts_job *job = &n->cfg->jobs[i];
        if (job->state == TS_J_FREE) {
            uint8_t *out = job->out;
            memset(job, 0, sizeof *job);
            job->out = out;
            job->upstream = upstream;
            job->started = started;
            job->order = n->order++;
            job->mark = n->ep.now;
            return job;
        }
    }
    return NULL;
}

/* True between its beginning and its end: what a deadline or a cancel can meet. */
static bool is_live(const struct ts_job *job) {
    return job->state >= TS_J_QUEUED && job->state <= TS_J_WAITING;
}

static struct ts_job *find_job(struct ts_node *n, uint16_t upstream, uint32_t inference) {
    for (uint32_t i = 0; i < n->cfg->job_count; i++) {
        struct ts_job *job = &n->cfg->jobs[i];
        if (is_live(job) && job->upstream == upstream && job->input.inference == inference) {
            return job;
        }
    }
    return NULL;
}

static uint32_t deadline_of(const struct ts_node *n, uint32_t from, uint32_t timeout_ms) {
    return ts_after(from, ts__span_us(timeout_ms, or_default(n->cfg->endpoint.message_timeout_ms, TIMEOUT_MS)));
}

/* A TENSOR for this stage. False if it has to wait for a free job. */
static bool take_tensor(struct ts_node *n, uint16_t session, uint8_t slot) {
    struct ts_session *s = &n->cfg->endpoint.sessions[session];
    struct ts_rx *rx = &s->rx[slot];
    struct ts_job *job = new_job(n, session, rx->last_at);
    rx->waiting = job == NULL;
    if (job == NULL) {
        return false;
    }
    job->slot = slot;
    job->input_held = true;
    job->deadline = deadline_of(n, rx->last_at, rx->env.ttl_ms);
    ts_phase_set(&job->phases, TS_P_RECEIVE, rx->last_at - rx->first_at);
    int code = TS_OK;
    if (!ts_tensors_decode(TS_TENSOR, rx->buffer, rx->env.len, &job->input)) {
        n->malformed++;
        code = TS_E_MALFORMED;
    } else if (find_job(n, session, job->input.inference) != NULL) {
        code = TS_E_DUPLICATE;
    } else if (job->input.codec != TS_CODEC_RAW) {
        code = TS_E_CODEC_MISMATCH;
        if (job->input.codec == s->codec) {
            code = n->cfg->coding->unpack(n, job);
            drop_input(n, job); /* decoded into memory of the job's own */
        }
    }
    ts_phase_set(&job->phases, TS_P_DECODE, n->ep.now - rx->last_at);
    if (code != TS_OK) {
        fail_here(n, job, code);
        drop_input(n, job);
    } else {
        job->state = TS_J_QUEUED;
    }
    return true;
}

/* Messages that found no free job when they arrived. */
static void take_waiting(struct ts_node *n) {
    for (uint32_t i = 0; i < n->cfg->endpoint.session_count; i++) {
        for (uint32_t j = 0; j < TS_RX_SLOTS; j++) {
            struct ts_rx *rx = &n->cfg->endpoint.sessions[i].rx[j];
            if (rx->state == TS_RX_HELD && rx->waiting && !take_tensor(n, (uint16_t)i, (uint8_t)j)) {
                return;
            }
        }
    }
}

static struct ts_job *awaited(struct ts_node *n, uint32_t inference) {
    for (uint32_t i = 0; i < n->cfg->job_count; i++) {
        struct ts_job *job = &n->cfg->jobs[i];
        if ((job->state == TS_J_SENDING || job->state == TS_J_WAITING) && job->wire == inference) {
            return job;
        }
    }
    return NULL;
}

static void take_result(struct ts_node *n, const struct ts_event *e) {
    struct ts_tensors t;
    struct ts_job *job = NULL;
    if (ts_tensors_decode(TS_RESULT, e->body, e->len, &t)) {
        job = awaited(n, t.inference);
    } else {
        n->malformed++;
    }
    if (job == NULL) {
        ts_release(&n->ep, n->ep.raw, e->session, e->slot);
        return;
    }
    if (job->state == TS_J_SENDING) { /* its acknowledgement is late or lost */
        job->state = TS_J_RETURNING;
        ts_cancel(&n->ep, n->ep.raw, e->session, token_of(n, job));
    } else {
        ts_phase_set(&job->phases, TS_P_DOWNSTREAM, n->ep.now - job->mark);
    }
    job->result_held = true;
    job->result_slot = e->slot;
    t.inference = job->input.inference;
    ts_put32(e->body, t.inference);
    if (job->upstream == TS_LOCAL) {
        report(n, job, TS_OK, t.stage, NULL, 0, &t);
        free_job(n, job);
        return;
    }
    uint8_t added =
        ts_phase_write(&job->phases, own_stage(n), e->body + e->len, (uint8_t)(TS_MAX_PHASES - t.phase_count));
    e->body[5] = (uint8_t)(t.phase_count + added);
    send_on(n, job, TS_RESULT, e->body, e->len + (uint32_t)added * TS_PHASE_BYTES);
}

static void take_error(struct ts_node *n, const struct ts_event *e) {
    struct ts_error_body err;
    struct ts_job *job = NULL;
    if (ts_error_decode(e->body, e->len, &err)) {
        job = awaited(n, err.inference);
    } else {
        n->malformed++;
    }
    if (job != NULL) {
        fail_job(n, job, err.code, err.stage, err.text, err.text_len);
    }
    ts_release(&n->ep, n->ep.raw, e->session, e->slot);
}

static void message_sent(struct ts_node *n, const struct ts_event *e) {
    uint32_t index = e->token & ~TS_NODE_TOKEN;
    struct ts_job *job = index < n->cfg->job_count ? &n->cfg->jobs[index] : NULL;
    if (job == NULL) {
        return;
    }
    if (e->session == n->downstream) {
        job->fragments_sent += e->fragments_sent;
        job->fragments_resent += e->fragments_resent;
    }
    if (job->state == TS_J_SENDING && e->session == n->downstream) {
        if (e->code == TS_OK) {
            ts_phase_set(&job->phases, TS_P_SEND, n->ep.now - job->mark);
            job->state = TS_J_WAITING;
            job->mark = n->ep.now;
        } else {
            fail_here(n, job, e->code);
        }
    } else if (job->state == TS_J_RETURNING && e->session == job->upstream) {
        bool up = n->cfg->endpoint.sessions[e->session].state == TS_S_UP;
        if (e->code != TS_OK && job->kind == TS_RESULT && up) {
            fail_here(n, job, e->code);
        } else {
            free_job(n, job);
        }
    }
}

static void session_down(struct ts_node *n, uint16_t session) {
    for (uint32_t i = 0; i < n->cfg->job_count; i++) {
        struct ts_job *job = &n->cfg->jobs[i];
        if (job->state == TS_J_FREE || job->state == TS_J_DRAINING) {
            continue;
        }
        if (job->upstream == session) {
            free_job(n, job);
        } else if (session == n->downstream && job->state == TS_J_WAITING) {
            job->state = TS_J_SENDING; /* the stage may have forgotten it */
            send_body(n, job);
        }
    }
    for (uint32_t j = 0; j < TS_RX_SLOTS; j++) {
        struct ts_rx *rx = &n->cfg->endpoint.sessions[session].rx[j];
        if (rx->state == TS_RX_HELD && rx->waiting) {
            ts_release(&n->ep, n->ep.raw, session, (uint8_t)j);
        }
    }
}

static void on_event(void *ctx, const struct ts_event *e) {
    struct ts_node *n = ctx;
    bool own = false;
    if (e->type == TS_EV_MESSAGE) {
        own = true;
        if (e->kind == TS_TENSOR) {
            take_tensor(n, e->session, e->slot);
        } else if (e->kind == TS_RESULT) {
            take_result(n, e);
        } else if (e->kind == TS_ERROR) {
            take_error(n, e);
        } else {
            own = false;
        }
    } else if (e->type == TS_EV_SENT && e->token >= TS_NODE_TOKEN) {
        own = true;
        message_sent(n, e);
    } else if (e->type == TS_EV_DOWN) {
        session_down(n, e->session);
    }
    if (own) {
        return;
    }
    if (n->cfg->event != NULL) {
        n->cfg->event(n->cfg->endpoint.ctx, e);
    } else if (e->type == TS_EV_MESSAGE) {
        ts_release(&n->ep, n->ep.raw, e->session, e->slot);
    }
}

static void set_measured(struct ts_job *job, enum ts_phase phase, uint32_t us) {
    if (us != 0) {
        ts_phase_set(&job->phases, phase, us);
    }
}

/* The stage has run: on to the next stage, or back. */
static void invoked(struct ts_node *n, const struct ts_invoke *run, int code) {
    struct ts_job *job = &n->cfg->jobs[run->job];
    n->running = -1;
    if (job->state != TS_J_RUNNING) { /* over in the meantime: deadline, session lost */
        if (job->state == TS_J_DRAINING) {
            free_job(n, job);
        } else {
            drop_input(n, job);
        }
        return;
    }
    struct ts_tensors t = {.inference = run->inference, .count = run->count, .stage = own_stage(n)};
    bool fits = run->count >= 1 && run->count <= TS_MAX_TENSORS;
    for (uint32_t i = 0; fits && i < run->count; i++) {
        fits = run->bytes[i] <= n->cfg->max_output - t.total;
        t.bytes[i] = run->bytes[i];
        t.total += run->bytes[i];
    }
    if (code == TS_OK && !fits) {
        code = TS_E_INVOKE_FAILED;
    }
    drop_input(n, job);
    if (code != TS_OK) {
        fail_here(n, job, code);
        return;
    }
    set_measured(job, TS_P_PREPROCESS, run->preprocess_us);
    ts_phase_set(&job->phases, TS_P_INVOKE, run->invoke_us != 0 ? run->invoke_us : n->ep.now - job->mark);
    set_measured(job, TS_P_ENCODE, run->encode_us);
    uint8_t *data = job->out + TS_OUT_HEADROOM;
    t.data = data;
    if (!last_stage(n)) {
        /* Two heads may have chosen the same id: the way down needs one of its own. */
        while (awaited(n, t.inference) != NULL) {
            t.inference = 0x80000000u | n->order++;
        }
        job->wire = t.inference;
        t.codec = n->downstream >= 0 ? n->cfg->endpoint.sessions[n->downstream].codec : TS_CODEC_RAW;
        if (t.codec != TS_CODEC_RAW) {
            data = n->cfg->coding->pack(n, job, &t);
        }
        send_tensors(n, job, TS_TENSOR, data, &t);
    } else if (job->upstream == TS_LOCAL) {
        report(n, job, TS_OK, own_stage(n), NULL, 0, &t);
        free_job(n, job);
    } else {
        t.phase_count = ts_phase_write(&job->phases, own_stage(n), data + t.total, TS_MAX_PHASES);
        send_tensors(n, job, TS_RESULT, data, &t);
    }
}

static struct ts_job *next_queued(const struct ts_node *n) {
    struct ts_job *next = NULL;
    for (uint32_t i = 0; n->running < 0 && i < n->cfg->job_count; i++) {
        struct ts_job *job = &n->cfg->jobs[i];
        if (job->state == TS_J_QUEUED && (next == NULL || (int32_t)(job->order - next->order) < 0)) {
            next = job;
        }
    }
    return next;
}

static void run_engine(struct ts_node *n) {
    struct ts_job *job = next_queued(n);
    if (job == NULL) {
        return;
    }
    ts_phase_set(&job->phases, TS_P_QUEUE, n->ep.now - job->mark);
    job->state = TS_J_RUNNING;
    job->mark = n->ep.now;
    n->running = job_index(n, job);
    memset(&n->run, 0, sizeof n->run);
    n->run.job = job_index(n, job);
    n->run.inference = job->input.inference;
    n->run.input = &job->input;
    n->run.output = job->out + TS_OUT_HEADROOM;
    n->run.output_cap = n->cfg->max_output;
    int code = n->cfg->invoke(n->cfg->endpoint.ctx, &n->run);
    if (code != TS_E_WOULD_BLOCK) {
        /* The time that a synchronous engine took is time that passed. */
        ts__set_time(&n->ep, n->ep.raw + (n->run.preprocess_us + n->run.invoke_us + n->run.encode_us));
        invoked(n, &n->run, code);
    }
}

int ts_node_init(struct ts_node *n, const struct ts_node_config *cfg, uint64_t now_us) {
    memset(n, 0, sizeof *n);
    n->cfg = cfg;
    n->downstream = n->running = -1;
    int code = ts_endpoint_init(&n->ep, &cfg->endpoint, on_event, n, now_us);
    if (code != TS_OK) {
        return code;
    }
    uint32_t codecs = cfg->coding != NULL ? TS_CODECS_RAW | TS_CODECS_RANGE : TS_CODECS_RAW;
    if (cfg->endpoint.codecs > codecs) {
        return TS_E_INVALID;
    }
    if (cfg->job_count > 0 && (cfg->invoke == NULL || cfg->max_output == 0 || cfg->max_output > UINT32_MAX / 4)) {
        return TS_E_INVALID;
    }
    if (cfg->out_memory_bytes < TS_JOB_MEMORY(cfg->job_count, cfg->max_output)) {
        return TS_E_NO_MEMORY;
    }
    for (uint32_t i = 0; i < cfg->job_count; i++) {
        memset(&cfg->jobs[i], 0, sizeof cfg->jobs[i]);
        cfg->jobs[i].out = cfg->out_memory + i * TS_JOB_STRIDE(cfg->max_output);
    }
    if (cfg->downstream != NULL) {
        n->downstream = ts_connect(&n->ep, now_us, cfg->downstream, true);
        return n->downstream < 0 ? -n->downstream : TS_OK;
    }
    return TS_OK;
}

int ts_node_infer(struct ts_node *n, uint64_t now_us, uint32_t inference, const struct ts_tensors *input,
                  uint32_t timeout_ms) {
    ts_poll(&n->ep, now_us);
    if (input->count < 1 || input->count > TS_MAX_TENSORS || (n->downstream < 0 && !last_stage(n))) {
        return TS_E_INVALID;
    }
    if (find_job(n, TS_LOCAL, inference) != NULL) {
        return TS_E_DUPLICATE;
    }
    struct ts_job *job = new_job(n, TS_LOCAL, n->ep.now);
    if (job == NULL) {
        return TS_E_NO_SLOT;
    }
    job->input = *input;
    job->input.inference = inference;
    job->deadline = deadline_of(n, n->ep.now, timeout_ms);
    job->state = TS_J_QUEUED;
    return TS_OK;
}

int ts_node_cancel(struct ts_node *n, uint64_t now_us, uint32_t inference) {
    ts_poll(&n->ep, now_us);
    struct ts_job *job = find_job(n, TS_LOCAL, inference);
    if (job == NULL) {
        return TS_E_INVALID;
    }
    fail_here(n, job, TS_E_CANCELLED);
    return TS_OK;
}

void ts_node_invoked(struct ts_node *n, uint64_t now_us, const struct ts_invoke *run, int code) {
    ts_poll(&n->ep, now_us);
    if (n->running >= 0 && n->running == run->job) {
        invoked(n, run, code);
    }
}

void ts_node_on_datagram(struct ts_node *n, uint64_t now_us, const struct ts_addr *from, const uint8_t *frame,
                         size_t len) {
    ts_on_datagram(&n->ep, now_us, from, frame, len);
}

uint64_t ts_node_poll(struct ts_node *n, uint64_t now_us) {
    uint32_t wake = 0;
    ts_poll(&n->ep, now_us);
    take_waiting(n);
    for (uint32_t i = 0; i < n->cfg->job_count; i++) {
        struct ts_job *job = &n->cfg->jobs[i];
        if (is_live(job)) {
            if (ts_due(n->ep.now, job->deadline)) {
                fail_here(n, job, TS_E_DEADLINE);
            } else {
                wake = ts_sooner(wake, job->deadline);
            }
        }
        if (job->unsent && (job->state == TS_J_SENDING || job->state == TS_J_RETURNING)) {
            send_body(n, job);
        }
    }
    run_engine(n);
    uint64_t next = ts_poll(&n->ep, n->ep.raw);
    uint64_t due = ts__wake_at(&n->ep, wake);
    return next_queued(n) != NULL ? n->ep.raw : due < next ? due : next;
}
