/* The node: the core's ts_node (or ts_bridge) on the link task, the engine on its own task and core.
 *
 * Only the link task touches ts_node, only the engine task the engine. Other tasks ask by the calls below,
 * each of which waits for its answer for a bounded time. */
#ifndef NODE_H
#define NODE_H

#include "app.h"
#include "engine.h"
#include "link.h"
#include "tinysplit/bridge.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NODE_JOBS 2            /* one in the engine, one on its way */
#define NODE_RESULT_BYTES 4096 /* longest final result a head takes, tensors together */

/* How an inference begun here ended; whoever gets one gives it back. */
struct node_result {
    uint32_t token; /* of node_run */
    uint32_t inference;
    uint16_t code;
    uint8_t stage, count, phase_count;
    uint8_t phases[TS_MAX_PHASES + TS_PHASES][TS_PHASE_BYTES]; /* records as on the wire */
    uint32_t bytes[TS_MAX_TENSORS];
    uint32_t fragments_sent, fragments_resent, total_us;
    char text[TS_MAX_ERROR_TEXT + 1];
    uint8_t tensors[NODE_RESULT_BYTES];
};

#define NODE_AUTO 0xFFFFFFFFu /* token of inferences on the board's own account */

/* When something happened to an inference, by esp_timer; 0: not known. */
struct node_stamp {
    uint32_t inference;
    uint64_t at_us;
};

struct node_stats {
    struct ts_stats link;
    uint8_t sessions_up;
    bool next_up;
    uint16_t next_error; /* why the last session to the next stage ended or failed */
    uint16_t frame_size; /* agreed with it */
    uint8_t codec;       /* likewise */
    uint32_t raw_bytes;  /* of boundaries that were coded, modulo 2^32, and what became of them */
    uint32_t coded_bytes;
    uint32_t srtt_us;
    bool clock_known;
    int64_t clock_offset_us;
    uint32_t clock_uncertainty_us;
    uint32_t clock_age_us;      /* since it was last estimated */
    struct node_stamp complete; /* the last boundary that arrived */
    struct node_stamp handed;   /* the boundary of the last inference that went well, handed to the link */
    uint32_t auto_left;         /* inferences still to come on the board's own account */
};

/* Starts the engine task, which finds the image to run, tests it, and then serves. Waits until it is ready, or
 * has found that there is nothing to run. */
void node_start_engine(void);

/* Starts links and link task with the stage the engine has, if any. An esp_err_t; *problem is a line for people. */
int node_start(const char **problem);

const struct link_port *node_port(void); /* of the transport */

/* Begins an inference. input: a buffer of node_input_take, or NULL for the golden input; it is given back when
 * the inference is over, also if this fails. TS_OK or a code. */
int node_run(uint32_t token, uint8_t *input, uint32_t timeout_ms);

/* Ends all inferences under way as far as anybody waits for them; returns how many. */
uint32_t node_abort(void);

void node_stats(struct node_stats *out);

/* A golden run compared again, on the engine task. As engine_self_test. */
int node_self_test(uint32_t *detail);

/* Time each operator from the next inference on. */
void node_profile(bool on);

/* Buffers for input tensors, as long as the stage's; any task. */
uint8_t *node_input_take(uint32_t *cap);
void node_input_give(uint8_t *buffer);

/* A CONTROL message to the peer of a session; bytes are copied (at most NODE_CONTROL_BYTES). TS_OK or a code. */
#define NODE_CONTROL_BYTES 4096
int node_send_control(uint16_t session, const char *text, size_t len);
/* A CONTROL or BLOB message was dealt with. */
void node_release(uint16_t session, uint8_t slot);

#ifdef __cplusplus
}
#endif

#endif
