"""Compiles firmware/core and the socket port of virtual boards into `_board`, by cffi.

Run by setup.py when tinysplit is installed. The declarations are those of board.h and bridge.h
that Python uses.
"""

from pathlib import Path

from cffi import FFI

_ROOT = Path(__file__).parents[3]
_HERE = "host/boards/virtual"

ffibuilder = FFI()
ffibuilder.cdef(
    """
    #define TS_MAX_TENSORS 8
    struct ts_stats {
        uint32_t frames_in, frames_out;
        uint32_t data_out, data_resent;
        uint32_t dropped, duplicates, blocked, send_errors;
        uint32_t bytes_out, bytes_in;
    };
    const char *ts_error_name(unsigned code);

    struct ts_near { uint16_t left, above; };
    struct vb_config {
        uint8_t transport, role, stage, stage_count;
        uint8_t bundle[32];
        int refuse;
        const char *listen_host;
        uint16_t listen_port;
        const char *next_host;
        uint16_t next_port;
        int packet_fd;
        uint8_t next_addr[18];
        uint8_t next_addr_len;
        uint16_t mtu, window;
        uint8_t reorder;
        uint32_t rto_initial_us, rto_min_us, pace_ns_per_byte, pace_burst_us;
        uint16_t peers, jobs;
        uint32_t max_message, max_output, max_input;
        int offer_codec;
        struct ts_near near[8];
        uint32_t idle_timeout_ms, connect_timeout_ms, message_timeout_ms;
        int (*invoke)(void *ctx, const uint8_t *input, const uint32_t *bytes, uint8_t count,
                      uint8_t *output, uint32_t output_cap, uint32_t *out_bytes,
                      uint8_t *out_count, uint32_t *invoke_us, uint32_t *encode_us);
        void *ctx;
    };
    struct vb_phase { uint8_t stage, phase; uint32_t duration_us; };
    struct vb_result {
        uint32_t inference;
        uint16_t code;
        uint8_t stage, count;
        uint32_t bytes[8];
        uint32_t fragments_sent, fragments_resent;
        uint32_t total_us;
        uint8_t phase_count;
        struct vb_phase phases[40];
        char text[65];
    };
    struct vb_message { uint16_t session; uint8_t kind; uint32_t sid, len; };
    struct vb_stamp { uint32_t inference; uint64_t at_us; };
    struct vb_status {
        struct ts_stats link;
        uint16_t port;
        uint8_t sessions_up, downstream_up;
        uint16_t downstream_error, frame_size;
        uint8_t codec;
        uint32_t raw_bytes, coded_bytes;
        uint32_t srtt_us;
        int64_t clock_offset_us;
        uint32_t clock_uncertainty_us, clock_age_us;
        struct vb_stamp complete, handed;
    };
    typedef struct vb vb;
    vb *vb_new(const struct vb_config *config, int *error);
    void vb_free(vb *board);
    int vb_step(vb *board, int64_t timeout_us, int extra_fd);
    int vb_infer(vb *board, uint32_t inference, const uint8_t *input, const uint32_t *bytes,
                 uint8_t count, uint32_t timeout_ms);
    uint32_t vb_abort(vb *board);
    int vb_take_result(vb *board, struct vb_result *result, uint8_t *tensors, size_t cap);
    int vb_take_message(vb *board, struct vb_message *message, uint8_t *body, size_t cap);
    int vb_send_control(vb *board, uint16_t session, uint32_t sid, const uint8_t *text,
                        size_t len);
    uint32_t vb_answers(const vb *board);
    void vb_get_status(vb *board, struct vb_status *status);

    struct ts_part { uint32_t at, bytes; };
    struct ts_image {
        uint32_t bytes, version, downgrade_from, firmware, arena_bytes;
        uint16_t chip;
        uint8_t kind, flags, stage, stage_count;
        struct ts_part manifest, model, input, output;
        uint8_t digest[32];
        ...;
    };
    struct ts_crypto {
        void *ctx;
        bool (*sha256_start)(void *ctx);
        bool (*sha256_update)(void *ctx, const uint8_t *data, size_t len);
        bool (*sha256_finish)(void *ctx, uint8_t *digest);
        bool (*verify)(void *ctx, const uint8_t *digest, const uint8_t *signature);
    };
    struct ts_crc {
        void *ctx;
        uint16_t (*crc16)(void *ctx, uint16_t crc, const uint8_t *data, size_t len);
        uint32_t (*crc32)(void *ctx, uint32_t crc, const uint8_t *data, size_t len);
    };
    uint16_t ts_crc16_small(void *ctx, uint16_t crc, const uint8_t *data, size_t len);
    uint32_t ts_crc32_small(void *ctx, uint32_t crc, const uint8_t *data, size_t len);
    struct ts_image_rules {
        struct ts_crypto crypto;
        struct ts_crc crc;
        uint32_t max_bytes, max_arena, firmware;
        uint16_t chip;
        uint8_t stage;
        bool allow_unsigned;
    };
    enum ts_area { TS_AREA_SLOT0, TS_AREA_SLOT1, TS_AREA_STATE };
    struct ts_slot { uint8_t state; uint32_t bytes, version; uint8_t digest[32]; };
    struct ts_slots_state {
        uint32_t sequence, floor;
        uint8_t active;
        uint16_t reason;
        uint32_t reason_detail, reason_version;
        struct ts_slot slot[2];
    };
    struct ts_slots_config {
        void *ctx;
        bool (*read)(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out, uint32_t len);
        bool (*program)(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data,
                        uint32_t len);
        bool (*erase)(void *ctx, enum ts_area area, uint32_t offset);
        int (*self_test)(void *ctx, unsigned slot, const struct ts_image *image, uint32_t *detail);
        uint8_t *buffer;
        struct ts_image_rules rules;
    };
    struct ts_slots {
        struct ts_slots_state state;
        uint32_t written;
        uint8_t running, receiving;
        ...;
    };
    int ts_slots_boot(struct ts_slots *slots, const struct ts_slots_config *cfg,
                      struct ts_image *image);
    int ts_slots_begin(struct ts_slots *slots, const uint8_t *header, const uint8_t *digest,
                       uint32_t *offset);
    int ts_slots_write(struct ts_slots *slots, uint32_t offset, const uint8_t *data, uint32_t len);
    int ts_slots_finish(struct ts_slots *slots, struct ts_image *image);
    int ts_slots_check(struct ts_slots *slots, const uint8_t *digest);
    int ts_slots_activate(struct ts_slots *slots, const uint8_t *digest);
    int ts_slots_abort(struct ts_slots *slots);

    extern "Python" bool slot_sha_start(void *ctx);
    extern "Python" bool slot_sha_update(void *ctx, const uint8_t *data, size_t len);
    extern "Python" bool slot_sha_finish(void *ctx, uint8_t *digest);
    extern "Python" bool slot_verify(void *ctx, const uint8_t *digest, const uint8_t *signature);
    extern "Python" bool slot_read(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out,
                                   uint32_t len);
    extern "Python" bool slot_program(void *ctx, enum ts_area area, uint32_t offset,
                                      const uint8_t *data, uint32_t len);
    extern "Python" bool slot_erase(void *ctx, enum ts_area area, uint32_t offset);
    extern "Python" int slot_self_test(void *ctx, unsigned slot, const struct ts_image *image,
                                       uint32_t *detail);
    struct vbridge_config { int packet_fd, wire_fd; uint16_t radio_mtu; uint8_t slots; };
    typedef struct vbridge vbridge;
    vbridge *vbridge_new(const struct vbridge_config *config);
    void vbridge_free(vbridge *bridge);
    int vbridge_step(vbridge *bridge, int64_t timeout_us);
    size_t vbridge_take_text(vbridge *bridge, uint8_t *text, size_t cap);
    void vbridge_say(vbridge *bridge, const uint8_t *line, size_t len);
    void vbridge_get_stats(vbridge *bridge, struct ts_stats *stats);

    extern "Python" int invoke_stage(void *ctx, const uint8_t *input, const uint32_t *bytes,
                                     uint8_t count, uint8_t *output, uint32_t output_cap,
                                     uint32_t *out_bytes, uint8_t *out_count,
                                     uint32_t *invoke_us, uint32_t *encode_us);
    """
)
ffibuilder.set_source(
    "host.boards.virtual._board",
    '#include "board.h"\n#include "bridge.h"\n#include "tinysplit/slots.h"',
    sources=[
        f"{_HERE}/board.c",
        f"{_HERE}/bridge.c",
        f"{_HERE}/machine.c",
        *sorted(str(p.relative_to(_ROOT)) for p in (_ROOT / "firmware/core/src").glob("*.c")),
    ],
    include_dirs=["firmware/core/include", "firmware/core/src", _HERE],
    extra_compile_args=["-std=c11", "-O2"],
)
