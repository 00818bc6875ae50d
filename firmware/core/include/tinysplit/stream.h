/* Stream framing, SPEC.md section 9: frames over TCP (length prefix) and in pieces of values (COBS), and
 * frames among the text of a serial wire.
 *
 * A reader takes whatever bytes arrive and calls back for each whole frame. The
 * frame lies in the reader's buffer and is gone when the callback returns. */
#ifndef TINYSPLIT_STREAM_H
#define TINYSPLIT_STREAM_H

#include "tinysplit/crc.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TS_PREFIX_BYTES 2

/* Longest COBS form of a frame, with its 0x00. */
#define TS_COBS_MAX(frame_bytes) ((frame_bytes) + (frame_bytes) / 254 + 2)

typedef void (*ts_frame_fn)(void *ctx, const uint8_t *frame, size_t len);

struct ts_stream {
    uint8_t *buffer; /* the caller's, cap bytes: the link's mtu */
    uint32_t cap;
    uint32_t len;     /* bytes of the frame so far */
    uint32_t want;    /* length prefix: bytes of the frame; COBS: bytes left in the block */
    uint8_t prefix;   /* length prefix: bytes of it read so far */
    bool cobs;        /* which of the two */
    bool skip;        /* COBS: drop up to the next 0x00 */
    bool zero;        /* COBS: the block ends with a zero byte */
    uint32_t dropped; /* COBS: frames that did not decode */
};

/* Sets up a reader, also for use after a reconnect. buffer holds mtu bytes. */
void ts_stream_init(struct ts_stream *stream, bool cobs, uint8_t *buffer, uint32_t mtu);

/* Takes len bytes. Returns TS_OK, or TS_E_MALFORMED if a length prefix exceeds the
 * mtu: the stream must be closed then. COBS never fails. */
int ts_stream_read(struct ts_stream *stream, const uint8_t *data, size_t len, ts_frame_fn frame, void *ctx);

/* Writes the COBS form of a frame and its 0x00; out has TS_COBS_MAX(len) bytes.
 * Returns the length. (The length prefix is ts_put16 before the frame.) */
size_t ts_cobs_encode(const uint8_t *frame, size_t len, uint8_t *out);

/* Bytes of a frame on a serial wire at most: 0x00, COBS of frame and CRC16, 0x00. */
#define TS_WIRE_MAX(frame_bytes) ((frame_bytes) + 2 + ((frame_bytes) + 2) / 254 + 3)

/* Said before a line of text by whoever sent frames: a reader out of step takes what follows as text. */
#define TS_WIRE_SYNC "\0\1\1\1\0\n"
#define TS_WIRE_SYNC_BYTES 6

struct ts_wire {
    const struct ts_crc *crc;
    uint8_t *buffer; /* the caller's, TS_WIRE_MAX(mtu) bytes: what came since a 0x00 */
    uint32_t longest, len;
    uint32_t mtu;
    bool collecting;  /* a 0x00 came, and what follows may be a frame */
    uint32_t dropped; /* pieces between zeros that were no frames */
};

/* Sets up a reader of a serial wire. crc and buffer stay the caller's. */
void ts_wire_init(struct ts_wire *wire, const struct ts_crc *crc, uint8_t *buffer, uint32_t mtu);

/* Takes len bytes, any bytes: calls `frame` for each whole frame, `text` for each run of other bytes, in
 * the order in which they end. Text holds no 0x00. */
void ts_wire_read(struct ts_wire *wire, const uint8_t *data, size_t len, ts_frame_fn frame, ts_frame_fn text,
                  void *ctx);

/* Nothing has come for 100 ms or longer: what was collected is no frame but text. */
void ts_wire_silence(struct ts_wire *wire, ts_frame_fn text, void *ctx);

/* Writes a frame as it travels on a serial wire; out has TS_WIRE_MAX(len) bytes. Returns the length. */
size_t ts_wire_encode(const struct ts_crc *crc, const uint8_t *frame, size_t len, uint8_t *out);

#ifdef __cplusplus
}
#endif

#endif
