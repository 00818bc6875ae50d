/* NOR flash in memory: erased to ones, programmed to zeros, and cut off in the middle of either.
 *
 * Time is counted in steps: each unit programmed and each sector erased is one. A cut at step n leaves that step done
 * in part, as its pattern says, and leaves the board by longjmp, as a power cut leaves it. */
#ifndef FLASH_H
#define FLASH_H

#include <setjmp.h>

#include "tinysplit/slots.h"

#ifndef FLASH_SLOT_SECTORS
#define FLASH_SLOT_SECTORS 8u
#endif
#define FLASH_SLOT (FLASH_SLOT_SECTORS * TS_SECTOR)
#define FLASH_BYTES (2 * FLASH_SLOT + 2 * TS_SECTOR)
#define FLASH_UNITS (FLASH_BYTES / TS_PROGRAM_UNIT)

/* What a step that was cut leaves behind. */
enum flash_tear {
    TEAR_NOTHING,  /* as before it */
    TEAR_WHOLE,    /* as after it, but nobody was told */
    TEAR_PART,     /* the first half as after it */
    TEAR_RANDOM,   /* each bit as before or after it, at random */
    TEAR_UNSTABLE, /* the bits that were to change read at random, each time, until the sector is erased */
    TEARS
};

struct flash {
    uint8_t bytes[FLASH_BYTES]; /* slot 0, slot 1, state */
    uint8_t unstable[FLASH_BYTES];
    bool programmed[FLASH_UNITS]; /* since it was erased, without a cut */
    uint64_t random;
    uint32_t steps, operations;
    uint32_t cut_at; /* the step to be cut, from 1; 0: none */
    enum flash_tear tear;
    jmp_buf power;
    uint32_t fail_at; /* the operation that reports a failure, from 1; 0: none */
    uint32_t erases;
    bool any_unstable;
};

void flash_init(struct flash *f, uint64_t seed);
uint32_t flash_base(enum ts_area area);
uint64_t flash_random(struct flash *f);

bool flash_read(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out, uint32_t len);
bool flash_program(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data, uint32_t len);
bool flash_erase(void *ctx, enum ts_area area, uint32_t offset);

#endif
