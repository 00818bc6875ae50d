/* Codec 1: boundaries without their redundancy, byte for byte, SPEC.md section 14.
 *
 * A node that is to speak it has a struct ts_coding; one without pays nothing for it:
 *
 *     static struct ts_coding coding;
 *     static uint8_t coded[TS_CODING_MEMORY(2, 8192, 8192)];
 *
 *     ts_coding_init(&coding, coded, sizeof coded, 2, 8192, 8192);
 *     coding.clock_us = clock_us;
 *     coding.near[0] = ts_near_of(shape, 4, bytes); // of each tensor that this node sends
 *     cfg.coding = &coding;                         // struct ts_node_config
 *     cfg.endpoint.codecs = TS_CODECS_RAW | TS_CODECS_RANGE; */
#ifndef TINYSPLIT_CODEC_H
#define TINYSPLIT_CODEC_H

#include "tinysplit/message.h"

#ifdef __cplusplus
extern "C" {
#endif

enum ts_codec_id { TS_CODEC_RAW = 0, TS_CODEC_RANGE = 1 };

/* For the mask of HELLO, ts_config.codecs. */
#define TS_CODECS_RAW (1u << TS_CODEC_RAW)
#define TS_CODECS_RANGE (1u << TS_CODEC_RANGE)

#define TS_CODEC_CONTEXTS 74

/* Working memory, 512 bytes; nothing in it outlives a call. */
struct ts_codec {
    union {
        uint16_t frequency[256];
        struct {
            uint16_t p[TS_CODEC_CONTEXTS];
            uint8_t n[TS_CODEC_CONTEXTS];
        } context;
    } u;
};

/* How many bytes before a value its left and its upper neighbour are; left 0: not looked at. */
struct ts_near {
    uint16_t left, above;
};

/* The neighbours worth looking at in a tensor of `bytes` bytes with this shape: those of large images. */
struct ts_near ts_near_of(const uint32_t *shape, uint32_t dims, uint32_t bytes);

/* Writes the coded form of n bytes to out, which has n + 1 and may not overlap; returns its length. */
uint32_t ts_codec_encode(struct ts_codec *codec, const uint8_t *data, uint32_t n, struct ts_near near, uint8_t *out);

/* Reads a coded form of len bytes, any bytes, into out, which has cap and may not overlap. Returns TS_OK with *n,
 * TS_E_MALFORMED, or TS_E_TOO_LARGE if the tensor is longer than cap. */
int ts_codec_decode(struct ts_codec *codec, const uint8_t *in, uint32_t len, uint8_t *out, uint32_t cap, uint32_t *n);

/* Room before the coded tensors for the header of the message they travel in. */
#define TS_CODING_HEADROOM 48
#define TS_CODING_SENT(max_output) ((size_t)(max_output) + TS_CODING_HEADROOM + TS_MAX_TENSORS)
#define TS_CODING_STRIDE(max_input, max_output)                                                                        \
    (((TS_CODING_SENT(max_output) > (max_input) ? TS_CODING_SENT(max_output) : (size_t)(max_input)) + 15u) / 16u * 16u)
#define TS_CODING_MEMORY(job_count, max_input, max_output)                                                             \
    ((size_t)(job_count) * TS_CODING_STRIDE(max_input, max_output))

struct ts_node;
struct ts_job;

/* How a node speaks codec 1: the one place of a job in `memory` holds its decoded input until its engine is done,
 * then its coded output until that was delivered. */
struct ts_coding {
    struct ts_codec codec;
    uint8_t *memory;
    uint32_t max_input;
    size_t stride;
    uint16_t job_count;

    /* Of each tensor that this node sends, the caller's. Zeros: none. */
    struct ts_near near[TS_MAX_TENSORS];

    /* The caller's clock in microseconds, to time coding; NULL: it is not timed. Gets ts_config.ctx. */
    uint64_t (*clock_us)(void *ctx);

    /* Of the tensors packed so far, modulo 2^32. */
    uint32_t raw_bytes, coded_bytes;

    /* For ts_node. pack codes what *tensors points to and returns where it is now; unpack decodes the job's input and
     * returns as ts_codec_decode. */
    uint8_t *(*pack)(struct ts_node *node, struct ts_job *job, struct ts_tensors *tensors);
    int (*unpack)(struct ts_node *node, struct ts_job *job);
};

/* Sets up coding for a node with job_count jobs, whose inputs and outputs have at most so many bytes in all. Returns
 * TS_OK, TS_E_NO_MEMORY if memory_bytes is below TS_CODING_MEMORY. */
int ts_coding_init(struct ts_coding *coding, uint8_t *memory, size_t memory_bytes, uint16_t job_count,
                   uint32_t max_input, uint32_t max_output);

#ifdef __cplusplus
}
#endif

#endif
