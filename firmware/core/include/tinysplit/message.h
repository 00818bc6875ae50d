/* Messages: the envelope and the bodies, SPEC.md sections 5 and 6. */
#ifndef TINYSPLIT_MESSAGE_H
#define TINYSPLIT_MESSAGE_H

#include "tinysplit/crc.h"
#include "tinysplit/types.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ts_envelope {
    uint8_t kind;
    uint16_t ttl_ms; /* 0: not said */
    uint32_t id;
    uint32_t len; /* bytes of the body */
    uint32_t crc;
};

/* Writes TS_ENVELOPE bytes for this body; env->len and env->crc are computed. */
void ts_envelope_encode(const struct ts_crc *crc, uint32_t sid, struct ts_envelope *env, const uint8_t *body,
                        uint32_t len, uint8_t *out);

/* Reads TS_ENVELOPE bytes; false if the flags are not 0. The body is checked by ts_envelope_check. */
bool ts_envelope_decode(const uint8_t *in, struct ts_envelope *env);

/* True if body has the CRC32 that env names, in this session. */
bool ts_envelope_check(const struct ts_crc *crc, uint32_t sid, const struct ts_envelope *env, const uint8_t *body);

/* TENSOR and RESULT bodies: the tensors lie one behind the other at data. */
struct ts_tensors {
    uint32_t inference;
    uint8_t count;       /* 1..TS_MAX_TENSORS */
    uint8_t codec;       /* TENSOR only */
    uint8_t phase_count; /* RESULT only: records of TS_PHASE_BYTES at phases */
    uint8_t stage;       /* that made them */
    uint32_t bytes[TS_MAX_TENSORS];
    uint32_t total; /* sum of bytes */
    const uint8_t *data;
    const uint8_t *phases;
};

#define TS_TENSOR_HEADER(count) (8u + 4u * (count))
#define TS_TENSOR_HEADER_MAX TS_TENSOR_HEADER(TS_MAX_TENSORS)

/* Writes the header of a TENSOR or RESULT, which ends where the tensors begin;
 * returns its length TS_TENSOR_HEADER(t->count). */
uint32_t ts_tensors_encode(uint8_t kind, const struct ts_tensors *t, uint8_t *out);

/* True, and *t filled, if body is a valid TENSOR or RESULT. t->inference is set
 * whenever the body has 4 bytes or more, so that an ERROR can name it. */
bool ts_tensors_decode(uint8_t kind, const uint8_t *body, uint32_t len, struct ts_tensors *t);

struct ts_error_body {
    uint32_t inference;
    uint16_t code;
    uint8_t stage;
    uint8_t text_len;
    const char *text; /* not terminated */
};

#define TS_ERROR_MAX_BYTES (8 + TS_MAX_ERROR_TEXT)

/* Writes an ERROR body (text cut to TS_MAX_ERROR_TEXT); returns its length. */
uint32_t ts_error_encode(const struct ts_error_body *e, uint8_t *out);
bool ts_error_decode(const uint8_t *body, uint32_t len, struct ts_error_body *e);

struct ts_blob {
    uint32_t id, offset, total;
    uint32_t len;
    const uint8_t *data;
};

#define TS_BLOB_HEADER 12

/* Writes TS_BLOB_HEADER bytes; the piece follows. */
void ts_blob_encode(const struct ts_blob *b, uint8_t *out);
bool ts_blob_decode(const uint8_t *body, uint32_t len, struct ts_blob *b);

#ifdef __cplusplus
}
#endif

#endif
