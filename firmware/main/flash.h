/* The slots' port: partitions behind ts_slots, mbedTLS behind its checks, the running image mapped. */
#ifndef FLASH_H
#define FLASH_H

#include "tinysplit/slots.h"

#ifdef __cplusplus
extern "C" {
#endif

struct flash_stage {
    struct ts_image image;
    const uint8_t *base; /* mapped */
};

/* Finds the image to run, opens it in the engine and tests it: on the engine task, once. What is wrong is in
 * flash_problem. */
void flash_boot(void);

/* The stage that runs; NULL if there is none. */
const struct flash_stage *flash_stage(void);

/* Why there is no stage, or the last one was refused; empty: nothing is wrong. */
const char *flash_problem(void);

/* The slots can be used, and the stage in them, if there is one, passed its self-test. */
bool flash_works(void);

/* For updates (update.c), which see to it that only one task uses them. NULL: the slots cannot be used. */
struct ts_slots *flash_slots(void);
const struct ts_image_rules *flash_rules(void);

/* The public key images are signed with, as 65 bytes (04, X, Y); false: none is set. */
bool flash_public_key(uint8_t key[65]);

/* Writes it as 130 hexadecimal digits; empty: none. An esp_err_t. */
int flash_set_public_key(const char *hex);

#ifdef __cplusplus
}
#endif

#endif
