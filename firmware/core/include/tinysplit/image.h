/* Images: one stage packed for a slot, IMAGE.md sections 1 to 5.
 *
 * Reading needs the bytes through one callback and 4 KB of working memory; SHA-256 and ECDSA are the
 * port's (mbedTLS on a board). Nothing here writes. */
#ifndef TINYSPLIT_IMAGE_H
#define TINYSPLIT_IMAGE_H

#include "tinysplit/crc.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TS_IMAGE_HEADER 64
#define TS_IMAGE_SIGNATURE 64
#define TS_IMAGE_ALIGN 16
#define TS_IMAGE_DIGEST 32
#define TS_IMAGE_MANIFEST 4096 /* longest manifest, and the least working memory */
#define TS_IMAGE_DIMS 8
#define TS_IMAGE_CRCS 8
#define TS_CHIP_ESP32S3 9u
#define TS_CHIP_ANY 0xFFFFu
#define TS_IMAGE_SIGNED 1u

enum ts_image_kind { TS_IMAGE_STAGE = 1, TS_IMAGE_FIRMWARE = 2 };

/* A part of the image: where it begins, from the image's start, and its bytes without padding. */
struct ts_part {
    uint32_t at, bytes;
};

/* What an image says of itself. The counts and the bundle id come from the manifest, the rest from
 * the header. */
struct ts_image {
    uint32_t bytes; /* the whole image */
    uint32_t version, downgrade_from, firmware;
    uint32_t arena_bytes;
    uint16_t chip;
    uint8_t kind, flags; /* enum ts_image_kind, TS_IMAGE_SIGNED */
    uint8_t stage, stage_count;
    struct ts_part manifest, model, input, output;
    uint8_t digest[TS_IMAGE_DIGEST]; /* filled in by ts_image_verify */
    uint8_t bundle[TS_BUNDLE_BYTES]; /* these too, for stages */
    struct ts_part name;             /* of the model: printable ASCII within the manifest, not terminated */
    uint8_t received, outputs, inputs, sent, results;
    uint16_t operators;
};

/* Hashing and signatures, the port's. Each returns false if it failed. */
struct ts_crypto {
    /* Passed back to all of them. */
    void *ctx;
    /* Begins a SHA-256; one runs at a time. */
    bool (*sha256_start)(void *ctx);
    /* Adds bytes to it. */
    bool (*sha256_update)(void *ctx, const uint8_t *data, size_t len);
    /* Ends it and gives the digest. */
    bool (*sha256_finish)(void *ctx, uint8_t digest[TS_IMAGE_DIGEST]);
    /* Whether `signature` (r and s, 32 bytes each, big-endian) is the ECDSA signature over `digest` with P-256 and the
     * board's public key. NULL: the board has no key. */
    bool (*verify)(void *ctx, const uint8_t digest[TS_IMAGE_DIGEST], const uint8_t signature[TS_IMAGE_SIGNATURE]);
};

/* What this board takes. */
struct ts_image_rules {
    struct ts_crypto crypto;
    struct ts_crc crc;
    uint32_t max_bytes; /* size of a slot */
    uint32_t max_arena; /* 0: unlimited */
    uint32_t firmware;  /* this firmware's version: major << 16 | minor << 8 | patch */
    uint16_t chip;
    uint8_t stage; /* the only one it runs; TS_NO_STAGE: any */
    /* A development build: unsigned images are taken as long as the board has no key. */
    bool allow_unsigned;
};

/* Where an image is read from. */
struct ts_image_source {
    void *ctx;
    /* Reads len bytes at offset from the image's start, offset + len <= ts_image_rules.max_bytes. Returns false if the
     * flash failed. */
    bool (*read)(void *ctx, uint32_t offset, uint8_t *out, uint32_t len);
};

/* Takes a header apart and judges it (IMAGE.md section 5, checks 1 to 7); kind 2 passes check 4 here.
 * Returns TS_OK or the error; *image then is not to be used. */
int ts_image_header(const struct ts_image_rules *rules, const uint8_t header[TS_IMAGE_HEADER], struct ts_image *image);

/* Reads and judges a whole image: checks 1 to 7 and 9 to 11. `digest` is what it must be, NULL: anything. `work` is
 * memory of TS_IMAGE_MANIFEST bytes or more. Returns TS_OK, the error, or TS_E_FLASH_FAILED if a callback failed. */
int ts_image_verify(const struct ts_image_rules *rules, const struct ts_image_source *source, const uint8_t *digest,
                    uint8_t *work, uint32_t work_bytes, struct ts_image *image);

/* A tensor of the manifest. */
struct ts_image_tensor {
    uint32_t bytes;
    uint32_t scale_bits; /* binary32; 0: not quantized */
    int32_t zero_point;
    uint8_t dtype; /* TensorType of TensorFlow Lite */
    uint8_t dims;
    uint32_t shape[TS_IMAGE_DIMS];
};

struct ts_image_operator {
    uint32_t code; /* BuiltinOperator of TensorFlow Lite */
    uint8_t outputs;
    uint32_t crc32[TS_IMAGE_CRCS];
};

/* The questions below take the manifest's bytes: image->manifest.bytes of them, such as the mapped flash, of an image
 * that ts_image_verify has passed. They return false if there is no such thing in it; any bytes are safe. */

bool ts_image_received(const uint8_t *manifest, uint32_t len, uint32_t index, struct ts_image_tensor *tensor);
bool ts_image_output(const uint8_t *manifest, uint32_t len, uint32_t index, struct ts_image_tensor *tensor);

/* What the last stage of the chain answers. */
bool ts_image_result(const uint8_t *manifest, uint32_t len, uint32_t index, struct ts_image_tensor *tensor);

/* Which of the received tensors is input `index` of the model. */
bool ts_image_input(const uint8_t *manifest, uint32_t len, uint32_t index, uint32_t *received);

/* Where tensor `index` of what the node sends comes from: n >= 0 is output n of the model, n < 0 received tensor -1 -
 * n. */
bool ts_image_sent(const uint8_t *manifest, uint32_t len, uint32_t index, int32_t *route);

bool ts_image_operator(const uint8_t *manifest, uint32_t len, uint32_t index, struct ts_image_operator *op);

#ifdef __cplusplus
}
#endif

#endif
