/* What ESP-IDF and the chip do beside tasks and time: memory, log, restart, critical sections, CRCs of the ROM. */
#ifndef FAKE_CHIP_H
#define FAKE_CHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Set before the code under test runs. */
extern bool fake_psram;          /* false: requests for PSRAM fail */
extern size_t fake_memory_limit; /* of one block; larger ones cannot be had */

/* What esp_restart does; it must not return. NULL: abort. */
extern void (*fake_restart)(void);
extern int fake_reset_reason; /* esp_reset_reason_t */

/* The last line that went to esp_log_write while nobody had taken the log over. */
extern char fake_log[512];

#endif
