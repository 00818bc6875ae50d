/* Flash behind esp_partition and esp_ota: bits go from 1 to 0 only, sectors are erased whole, power may fail between
 * any two operations. */
#ifndef FAKE_FLASH_H
#define FAKE_FLASH_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_SLOT_BYTES (256u * 1024)
#define FAKE_STATE_BYTES 8192u
#define FAKE_APP_BYTES (128u * 1024)
#define FAKE_FLASH_BYTES (2 * FAKE_SLOT_BYTES + FAKE_STATE_BYTES + 2 * FAKE_APP_BYTES + 64)

/* Puts it into this memory, FAKE_FLASH_BYTES, which may be a file's. */
void fake_flash_at(uint8_t *memory);

/* As it comes from the factory: all ones; application 0 runs. */
void fake_flash_clear(void);

/* A restart: what was under way in esp_ota is over, and the boot loader chooses. An application on trial that was not
 * marked valid is rolled back. */
void fake_flash_restart(void);

/* Writes an image into a model slot, as esptool does. */
void fake_flash_image(unsigned slot, const uint8_t *bytes, size_t len);

uint8_t *fake_flash_slot(unsigned slot);
uint8_t *fake_flash_app(unsigned app);

/* The next so many writes and erasures happen, the one after jumps to `where` in its middle; -1: never. */
extern int fake_flash_cut_after;
extern jmp_buf *fake_flash_cut_to;
extern int fake_flash_operations; /* since the last clear */

/* The next calls fail: */
extern bool fake_flash_absent; /* the partition table has no model slots */
extern bool fake_flash_no_map;

struct fake_ota {
    unsigned running, boots; /* application; after the next restart */
    bool on_trial, is_valid; /* the running one: not yet marked valid; was marked */
    int begins, ends, aborts;
    uint32_t written;
};
extern struct fake_ota fake_ota;

#endif
