/* A board on a PC: the link library of firmware/core between real sockets, real time and an
 * engine that the owner provides. One thread per board; no call blocks longer than it is told to. */
#ifndef TINYSPLIT_VIRTUAL_BOARD_H
#define TINYSPLIT_VIRTUAL_BOARD_H

#include <stddef.h>
#include <stdint.h>

#include "tinysplit/tinysplit.h"

enum vb_transport { VB_UDP = 0, VB_TCP = 1, VB_PACKET = 2 };

struct vb_config {
    uint8_t transport; /* enum vb_transport */
    uint8_t role;      /* enum ts_role */
    uint8_t stage, stage_count;
    uint8_t bundle[TS_BUNDLE_BYTES];
    int refuse; /* not 0: answer every HELLO with `refused` */

    const char *listen_host; /* numeric IPv4 or IPv6 address; NULL: do not listen (heads on TCP) */
    uint16_t listen_port;    /* 0: any */
    const char *next_host;   /* NULL: no stage after this one */
    uint16_t next_port;

    /* VB_PACKET: one end of an AF_UNIX SOCK_SEQPACKET pair, non-blocking, whose other end is a radio; it
     * stays the caller's. A packet is u8 n, n bytes of the radio's address (1..TS_ADDR_BYTES: to whom or from
     * whom), the frame. A radio that is full does not read, and the core waits. */
    int packet_fd;
    uint8_t next_addr[TS_ADDR_BYTES];
    uint8_t next_addr_len; /* 0: no stage after this one */

    /* What the core must know of the link: see struct ts_link. 0: the transport's or the core's default;
     * VB_PACKET has no default mtu. */
    uint16_t mtu;
    uint16_t window;
    uint8_t reorder;
    uint32_t rto_initial_us, rto_min_us, pace_ns_per_byte, pace_burst_us;

    uint16_t peers;                                                   /* sessions at once, fewer than 64 */
    uint16_t jobs;                                                    /* inferences at once */
    uint32_t max_message;                                             /* longest message received, bytes */
    uint32_t max_output;                                              /* longest output of the stage, bytes */
    uint32_t max_input;                                               /* longest input, bytes; for codec 1 */
    int offer_codec;                                                  /* not 0: speak codec 1 */
    struct ts_near near[TS_MAX_TENSORS];                              /* of the tensors sent; for codec 1 */
    uint32_t idle_timeout_ms, connect_timeout_ms, message_timeout_ms; /* 0: the core's defaults */

    /* Runs the stage: inputs lie one behind the other (count lengths), outputs are to be written the
     * same way. Fills in lengths, *out_count and the times; returns TS_OK or an error code. */
    int (*invoke)(void *ctx, const uint8_t *input, const uint32_t *bytes, uint8_t count, uint8_t *output,
                  uint32_t output_cap, uint32_t *out_bytes, uint8_t *out_count, uint32_t *invoke_us,
                  uint32_t *encode_us);
    void *ctx;
};

struct vb_phase {
    uint8_t stage, phase;
    uint32_t duration_us;
};

/* The end of one inference of vb_infer. */
struct vb_result {
    uint32_t inference;
    uint16_t code;
    uint8_t stage; /* where it failed, or that made the tensors */
    uint8_t count; /* tensors */
    uint32_t bytes[TS_MAX_TENSORS];
    uint32_t fragments_sent, fragments_resent;
    uint32_t total_us;
    uint8_t phase_count;
    struct vb_phase phases[TS_MAX_PHASES + TS_PHASES];
    char text[TS_MAX_ERROR_TEXT + 1];
};

/* A CONTROL or BLOB message; `session` and `sid` name the session it came in. */
struct vb_message {
    uint16_t session;
    uint8_t kind; /* enum ts_message_kind */
    uint32_t sid;
    uint32_t len;
};

/* When something happened to an inference, by this board's clock; 0: not known. */
struct vb_stamp {
    uint32_t inference;
    uint64_t at_us;
};

struct vb_status {
    struct ts_stats link;
    uint16_t port; /* bound */
    uint8_t sessions_up;
    uint8_t downstream_up;     /* 1: the session to the next stage is up */
    uint16_t downstream_error; /* why the last one ended or failed */
    uint16_t frame_size;       /* agreed with the next stage, 0: not up */
    uint8_t codec;             /* likewise */
    uint32_t raw_bytes;        /* of boundaries that were coded, modulo 2^32 */
    uint32_t coded_bytes;      /* what became of them */
    uint32_t srtt_us;          /* to the next stage, 0: not known */
    int64_t clock_offset_us;
    uint32_t clock_uncertainty_us; /* 0: not known */
    uint32_t clock_age_us;         /* since it was last estimated */
    struct vb_stamp complete;      /* the last boundary that arrived */
    struct vb_stamp handed;        /* the boundary of the last inference that went well, handed to the link */
};

typedef struct vb vb;

/* Opens sockets. Returns NULL and an errno value in *error (0: the core refused the config, or
 * there is no memory). */
vb *vb_new(const struct vb_config *config, int *error);
void vb_free(vb *board);

/* Serves sockets and timers for at most timeout_us. Returns as soon as extra_fd (if not -1) can
 * be read, or a result or a message waits: bit 0 extra_fd, bit 1 result, bit 2 message. -1: the poll call failed. */
int vb_step(vb *board, int64_t timeout_us, int extra_fd);

/* Starts an inference on local input, which is copied. Returns TS_OK or an error code. */
int vb_infer(vb *board, uint32_t inference, const uint8_t *input, const uint32_t *bytes, uint8_t count,
             uint32_t timeout_ms);

/* Cancels every inference of vb_infer that is under way; each gives a result, TS_E_CANCELLED, and its
 * place is free at once. Returns how many. */
uint32_t vb_abort(vb *board);

/* Takes the oldest result: fills in *result, copies its tensors. 0: none.
 * Tensors of more than cap bytes are not copied: the result is TS_E_MALFORMED then. */
int vb_take_result(vb *board, struct vb_result *result, uint8_t *tensors, size_t cap);

/* Takes the oldest message whose session still stands: fills in *message, copies its body of at most cap bytes (none is
 * longer than max_message). 0: none, also while the answers to VB_ANSWERS earlier ones have not been delivered. */
int vb_take_message(vb *board, struct vb_message *message, uint8_t *body, size_t cap);

/* Answers in the session that a message came in. The text is copied. Returns TS_OK, TS_E_RESET if the session is over,
 * TS_E_NO_MEMORY. */
int vb_send_control(vb *board, uint16_t session, uint32_t sid, const uint8_t *text, size_t len);

/* How many of these answers are not delivered yet. */
uint32_t vb_answers(const vb *board);

void vb_get_status(vb *board, struct vb_status *status);

#endif
