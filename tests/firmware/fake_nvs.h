/* NVS in memory, with its rules: names of 15 characters at most, types that must agree, nothing kept without a
 * commit. */
#ifndef FAKE_NVS_H
#define FAKE_NVS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvs.h"

/* An empty NVS. */
void fake_nvs_clear(void);

/* What a restart does: what was not committed is gone. */
void fake_nvs_restart(void);

/* The next calls fail: of nvs_flash_init; of writes after so many (-1: never). */
extern esp_err_t fake_nvs_init_error;
extern int fake_nvs_writes_left;

extern int fake_nvs_erased;  /* times the whole partition was */
extern int fake_nvs_written; /* entries written since the last clear */
extern int fake_nvs_open;    /* handles */

/* Keeps committed contents in this much memory, which may be a file's: what is there is read. At least 16 KiB. */
void fake_nvs_keep(void *memory, size_t bytes);

#endif
