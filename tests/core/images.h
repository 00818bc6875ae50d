/* Images to test with, signed, and the board's side of cryptography by OpenSSL. */
#ifndef IMAGES_H
#define IMAGES_H

#include "tinysplit/image.h"

struct signer; /* a key pair */

struct signer *signer_new(void);
void signer_free(struct signer *s);

/* What a board has that holds the key's public half. NULL: a board without a key. */
struct ts_crypto signer_crypto(struct signer *s);

/* A board's crypto with this public key, an uncompressed point. */
struct signer *signer_public(const uint8_t point[65]);

/* A header's fields, and parts; sensible ones are those of image_draft. */
struct draft {
    uint8_t kind, flags;
    uint32_t version, downgrade_from, firmware;
    uint16_t chip;
    uint8_t stage, stage_count;
    uint32_t arena_bytes;
    uint8_t manifest[TS_IMAGE_MANIFEST];
    uint32_t manifest_bytes, model_bytes, input_bytes, output_bytes;
    uint32_t model_seed; /* what the model's bytes are made from */
};

/* Stage 0 of 2, chip ESP32-S3: receives int8 [1, 4], sends int8 [1, 3]. */
struct draft image_draft(uint32_t version, uint32_t model_bytes);

/* Packs it; signed if s is not NULL. *len is its length; the caller frees it. */
uint8_t *image_pack(const struct draft *d, struct signer *s, uint32_t *len);

/* Makes header CRC and signature (or digest) fit again after a change. */
void image_seal(uint8_t *image, uint32_t len, struct signer *s);

void image_digest(const uint8_t *image, uint32_t len, uint8_t digest[TS_IMAGE_DIGEST]);

#endif
