/* Transfer: one message across one link, SPEC.md sections 3 and 4.
 *
 * ts_tx cuts a message into fragments and knows which to send next; ts_rx puts
 * fragments together. Neither sends, reads a clock or allocates. A bitmap covers
 * TS_WINDOW fragments from the first one missing, so that the state is the same
 * for a message of any length. */
#ifndef TINYSPLIT_TRANSFER_H
#define TINYSPLIT_TRANSFER_H

#include "tinysplit/frame.h"
#include "tinysplit/message.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TS_BIT_WORDS (TS_WINDOW / 32)

struct ts_bits {
    uint32_t w[TS_BIT_WORDS];
};

/* Round-trip estimate, RFC 6298 section 2. */
struct ts_rtt {
    uint32_t srtt_us, rttvar_us, latest_us;
    bool known;
};

void ts_rtt_sample(struct ts_rtt *rtt, uint32_t sample_us);

/* The sample that an ACK gives which answers a frame sent at sent_at. */
uint32_t ts_rtt_of(const struct ts_frame *ack, uint32_t sent_at, uint32_t now_us);

enum ts_tx_state { TS_TX_FREE = 0, TS_TX_QUEUED, TS_TX_SENDING };

/* A message on its way out. */
struct ts_tx {
    uint8_t state, kind, tries, probes;
    uint16_t inflight;     /* sent, neither acknowledged nor lost */
    uint16_t order_next;   /* transmissions so far */
    uint16_t order_seen;   /* latest transmission known to have arrived, +1 */
    uint16_t poll_order;   /* last POLL's place in that order */
    uint16_t since_ackreq; /* fragments sent since the last that asked for an ACK */
    const uint8_t *body;   /* the caller's, unchanged until the message is over */
    uint32_t len;
    uint32_t token;  /* the caller's */
    uint32_t id;     /* 0 while queued */
    uint32_t queued; /* place in the queue */
    uint32_t deadline, timer, loss_at;
    uint32_t fragments, base, next; /* all below base acknowledged, none from next on sent */
    uint32_t fragments_sent, fragments_resent;
    struct ts_bits acked, lost; /* bit i: fragment base + i */
    uint8_t envelope[TS_ENVELOPE];
    uint8_t attempt[TS_WINDOW]; /* these three by fragment mod TS_WINDOW; attempt 0..3, 4 added to a probe's */
    uint16_t order[TS_WINDOW];
    uint32_t sent_at[TS_WINDOW];
};

/* Begins to send: envelope written, len > 0 fragments of `piece` bytes counted. False if they
 * are more than TS_MAX_FRAGMENT. */
bool ts_tx_begin(struct ts_tx *tx, const struct ts_crc *crc, uint32_t sid, uint32_t id, uint16_t ttl_ms,
                 uint32_t piece);

#define TS_NO_FRAGMENT UINT32_MAX

/* The fragment to send next (lost ones first), if there is one within `window`; as if `but` had been sent. */
bool ts_tx_pick(const struct ts_tx *tx, uint32_t window, uint32_t but, uint32_t *fragment);

/* The highest fragment in flight, or the oldest, for a probe. */
bool ts_tx_probe(const struct ts_tx *tx, bool oldest, uint32_t *fragment);

/* Copies the payload of a fragment to out; returns its length, at most `piece`. */
uint16_t ts_tx_payload(const struct ts_tx *tx, uint32_t fragment, uint32_t piece, uint8_t *out);

/* Notes that a fragment was sent. */
void ts_tx_sent(struct ts_tx *tx, uint32_t fragment, uint32_t now_us);

struct ts_ack_outcome {
    bool valid;           /* the ACK could be about this message */
    bool complete;        /* the message is over */
    bool spurious;        /* a retransmission turned out to be needless */
    bool sampled;         /* sample_us is set */
    uint32_t sample_us;   /* round-trip time of a DATA frame */
    uint32_t newly_acked; /* fragments */
};

/* Applies an ACK of this message. polled: it answers the last POLL about it. */
struct ts_ack_outcome ts_tx_ack(struct ts_tx *tx, const struct ts_frame *ack, bool polled, uint32_t now_us);

/* Declares lost what must be by now; sets tx->loss_at for the rest. */
void ts_tx_detect(struct ts_tx *tx, const struct ts_rtt *rtt, uint32_t reorder, uint32_t now_us);

enum ts_rx_state { TS_RX_FREE = 0, TS_RX_PARTIAL, TS_RX_HELD };

/* A message on its way in. */
struct ts_rx {
    uint8_t *buffer;     /* the caller's */
    uint32_t id;         /* 0: of a session that is over */
    uint32_t total;      /* fragments, 0: not known */
    uint32_t base;       /* all below it are here */
    uint32_t top;        /* highest one here, +1 */
    uint32_t bytes;      /* envelope and body received so far */
    struct ts_bits have; /* bit i: fragment base + i */
    struct ts_envelope env;
    uint32_t first_at, last_at;
    uint8_t state;
    bool waiting; /* HELD and not yet taken by the node */
};

enum ts_rx_verdict { TS_RX_DROP, TS_RX_DUP, TS_RX_STORED, TS_RX_GAP, TS_RX_COMPLETE, TS_RX_REJECT };

void ts_rx_begin(struct ts_rx *rx, uint32_t id, uint32_t now_us);

/* What a session lays down for the messages it receives. */
struct ts_rx_rules {
    const struct ts_crc *crc;
    uint32_t sid;
    uint32_t piece;       /* message bytes in a full fragment */
    uint32_t max_message; /* bytes of body the buffers hold */
    /* Judges a message kind once the envelope is known: TS_OK or the code to reject with. */
    int (*allowed)(const void *ctx, uint8_t kind);
    const void *ctx;
};

/* Takes a DATA frame of this message. On TS_RX_REJECT *code says why. */
enum ts_rx_verdict ts_rx_data(struct ts_rx *rx, const struct ts_rx_rules *rules, const struct ts_frame *data,
                              int *code);

/* Fills base and bitmap of an ACK; bitmap has TS_ACK_BITMAP_BYTES. */
void ts_rx_ack(const struct ts_rx *rx, struct ts_frame *ack, uint8_t *bitmap);

#ifdef __cplusplus
}
#endif

#endif
