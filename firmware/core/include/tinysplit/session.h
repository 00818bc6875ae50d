/* Sessions: who the peer is, whether it is there, and messages to and from it,
 * SPEC.md sections 2 to 4 and 7.
 *
 * An endpoint does no I/O and reads no clock. Its owner gives it datagrams and
 * the time, it calls back to send and to report. Everything it knows lies in the
 * structs below, which the owner allocates; nothing is freed.
 *
 * Not reentrant and not thread-safe: one thread (or a lock) per endpoint. From
 * within a callback only ts_send, ts_release, ts_cancel and the pure functions
 * may be called. */
#ifndef TINYSPLIT_SESSION_H
#define TINYSPLIT_SESSION_H

#include "tinysplit/transfer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a link can do. Zero means the default where one is named. */
struct ts_link {
    uint16_t mtu;    /* longest frame, bytes: TS_MIN_MTU..TS_MAX_MTU */
    uint16_t window; /* fragments in flight; default 32, at most TS_WINDOW */
    uint8_t reorder; /* transmissions by which frames overtake each other: 1 on links that keep order; default 3 */
    uint32_t rto_initial_us;   /* before the first round trip was measured; default 250,000 */
    uint32_t rto_min_us;       /* default 5,000; 1,000,000 for streams that lose nothing */
    uint32_t pace_ns_per_byte; /* slowest pace the link needs between frames; 0: none */
    uint32_t pace_burst_us;    /* how far ahead of that pace a burst may run */
};

enum ts_event_type {
    TS_EV_UP,     /* a session is up */
    TS_EV_DOWN,   /* a session ended, or an attempt to open one failed: code says why */
    TS_EV_SENT,   /* a message of ts_send is over: code TS_OK, delivered, or why not */
    TS_EV_MESSAGE /* a message arrived, exact; it stays until ts_release */
};

struct ts_event {
    enum ts_event_type type;
    uint16_t session;                          /* index into ts_config.sessions */
    uint16_t code;                             /* DOWN, SENT: enum ts_error or the peer's own */
    uint32_t detail;                           /* SENT with TS_E_TOO_LARGE: what the peer takes, bytes */
    uint32_t token;                            /* SENT: that of ts_send */
    uint32_t fragments_sent, fragments_resent; /* SENT: DATA frames, and how many of them were repeats */
    uint8_t slot;                              /* MESSAGE: for ts_release */
    uint8_t kind;                              /* MESSAGE: enum ts_message_kind */
    uint16_t ttl_ms;                           /* MESSAGE: time the sender will still wait; 0: not said */
    uint8_t *body;                             /* MESSAGE: in the endpoint's receive memory */
    uint32_t len;                              /* MESSAGE: bytes of body */
    uint32_t receive_us;                       /* MESSAGE: from its first fragment to completion */
};

struct ts_stats {
    uint32_t frames_in, frames_out;
    uint32_t data_out, data_resent;
    uint32_t dropped;    /* frames in that were malformed, damaged or of no session */
    uint32_t duplicates; /* fragments in that were here already */
    uint32_t blocked;    /* sends put off because the link was full */
    uint32_t send_errors;
    uint32_t bytes_out, bytes_in;
};

struct ts_session;

/* The world outside. Set up once, unchanged while the endpoint lives. */
struct ts_config {
    /* Passed back to every callback. */
    void *ctx;

    /* Checksums: ts_crc16_small and ts_crc32_small, the ROM's, or ts_crc_fast's. */
    struct ts_crc crc;

    /* Sends one frame. Returns TS_OK if the link took it, TS_E_WOULD_BLOCK if it is full
     * (the core tries again at the next poll), any other code if the frame is lost. Must
     * not call back into the core. The bytes are only valid during the call. */
    int (*send)(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len);

    /* Returns 32 random bits from a source that does not repeat after a restart. */
    uint32_t (*random)(void *ctx);

    /* Who this node is. bundle all zero: none. */
    uint8_t role;  /* enum ts_role */
    uint8_t stage; /* TS_NO_STAGE for hosts and bridges */
    uint8_t stage_count;
    uint16_t codecs; /* bit i: codec i is spoken; bit 0 is implied */
    uint8_t bundle[TS_BUNDLE_BYTES];

    /* Message kinds beside the inference's that the application takes. */
    bool accept_control, accept_blob, accept_private;

    /* Refuse every HELLO (`refused`): the self-test failed or there is no model. May change. */
    bool refuse;

    /* The links that addresses name. */
    const struct ts_link *links;
    uint8_t link_count;

    /* Sessions, any number; each takes one peer. Zeroed or not, ts_endpoint_init sets them up. */
    struct ts_session *sessions;
    uint16_t session_count;

    /* Receive memory, TS_RX_MEMORY(session_count, max_message) bytes, aligned to 16. A session
     * can receive TS_RX_SLOTS messages of up to max_message bytes at once. */
    uint8_t *rx_memory;
    size_t rx_memory_bytes;
    uint32_t max_message;

    /* Where a DATA frame is built: as long as the largest mtu of the links. */
    uint8_t *frame;
    size_t frame_bytes;

    /* Timers of SPEC.md section 10; 0 means the default there, the most is 30 minutes. */
    uint32_t idle_timeout_ms, connect_timeout_ms, retry_pause_ms, message_timeout_ms;
    uint32_t ack_delay_us; /* longest time from a frame's arrival at the radio to ts_on_datagram */
};

