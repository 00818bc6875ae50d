#include "flash.h"

#undef NDEBUG
#include <assert.h>
#include <string.h>

void flash_init(struct flash *f, uint64_t seed) {
    memset(f, 0, sizeof *f);
    memset(f->bytes, 0xFF, sizeof f->bytes);
    f->random = seed;
}

/* splitmix64 (Steele, Lea and Flood 2014). */
uint64_t flash_random(struct flash *f) {
    uint64_t z = f->random += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint32_t flash_base(enum ts_area area) {
    return (uint32_t)area * FLASH_SLOT;
}

static uint8_t *place(struct flash *f, enum ts_area area, uint32_t offset, uint32_t len) {
    uint32_t size = area == TS_AREA_STATE ? 2 * TS_SECTOR : FLASH_SLOT;
    assert(area <= TS_AREA_STATE && offset <= size && len <= size - offset);
    return f->bytes + flash_base(area) + offset;
}

bool flash_read(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out, uint32_t len) {
    struct flash *f = ctx;
    const uint8_t *from = place(f, area, offset, len);
    memcpy(out, from, len);
    for (uint32_t i = 0; f->any_unstable && i < len; i++) {
        uint8_t loose = f->unstable[from - f->bytes + i];
        if (loose != 0) {
            out[i] = (uint8_t)((out[i] & ~loose) | (flash_random(f) & loose));
        }
    }
    return true;
}

/* Leaves `len` bytes at `at` in part as in `after`. */
static void tear(struct flash *f, uint8_t *at, const uint8_t *after, uint32_t len) {
    for (uint32_t i = 0; i < len; i++) {
        uint8_t changed = at[i] ^ after[i];
        switch (f->tear) {
        case TEAR_WHOLE:
            at[i] = after[i];
            break;
        case TEAR_PART:
            at[i] = i < len / 2 ? after[i] : at[i];
            break;
        case TEAR_RANDOM:
            at[i] = (uint8_t)(at[i] ^ (changed & flash_random(f)));
            break;
        case TEAR_UNSTABLE:
            f->unstable[at - f->bytes + i] |= changed;
            f->any_unstable = true;
            break;
        default:
            break;
        }
    }
}

/* Counts a step; true if the power goes in it. */
static bool cut(struct flash *f) {
    f->steps++;
    return f->steps == f->cut_at;
}

static bool fails(struct flash *f) {
    f->operations++;
    return f->operations == f->fail_at;
}

bool flash_program(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data, uint32_t len) {
    struct flash *f = ctx;
    uint8_t *at = place(f, area, offset, len);
    assert(offset % TS_PROGRAM_UNIT == 0 && len % TS_PROGRAM_UNIT == 0 && len > 0);
    assert(offset / TS_SECTOR == (offset + len - 1) / TS_SECTOR);
    if (fails(f)) {
        return false;
    }
    for (uint32_t done = 0; done < len; done += TS_PROGRAM_UNIT) {
        uint32_t unit = (uint32_t)(at + done - f->bytes) / TS_PROGRAM_UNIT;
        uint8_t after[TS_PROGRAM_UNIT];
        assert(!f->programmed[unit]);
        for (uint32_t i = 0; i < TS_PROGRAM_UNIT; i++) {
            after[i] = at[done + i] & data[done + i];
        }
        if (cut(f)) {
            tear(f, at + done, after, TS_PROGRAM_UNIT);
            longjmp(f->power, 1);
        }
        memcpy(at + done, after, TS_PROGRAM_UNIT);
        f->programmed[unit] = true;
    }
    return true;
}

bool flash_erase(void *ctx, enum ts_area area, uint32_t offset) {
    struct flash *f = ctx;
    uint8_t *at = place(f, area, offset, TS_SECTOR);
    uint8_t after[TS_SECTOR];
    assert(offset % TS_SECTOR == 0);
    if (fails(f)) {
        return false;
    }
    memset(after, 0xFF, sizeof after);
    f->erases++;
    memset(f->programmed + (at - f->bytes) / TS_PROGRAM_UNIT, 0, TS_SECTOR / TS_PROGRAM_UNIT * sizeof f->programmed[0]);
    if (cut(f)) {
        tear(f, at, after, TS_SECTOR);
        longjmp(f->power, 1);
    }
    memcpy(at, after, TS_SECTOR);
    memset(f->unstable + (at - f->bytes), 0, TS_SECTOR);
    return true;
}
