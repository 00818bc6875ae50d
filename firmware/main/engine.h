/* The engine: TensorFlow Lite Micro with ESP-NN's kernels on the stage of an image, run where it lies in
 * flash. One stage at a time; every call from one task only, but for the reading of engine_state.
 *
 * Before a stage serves it proves itself: engine_self_test runs the image's golden input and compares the
 * bytes. If they differ, it finds the first operator whose output has another CRC-32 than the manifest
 * says, gives that kind of operator the reference kernel and starts again, until the bytes are right or no kind is
 * left. */
#ifndef ENGINE_H
#define ENGINE_H

#include "tinysplit/image.h"
#include "tinysplit/node.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ENGINE_OPERATORS 512 /* of a stage, at most */
#define ENGINE_TEXT 160

enum engine_kernels { KERNELS_ESP_NN, KERNELS_MIXED, KERNELS_REFERENCE };

struct engine_state {
    bool open;           /* a stage is loaded */
    bool proven;         /* and its self-test passed */
    uint8_t kernels;     /* enum engine_kernels */
    bool arena_internal; /* the arena lies in internal memory, not in PSRAM */
    uint32_t arena_bytes, arena_used;
    uint32_t flash_bytes;   /* of the model */
    uint32_t tests, passed; /* self-tests since boot */
    uint32_t runs;          /* since the stage was opened */
    uint32_t last_us;       /* of the last one */
    uint16_t operators;     /* of the model */
    uint16_t
        wrong_operator; /* the first that disagreed in the last self-test with ESP-NN; ENGINE_OPERATORS: none did */
    char wrong[ENGINE_TEXT];   /* that operator, its shape and path; empty: none */
    char problem[ENGINE_TEXT]; /* why there is no stage; empty: nothing is wrong */
};

/* Opens the stage of an image that ts_image_verify has passed, mapped at `base` for as long as it is open. A stage
 * that was open before is closed. Returns TS_OK; TS_E_UNSUPPORTED: an operator this firmware has no kernel for;
 * TS_E_IMAGE_ARENA: no memory for its arena; TS_E_IMAGE_MALFORMED: the model contradicts the manifest.
 * The state's problem says it for people. */
int engine_open(const struct ts_image *image, const uint8_t *base);
void engine_close(void);

/* TS_OK, TS_E_SELF_TEST with the operator's number in *detail, TS_E_INVOKE_FAILED. May reopen the stage with other
 * kernels. *detail may be NULL. */
int engine_self_test(uint32_t *detail);

/* Runs the stage as ts_node_config.invoke wants it: TS_OK with lengths and times, TS_E_MALFORMED if the input's sizes
 * are not the stage's, TS_E_INVOKE_FAILED. */
int engine_run(struct ts_invoke *run);

/* The golden input: image->received tensors, one behind the other. */
bool engine_golden(struct ts_tensors *out);

/* Lengths of the tensors the stage receives and sends, and of all sent ones together. */
uint32_t engine_received(uint32_t bytes[TS_MAX_TENSORS], uint8_t *count);
uint32_t engine_sent_bytes(void);

/* What codec 1 is told of the tensors the stage sends: its neighbours, by shape. */
void engine_near(struct ts_near near[TS_MAX_TENSORS]);

/* Time each operator of the runs from now on. */
void engine_profile(bool on);

/* Operator `index`: its name, and its time in the last profiled run (0: none). False if there is none. */
bool engine_operator(uint32_t index, const char **name, uint32_t *us);

struct engine_state engine_state(void);
const char *engine_kernels_name(uint8_t kernels);

#ifdef __cplusplus
}
#endif

#endif
