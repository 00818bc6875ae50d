/* Nodes: the loop input -> invoke -> send -> wait -> result, SPEC.md section 12.
 *
 * The whole life of a node:
 *
 *     static int engine(void *ctx, struct ts_invoke *run) {      // runs the stage
 *         run->count = 1;
 *         run->bytes[0] = stage_invoke(run->input->data, run->output, run->output_cap);
 *         run->invoke_us = stage_last_us();
 *         return TS_OK;                                          // or TS_E_WOULD_BLOCK: runs elsewhere
 *     }
 *     static void result(void *ctx, const struct ts_result *r) { // heads only
 *         printf("%u: %s\n", (unsigned)r->inference, ts_error_name(r->code));
 *     }
 *
 *     static struct ts_session sessions[2];
 *     static struct ts_job jobs[2];
 *     static uint8_t rx[TS_RX_MEMORY(2, 8192)], out[TS_JOB_MEMORY(2, 8192)], frame[1452];
 *     static const struct ts_link links[] = {{.mtu = 1452}};
 *     static struct ts_node_config cfg = {
 *         .endpoint = {.crc = {NULL, ts_crc16_small, ts_crc32_small}, .send = udp_send, .random = hw_random,
 *                      .role = TS_ROLE_HEAD, .stage = 0, .stage_count = 2, .bundle = {...},
 *                      .links = links, .link_count = 1, .sessions = sessions, .session_count = 2,
 *                      .rx_memory = rx, .rx_memory_bytes = sizeof rx, .max_message = 8192,
 *                      .frame = frame, .frame_bytes = sizeof frame},
 *         .downstream = &tail_addr, .jobs = jobs, .job_count = 2, .out_memory = out,
 *         .out_memory_bytes = sizeof out, .max_output = 8192, .invoke = engine, .result = result};
 *     static struct ts_node node;
 *
 *     ts_node_init(&node, &cfg, now_us());
 *     ts_node_infer(&node, now_us(), 1, &input, 2000);
 *     for (;;) {
 *         uint64_t until = ts_node_poll(&node, now_us());
 *         if (udp_wait(until, &from, buffer, &len)) {
 *             ts_node_on_datagram(&node, now_us(), &from, buffer, len);
 *         }
 *     }
 *
 * A tail is the same without .downstream and ts_node_infer. Call ts_node_poll
 * after every other call: it runs the engine and says when it wants to be called. */
#ifndef TINYSPLIT_NODE_H
#define TINYSPLIT_NODE_H

#include "tinysplit/codec.h"
#include "tinysplit/phase.h"
#include "tinysplit/session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One run of the engine. */
struct ts_invoke {
    uint16_t job; /* for ts_node_invoked */
    uint32_t inference;
    const struct ts_tensors *input; /* lies still until the engine is done */
    uint8_t *output;                /* output tensors go here, one behind the other; aligned to 16 */
    uint32_t output_cap;            /* bytes */
    /* Filled in by the engine: */
    uint8_t count;                                /* output tensors */
    uint32_t bytes[TS_MAX_TENSORS];               /* their lengths */
    uint32_t preprocess_us, invoke_us, encode_us; /* time taken; 0: not measured */
};

/* How an inference of ts_node_infer ended. Pointers are valid during the callback. */
struct ts_result {
    uint32_t inference;
    uint16_t code; /* TS_OK, or why there is no result */
    uint8_t stage; /* where it failed, or that made the result */
    uint8_t text_len;
    const char *text;                          /* what the failing stage said, not terminated */
    const struct ts_tensors *tensors;          /* NULL without a result; its phases are the other stages' */
    const struct ts_phases *phases;            /* of this stage */
    uint32_t fragments_sent, fragments_resent; /* DATA frames of the boundary, and repeats among them */
    uint32_t total_us;                         /* from ts_node_infer to now */
};

enum ts_job_state {
    TS_J_FREE = 0,
    TS_J_QUEUED,
    TS_J_RUNNING,
    TS_J_SENDING,
    TS_J_WAITING,
    TS_J_RETURNING,
    TS_J_DRAINING /* over, but the engine still has its buffers */
};

/* One inference on its way through this node. The caller owns it, the node uses it. */
struct ts_job {
    struct ts_tensors input;
    struct ts_phases phases;
    uint32_t started, mark, deadline;
    uint32_t order;
    uint32_t wire; /* inference id on the way down */
    uint32_t fragments_sent, fragments_resent;
    uint8_t *out;        /* this job's part of out_memory */
    const uint8_t *body; /* what to send next */
    uint32_t body_len;
    uint16_t upstream; /* session, or TS_LOCAL */
    uint8_t state, kind, slot, result_slot;
    bool input_held, result_held, unsent;
};

#define TS_LOCAL 0xFFFFu

/* Per job: header, output tensors, phase records. */
#define TS_OUT_HEADROOM 48
#define TS_OUT_TAILROOM (TS_MAX_PHASES * TS_PHASE_BYTES)
#define TS_JOB_STRIDE(max_output) ((((size_t)(max_output) + TS_OUT_HEADROOM + TS_OUT_TAILROOM) + 15u) / 16u * 16u)
#define TS_JOB_MEMORY(job_count, max_output) ((size_t)(job_count) * TS_JOB_STRIDE(max_output))

