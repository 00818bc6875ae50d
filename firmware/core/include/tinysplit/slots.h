/* Two slots for images and the state that says which one runs, IMAGE.md sections 6 to 8.
 *
 * At start-up:
 *
 *     struct ts_image image;
 *     if (ts_slots_boot(&slots, &cfg, &image) == TS_OK) {
 *         run the image in slot slots.running, mapped
 *     }                                            // else slots.state.reason says why there is none
 *
 * An update, whatever link it comes by; each step survives a power cut and can be asked for again:
 *
 *     uint32_t offset;
 *     code = ts_slots_begin(&slots, header, digest, &offset);   // the sender goes on at offset
 *     code = ts_slots_write(&slots, offset, bytes, len);        // any pieces, in order
 *     code = ts_slots_finish(&slots);                           // verified, ready; the old one still runs
 *     code = ts_slots_activate(&slots, digest);                 // the next boot starts it on trial
 *
 * A boot on trial runs the self-test and confirms the image, or goes back to the one before. Not for several
 * threads at once. Nothing is allocated. */
#ifndef TINYSPLIT_SLOTS_H
#define TINYSPLIT_SLOTS_H

#include "tinysplit/image.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TS_SECTOR 4096
#define TS_PROGRAM_UNIT 16
#define TS_NO_SLOT 255u
#define TS_MAX_STARTS 3 /* of an image on trial */

enum ts_area { TS_AREA_SLOT0 = 0, TS_AREA_SLOT1 = 1, TS_AREA_STATE = 2 };

enum ts_slot_state {
    TS_SLOT_EMPTY = 0,
    TS_SLOT_RECEIVING,
    TS_SLOT_READY,
    TS_SLOT_TRIAL,
    TS_SLOT_CONFIRMED,
    TS_SLOT_REFUSED
};

/* What the state record says of a slot. */
struct ts_slot {
    uint8_t state; /* enum ts_slot_state */
    uint32_t bytes, version;
    uint8_t digest[TS_IMAGE_DIGEST];
};

/* The state record. */
struct ts_slots_state {
    uint32_t sequence;
    uint32_t floor;         /* version of the image confirmed last */
    uint8_t active;         /* slot, or TS_NO_SLOT */
    uint16_t reason;        /* why the last image was refused or rolled back; 0: none was */
    uint32_t reason_detail; /* what the self-test said */
    uint32_t reason_version;
    struct ts_slot slot[2];
};

struct ts_slots_config {
    /* Passed back to the callbacks below. */
    void *ctx;

    /* Reads len bytes at offset of an area. Returns false if the flash failed. */
    bool (*read)(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out, uint32_t len);

    /* Programs len bytes, a multiple of TS_PROGRAM_UNIT at a multiple of it, within a sector that was erased there.
     * Returns when the flash has them, false if it failed. */
    bool (*program)(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data, uint32_t len);

    /* Erases the sector at offset, a multiple of TS_SECTOR, to all ones. Returns when it is done, false if it failed.
     */
    bool (*erase)(void *ctx, enum ts_area area, uint32_t offset);

    /* Runs the image in `slot` on its self-test's input and compares the bytes. Returns TS_OK, or why not
     * (TS_E_SELF_TEST, TS_E_INVOKE_FAILED, ...), which is kept; *detail is kept with it (the operator's number).
     * Called by ts_slots_boot for images on trial only. */
    int (*self_test)(void *ctx, unsigned slot, const struct ts_image *image, uint32_t *detail);

    /* Working memory of TS_SECTOR bytes, used by every function here; between ts_slots_begin and ts_slots_finish it
     * holds the bytes not yet in flash. */
    uint8_t *buffer;

    /* What is taken. rules.max_bytes is the size of each slot, a multiple of TS_SECTOR. */
    struct ts_image_rules rules;
};

/* The caller owns it; read it freely. */
struct ts_slots {
    const struct ts_slots_config *cfg;
    struct ts_slots_state state;
    uint32_t written;  /* bytes of the image being received taken so far */
    uint16_t marks;    /* in the record's sector */
    uint8_t sector;    /* of the state area that holds the record */
    uint8_t running;   /* slot, or TS_NO_SLOT */
    uint8_t receiving; /* slot, or TS_NO_SLOT */
};

/* Reads the state, picks the image to run, verifies it, tries it if it is on trial, and rolls back if it must. Returns
 * TS_OK with slots->running and *image; TS_E_SLOT_EMPTY if nothing can run (updates can still be received);
 * TS_E_FLASH_FAILED; TS_E_INVALID for a configuration that cannot work. */
int ts_slots_boot(struct ts_slots *slots, const struct ts_slots_config *cfg, struct ts_image *image);

/* Begins or resumes the update to the image with this header (TS_IMAGE_HEADER bytes) and digest. TS_OK: *offset is
 * where the sender goes on; the image's bytes if it is there already. Otherwise nothing has changed: TS_E_DUPLICATE if
 * it is the one running, TS_E_SLOT_BUSY, TS_E_FLASH_FAILED, or why the image is refused. */
int ts_slots_begin(struct ts_slots *slots, const uint8_t header[TS_IMAGE_HEADER], const uint8_t digest[TS_IMAGE_DIGEST],
                   uint32_t *offset);

/* Takes the image's bytes from offset on. What was taken before is skipped. Returns TS_OK; TS_E_SLOT_ORDER if bytes
 * between are missing, too many, or no update was begun; TS_E_FLASH_FAILED: begin again. */
int ts_slots_write(struct ts_slots *slots, uint32_t offset, const uint8_t *data, uint32_t len);

/* All bytes are there: verifies the image as it lies in flash. TS_OK: it is ready. TS_E_SLOT_ORDER: bytes are missing.
 * Otherwise it is refused for good, and the state says why. */
int ts_slots_finish(struct ts_slots *slots, struct ts_image *image);

/* Verifies the image that waits, again. TS_OK, TS_E_SLOT_NOT_READY, or what is wrong with it. */
int ts_slots_check(struct ts_slots *slots, const uint8_t digest[TS_IMAGE_DIGEST]);

/* Makes the image that waits the one the next boot starts, on trial. As ts_slots_check; TS_OK also if it was activated
 * before. */
int ts_slots_activate(struct ts_slots *slots, const uint8_t digest[TS_IMAGE_DIGEST]);

/* Drops what is being received or waits. */
int ts_slots_abort(struct ts_slots *slots);

#ifdef __cplusplus
}
#endif

#endif
