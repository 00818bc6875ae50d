/* A board with two slots in the flash of flash.h, and updates sent to it. */
#ifndef UPDATES_H
#define UPDATES_H

#include "flash.h"
#include "images.h"

struct packed {
    uint8_t *bytes;
    uint32_t len;
    uint8_t digest[TS_IMAGE_DIGEST];
};

struct board {
    struct flash flash;
    struct ts_slots slots;
    struct ts_slots_config cfg;
    uint8_t buffer[TS_SECTOR];
    struct ts_image image;  /* what runs */
    uint32_t fails_version; /* this version's self-test fails; 0: none does */
    uint32_t self_tests;
};

/* Erased flash; takes images signed by `key`. */
void board_init(struct board *b, struct signer *key, uint64_t seed);

int board_boot(struct board *b);

/* Everything from begin to activate, in pieces of at most `piece` bytes. */
int board_update(struct board *b, const struct packed *p, uint32_t piece);

/* Whether exactly these bytes lie in the slot that runs. */
bool board_runs(struct board *b, const struct packed *p);

struct packed pack_draft(const struct draft *d, struct signer *s);

#endif
