/* Checksums of SPEC.md section 1.1.
 *
 * The core calls them through struct ts_crc, so that a board can use its ROM's
 * and a host a fast one. */
#ifndef TINYSPLIT_CRC_H
#define TINYSPLIT_CRC_H

#include "tinysplit/types.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ts_crc {
    /* Passed back to both functions. */
    void *ctx;
    /* Continues CRC-16/IBM-3740: crc is 0xFFFF to begin, else the value returned before. */
    uint16_t (*crc16)(void *ctx, uint16_t crc, const uint8_t *data, size_t len);
    /* Continues CRC-32 as zlib's crc32 does: crc is 0 to begin, else the value returned before. */
    uint32_t (*crc32)(void *ctx, uint32_t crc, const uint8_t *data, size_t len);
};

#define TS_CRC16_INIT 0xFFFFu

/* Small: 16-entry tables, about 100 bytes of constants, no state (ctx unused). */
uint16_t ts_crc16_small(void *ctx, uint16_t crc, const uint8_t *data, size_t len);
uint32_t ts_crc32_small(void *ctx, uint32_t crc, const uint8_t *data, size_t len);

/* Fast: slicing by 8 (Kounavis and Berry 2005), 12 KB of tables that the caller
 * owns and ts_crc_fast_init fills once; ctx is the tables. */
struct ts_crc_fast {
    uint16_t crc16[8][256];
    uint32_t crc32[8][256];
};
void ts_crc_fast_init(struct ts_crc_fast *tables);
uint16_t ts_crc16_fast(void *tables, uint16_t crc, const uint8_t *data, size_t len);
uint32_t ts_crc32_fast(void *tables, uint32_t crc, const uint8_t *data, size_t len);

#ifdef __cplusplus
}
#endif

#endif