/* Room behind each receive buffer, so that a relay can add its phases in place. */
#define TS_RX_SLACK (TS_MAX_PHASES * TS_PHASE_BYTES)
#define TS_RX_STRIDE(max_message) ((((size_t)(max_message) + TS_RX_SLACK) + 15u) / 16u * 16u)
#define TS_RX_MEMORY(session_count, max_message) ((size_t)(session_count) * TS_RX_SLOTS * TS_RX_STRIDE(max_message))

enum ts_session_state { TS_S_DOWN = 0, TS_S_OPENING, TS_S_PENDING, TS_S_UP };

/* Offset of the peer's clock: peer time = own time + offset_us, give or take. */
struct ts_clock {
    int64_t offset_us;
    uint32_t uncertainty_us;
    bool known;
    uint32_t at;
};

struct ts_keys {
    uint32_t nonce_i, nonce_a, sid;
    uint16_t seed;
};

/* Owned by the caller, touched by the endpoint only. state, addr, peer, frame_size, rtt and clock
 * may be read. */
struct ts_session {
    uint8_t state; /* enum ts_session_state */
    bool initiator;
    bool keep; /* initiator: open again after the session ended */
    bool hello_repeated;
    uint8_t slots_told;
    uint16_t last_error;
    uint32_t hello_gap_us, hello_sent_at, connect_by;
    uint32_t queued;
    struct ts_addr addr;
    struct ts_keys keys;
    /* From here to rx all is zero when a session begins. */
    bool heard;     /* something valid came in this session */
    bool inference; /* bundle ids agree */
    bool ping_waiting;
    bool tell; /* messages were given up, and the peer has not confirmed that it knows */
    uint8_t codec, reorder, knocks, poll_seq;
    uint8_t owed; /* bit id mod 8: an ACK or REJECT that could not be sent */
    uint16_t frame_size, cwnd, ping_seq, poll_message;
    uint16_t outcome[TS_MAX_LIVE], fragments_of[TS_MAX_LIVE]; /* by id mod 8 */
    uint32_t idle_us, hello_at, heard_at, ping_at;
    uint32_t pace_at, retry_at, knock_at, poll_at;
    uint32_t next_id, limit;
    uint32_t highest, released, limit_told;
    struct ts_rtt rtt;
    uint64_t ping_t1;
    struct ts_clock clock;
    struct ts_hello peer;
    struct ts_rx rx[TS_RX_SLOTS];
    struct ts_tx tx[TS_TX_SLOTS];
    struct {
        struct ts_keys keys;
        struct ts_hello hello;
        uint32_t until; /* 0: none pending */
        uint8_t slots;
    } pending;
};

typedef void (*ts_event_fn)(void *ctx, const struct ts_event *event);

struct ts_endpoint {
    const struct ts_config *cfg;
    ts_event_fn on_event;
    void *event_ctx;
    uint32_t now; /* own time: never goes back, whatever the caller's clock does */
    uint64_t raw; /* the caller's clock at the last call */
    uint32_t reset_at;
    uint32_t wake; /* when the next poll is due */
    bool busy;     /* something was done in this round of a poll */
    struct ts_stats stats;
};

/* Sets up an endpoint at time now_us. Returns TS_OK, or TS_E_INVALID / TS_E_NO_MEMORY if the
 * config cannot work. */
int ts_endpoint_init(struct ts_endpoint *ep, const struct ts_config *cfg, ts_event_fn on_event, void *event_ctx,
                     uint64_t now_us);

/* Opens a session to a peer, and with `keep` again whenever it ends. Returns its index (>= 0),
 * or -TS_E_BUSY if all sessions are in use, -TS_E_INVALID. TS_EV_UP or TS_EV_DOWN follows. */
int ts_connect(struct ts_endpoint *ep, uint64_t now_us, const struct ts_addr *peer, bool keep);

/* Ends a session with BYE; its messages end with TS_E_CLOSED. */
void ts_close(struct ts_endpoint *ep, uint64_t now_us, uint16_t session);

/* The connection to a peer broke (SPEC.md 2.3): its sessions end at once with TS_E_SEND_FAILED, what its HELLO began is
 * forgotten. An initiator that keeps its session opens it again and keeps its messages, as after an idle timeout. For
 * links with connections; a peer without a session is no error. ts_poll follows. */
void ts_gone(struct ts_endpoint *ep, uint64_t now_us, const struct ts_addr *peer);

/* Takes a frame that came from a peer. Any bytes are safe. ts_poll then sends what it made possible. */
void ts_on_datagram(struct ts_endpoint *ep, uint64_t now_us, const struct ts_addr *from, const uint8_t *frame,
                    size_t len);

/* Does what is due and sends what can be sent; to be called after all other calls. Returns when to call again at the
 * latest, by the caller's clock, in microseconds; TS_NEVER if nothing is planned. */
uint64_t ts_poll(struct ts_endpoint *ep, uint64_t now_us);

/* Queues a message. body must stay unchanged until TS_EV_SENT with this token, which
 * comes at the latest timeout_ms from now (0: the default). Returns TS_OK, TS_E_NO_SLOT
 * if the session's queue is full, TS_E_INVALID. Initiators may queue before the session is up. */
int ts_send(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint8_t kind, const uint8_t *body, uint32_t len,
            uint32_t timeout_ms, uint32_t token);

/* Gives up the queued or travelling messages with this token; TS_EV_SENT reports TS_E_CANCELLED. */
void ts_cancel(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint32_t token);

/* Gives a message's buffer back, so that the peer may send the next. */
void ts_release(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint8_t slot);

#ifdef __cplusplus
}
#endif

#endif
