/* Stream framing, SPEC.md section 9: frames over TCP (length prefix) and serial (COBS).
 *
 * A reader takes whatever bytes arrive and calls back for each whole frame. The
 * frame lies in the reader's buffer and is gone when the callback returns. */
#ifndef TINYSPLIT_STREAM_H
#define TINYSPLIT_STREAM_H

#include "tinysplit/types.h"

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

#ifdef __cplusplus
}
#endif

#endif
