/* Sizes, error codes and the peer address. Values are those of SPEC.md. */
#ifndef TINYSPLIT_TYPES_H
#define TINYSPLIT_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Compile-time sizes: state grows with them, the wire format does not. */
#ifndef TS_WINDOW
#define TS_WINDOW 64 /* fragments tracked per message; multiple of 32, at most 256 */
#endif
#ifndef TS_TX_SLOTS
#define TS_TX_SLOTS 2 /* messages queued or in flight per session, 1..8 */
#endif
#ifndef TS_RX_SLOTS
#define TS_RX_SLOTS 2 /* messages received at once per session, 1..8 */
#endif

#define TS_PROTOCOL_VERSION 1
#define TS_MIN_MTU 128
#define TS_MAX_MTU 16384
#define TS_DATA_OVERHEAD 8
#define TS_ENVELOPE 16
#define TS_MAX_LIVE 8
#define TS_MAX_FRAGMENT 65531u
#define TS_MAX_TENSORS 8
#define TS_MAX_PHASES 32
#define TS_PHASE_BYTES 6
#define TS_MAX_ERROR_TEXT 64
#define TS_BUNDLE_BYTES 32
#define TS_NO_STAGE 255

/* A time that never comes. */
#define TS_NEVER UINT64_MAX

/* Error codes, SPEC.md section 11. */
enum ts_error {
    TS_OK = 0,
    TS_E_NO_PEER = 1,
    TS_E_PEER_LOST = 2,
    TS_E_VERSION_OLDER = 3,
    TS_E_VERSION_NEWER = 4,
    TS_E_BUNDLE_MISMATCH = 5,
    TS_E_STAGE_MISMATCH = 6,
    TS_E_BUSY = 7,
    TS_E_CODEC_MISMATCH = 8,
    TS_E_MTU_TOO_SMALL = 9,
    TS_E_TOO_LARGE = 10,
    TS_E_DEADLINE = 11,
    TS_E_INTEGRITY = 12,
    TS_E_REPLACED = 13,
    TS_E_RESET = 14,
    TS_E_CLOSED = 15,
    TS_E_UNSUPPORTED = 16,
    TS_E_MALFORMED = 17,
    TS_E_NO_SLOT = 18,
    TS_E_INVOKE_FAILED = 19,
    TS_E_REFUSED = 20,
    TS_E_CANCELLED = 21,
    TS_E_SEND_FAILED = 22,
    TS_E_DUPLICATE = 23,
    TS_E_INVALID = 24,
    TS_E_WOULD_BLOCK = 25,
    TS_E_NO_MEMORY = 26,

    /* Images and slots, IMAGE.md section 9. */
    TS_E_IMAGE_MALFORMED = 100,
    TS_E_IMAGE_FORMAT = 101,
    TS_E_IMAGE_TOO_LARGE = 102,
    TS_E_IMAGE_UNSIGNED = 103,
    TS_E_IMAGE_NO_KEY = 104,
    TS_E_IMAGE_CHIP = 105,
    TS_E_IMAGE_FIRMWARE = 106,
    TS_E_IMAGE_STAGE = 107,
    TS_E_IMAGE_ARENA = 108,
    TS_E_IMAGE_VERSION = 109,
    TS_E_IMAGE_DIGEST = 110,
    TS_E_IMAGE_SIGNATURE = 111,
    TS_E_SLOT_BUSY = 112,
    TS_E_SLOT_ORDER = 113,
    TS_E_SLOT_NOT_READY = 114,
    TS_E_SLOT_EMPTY = 115,
    TS_E_SLOT_RESTARTS = 116,
    TS_E_FLASH_FAILED = 117,
    TS_E_SELF_TEST = 118
};

/* Name of a code as in SPEC.md and IMAGE.md; "unknown" for codes they do not list. */
const char *ts_error_name(unsigned code);

enum ts_role { TS_ROLE_HOST = 0, TS_ROLE_HEAD = 1, TS_ROLE_RELAY = 2, TS_ROLE_TAIL = 3, TS_ROLE_BRIDGE = 4 };

/* Message kinds, SPEC.md section 5. */
enum ts_message_kind { TS_TENSOR = 1, TS_RESULT = 2, TS_CONTROL = 3, TS_BLOB = 4, TS_ERROR = 5, TS_PRIVATE = 128 };

/* The core's own time: microseconds modulo 2^32. A point in time is compared by serial
 * arithmetic, so that no span may exceed 35 minutes; 0 stands for never. */
#define TS_MAX_SPAN_US 1800000000u

/* True if `at` is not never and not in the future. */
bool ts_due(uint32_t now, uint32_t at);

/* us after `at`; never 0. */
uint32_t ts_after(uint32_t at, uint32_t us);

/* The earlier of two points in time. */
uint32_t ts_sooner(uint32_t a, uint32_t b);

#define TS_ADDR_BYTES 18

/* A peer: which of the node's links, and the link's own address bytes (MAC,
 * IP and port, ...). The core only copies and compares it. */
struct ts_addr {
    uint8_t link;                 /* index into ts_config.links */
    uint8_t len;                  /* bytes in use */
    uint8_t bytes[TS_ADDR_BYTES]; /* unused ones are ignored */
};

/* Little-endian integers at any address. */
void ts_put16(uint8_t *p, uint32_t v);
void ts_put32(uint8_t *p, uint32_t v);
void ts_put64(uint8_t *p, uint64_t v);
uint16_t ts_get16(const uint8_t *p);
uint32_t ts_get32(const uint8_t *p);
uint64_t ts_get64(const uint8_t *p);

#ifdef __cplusplus
}
#endif

#endif
