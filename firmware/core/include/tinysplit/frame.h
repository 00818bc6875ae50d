/* Frame coding: bytes to fields and back, SPEC.md sections 1 to 4, 7 and 8.
 *
 * Decoders check length, kind, flags, tag and checksum before they set a single
 * field, and point into the caller's bytes instead of copying. */
#ifndef TINYSPLIT_FRAME_H
#define TINYSPLIT_FRAME_H

#include "tinysplit/crc.h"
#include "tinysplit/types.h"

#ifdef __cplusplus
extern "C" {
#endif

enum ts_frame_kind {
    TS_F_HELLO = 1,
    TS_F_HELLO_ACK = 2,
    TS_F_DATA = 3,
    TS_F_ACK = 4,
    TS_F_POLL = 5,
    TS_F_REJECT = 6,
    TS_F_PING = 7,
    TS_F_PONG = 8,
    TS_F_RESET = 9,
    TS_F_BYE = 10,
    TS_F_FORWARD = 11
};

#define TS_HELLO_BYTES 68
#define TS_HELLO_MAX_BYTES 128
#define TS_CONTROL_FRAME_BYTES 46 /* longest of ACK, POLL, REJECT, PING, PONG, RESET, BYE */
#define TS_ACK_BITMAP_BYTES 32

#define TS_DATA_LAST 0x1u
#define TS_DATA_ACKREQ 0x2u
#define TS_ACK_COMPLETE 0x1u
#define TS_ACK_DUP 0x2u
#define TS_ECHO_POLL 0xFFFEu
#define TS_ECHO_NONE 0xFFFFu

/* HELLO and HELLO_ACK; the units are those of the wire. */
struct ts_hello {
    uint8_t version_max, version_min;
    uint8_t slots, role, stage, stage_count;
    uint16_t mtu, window, codecs, ack_delay, idle_timeout, status;
    uint32_t nonce_i, nonce_a, max_message;
    uint8_t bundle[TS_BUNDLE_BYTES];
};

/* A frame of kind DATA to BYE. Only the fields of its kind are set. */
struct ts_frame {
    uint8_t kind;
    uint8_t flags;          /* DATA: LAST, ACKREQ; ACK: COMPLETE, DUP */
    uint8_t attempt;        /* DATA, ACK: 0..3; POLL: seq */
    uint16_t message;       /* DATA, ACK, POLL, REJECT */
    uint16_t fragment;      /* DATA */
    uint16_t base;          /* ACK */
    uint16_t echo, delay;   /* ACK; delay in 16 us */
    uint16_t limit;         /* ACK, REJECT */
    uint16_t oldest;        /* POLL */
    uint16_t code;          /* REJECT, BYE */
    uint16_t seq;           /* PING, PONG, RESET */
    uint32_t detail;        /* REJECT */
    uint32_t sid;           /* PING, PONG, RESET, BYE */
    uint64_t t[3];          /* t1, t2, t3 of SPEC.md, us. PING: the first; PONG: all */
    const uint8_t *payload; /* DATA: fragment; ACK: bitmap */
    uint16_t payload_len;
};

/* Session id of two nonces. */
uint32_t ts_sid(const struct ts_crc *crc, uint32_t nonce_i, uint32_t nonce_a);

/* Running CRC16 after the sid; computed once per session, passed as `seed`. */
uint16_t ts_seed(const struct ts_crc *crc, uint32_t sid);

/* Writes HELLO (kind TS_F_HELLO) or HELLO_ACK into out, TS_HELLO_BYTES long. */
void ts_hello_encode(const struct ts_crc *crc, uint8_t kind, const struct ts_hello *hello, uint8_t *out);

/* True, and *hello filled, if the bytes are a well-formed frame of that kind:
 * length, checksum and magic; the values are not judged. */
bool ts_hello_decode(const struct ts_crc *crc, uint8_t kind, const uint8_t *in, size_t len, struct ts_hello *hello);

/* Writes a frame of kind DATA to BYE; returns its length. out has room for
 * TS_CONTROL_FRAME_BYTES, or for payload_len + TS_DATA_OVERHEAD with DATA. A DATA
 * payload may already lie in its place, out + 6. */
size_t ts_frame_encode(const struct ts_crc *crc, uint32_t sid, uint16_t seed, const struct ts_frame *frame,
                       uint8_t *out);

/* True, and *frame filled, if the bytes are a valid frame of kind DATA to BYE
 * under this session; payload points into `in`. */
bool ts_frame_decode(const struct ts_crc *crc, uint32_t sid, uint16_t seed, const uint8_t *in, size_t len,
                     struct ts_frame *frame);

#ifdef __cplusplus
}
#endif

#endif