struct ts_node_config {
    struct ts_config endpoint;

    /* The next stage's address; NULL for tails, hosts and bridges. The session is opened at
     * once and kept. */
    const struct ts_addr *downstream;

    /* Inferences that can be at this node at once: 2 or more let the engine work while the
     * last boundary travels. None (0) for hosts and bridges. */
    struct ts_job *jobs;
    uint16_t job_count;

    /* Where outputs are made: TS_JOB_MEMORY(job_count, max_output) bytes, aligned to 16. */
    uint8_t *out_memory;
    size_t out_memory_bytes;
    uint32_t max_output;

    /* Codec 1, see codec.h: set up for job_count jobs; ts_config.codecs says whether it is offered. NULL: raw only. */
    struct ts_coding *coding;

    /* Runs this stage. Returns TS_OK when done, TS_E_WOULD_BLOCK if another thread runs it
     * and ts_node_invoked follows, any other code if it failed. Called from ts_node_poll only. */
    int (*invoke)(void *ctx, struct ts_invoke *run);

    /* An inference of ts_node_infer is over. May be NULL for other roles. */
    void (*result)(void *ctx, const struct ts_result *result);

    /* Everything of the endpoint that is not the inference's: sessions up and down, CONTROL,
     * BLOB and private messages (to be released with ts_release), ends of the application's own
     * ts_send (tokens below TS_NODE_TOKEN). May be NULL. */
    ts_event_fn event;
};

#define TS_NODE_TOKEN 0x80000000u

struct ts_node {
    struct ts_endpoint ep; /* for ts_send and its like */
    const struct ts_node_config *cfg;
    struct ts_invoke run;
    int32_t downstream; /* session index, -1: none */
    int32_t running;    /* job in the engine, -1: none */
    uint32_t order;
    uint32_t malformed; /* bodies that did not decode */
};

/* Sets up a node. Returns TS_OK, TS_E_INVALID, TS_E_NO_MEMORY. */
int ts_node_init(struct ts_node *node, const struct ts_node_config *cfg, uint64_t now_us);

/* Starts an inference on local input (heads). input's data stays unchanged until the result.
 * timeout_ms 0: the message timeout. Returns TS_OK, TS_E_NO_SLOT if all jobs are busy,
 * TS_E_DUPLICATE, TS_E_INVALID. cfg->result is called exactly once for each TS_OK. */
int ts_node_infer(struct ts_node *node, uint64_t now_us, uint32_t inference, const struct ts_tensors *input,
                  uint32_t timeout_ms);

/* Ends an inference of ts_node_infer: cfg->result is called with TS_E_CANCELLED before this returns,
 * and not again. What later stages still do for it is thrown away when it comes back, so its id
 * must not be used again while that can be. Its job is free at once, or once the engine that runs
 * it is done. Returns TS_OK, TS_E_INVALID if no such inference is under way. */
int ts_node_cancel(struct ts_node *node, uint64_t now_us, uint32_t inference);

/* The engine that returned TS_E_WOULD_BLOCK is done; run is the struct it was given, filled in. */
void ts_node_invoked(struct ts_node *node, uint64_t now_us, const struct ts_invoke *run, int code);

/* Takes a frame. Any bytes are safe. */
void ts_node_on_datagram(struct ts_node *node, uint64_t now_us, const struct ts_addr *from, const uint8_t *frame,
                         size_t len);

/* Does what is due, at most one run of the engine. Returns when to call again at the latest, by
 * the caller's clock; TS_NEVER if nothing is planned. */
uint64_t ts_node_poll(struct ts_node *node, uint64_t now_us);

/* A boundary's way from one node to the next, for owners who compare clocks (ts_clock); 0: not known. All by the
 * caller's clock. */

/* When the boundary that run works on was complete; in cfg->invoke. */
static inline uint64_t ts_complete_at(const struct ts_node *node, const struct ts_invoke *run) {
    const struct ts_job *job = &node->cfg->jobs[run->job];
    const uint32_t *us = job->phases.duration_us;
    return job->upstream == TS_LOCAL ? 0 : node->ep.raw - us[TS_P_QUEUE] - us[TS_P_DECODE];
}

/* When the boundary of an inference that went well was handed to the link; in cfg->result. Not known if the result was
 * back before the boundary's acknowledgement. */
static inline uint64_t ts_handed_at(const struct ts_node *node, const struct ts_result *result) {
    const uint32_t *us = result->phases->duration_us;
    unsigned both = 1u << TS_P_SEND | 1u << TS_P_DOWNSTREAM;
    bool known = result->code == TS_OK && (result->phases->known & both) == both;
    return known ? node->ep.raw - us[TS_P_SEND] - us[TS_P_DOWNSTREAM] : 0;
}

#ifdef __cplusplus
}
#endif

#endif
