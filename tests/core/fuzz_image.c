/* libFuzzer: an image from a key's owner who means harm, and a state area full of anything.
 *
 *   CC=clang-22 cmake -S firmware/core -B build/fuzz -DTS_FUZZ=ON && cmake --build build/fuzz --target fuzz_image
 *   build/fuzz/tests/fuzz_image -max_total_time=60 -max_len=4096 tests/core/corpus_image
 *
 * Byte 0 of the input chooses: even, an image whose magic, CRC and length are put right and whose signature always
 * fits; odd, the two sectors of the state, records' CRCs put right, before a boot and an update. */
#include "tinysplit/slots.h"

#include <stdlib.h>
#include <string.h>

#define SLOT (4u * TS_SECTOR)

static uint8_t flash[2 * SLOT + 2 * TS_SECTOR];
static uint8_t work[TS_SECTOR];

static bool start(void *ctx) {
    (void)ctx;
    return true;
}

static bool update(void *ctx, const uint8_t *data, size_t len) {
    (void)ctx;
    (void)data;
    (void)len;
    return true;
}

static bool finish(void *ctx, uint8_t digest[TS_IMAGE_DIGEST]) {
    (void)ctx;
    memset(digest, 7, TS_IMAGE_DIGEST);
    return true;
}

static bool verify(void *ctx, const uint8_t digest[TS_IMAGE_DIGEST], const uint8_t signature[TS_IMAGE_SIGNATURE]) {
    (void)ctx;
    (void)digest;
    (void)signature;
    return true;
}

static uint8_t *place(enum ts_area area, uint32_t offset, uint32_t len) {
    uint32_t size = area == TS_AREA_STATE ? 2 * TS_SECTOR : SLOT;
    if (offset > size || len > size - offset) {
        abort();
    }
    return flash + (uint32_t)area * SLOT + offset;
}

static bool flash_read(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out, uint32_t len) {
    (void)ctx;
    memcpy(out, place(area, offset, len), len);
    return true;
}

static bool flash_program(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data, uint32_t len) {
    (void)ctx;
    uint8_t *at = place(area, offset, len);
    for (uint32_t i = 0; i < len; i++) {
        at[i] &= data[i];
    }
    return true;
}

static bool flash_erase(void *ctx, enum ts_area area, uint32_t offset) {
    (void)ctx;
    memset(place(area, offset, TS_SECTOR), 0xFF, TS_SECTOR);
    return true;
}

static int self_test(void *ctx, unsigned slot, const struct ts_image *image, uint32_t *detail) {
    (void)ctx;
    *detail = slot;
    return image->version % 2 == 0 ? TS_OK : TS_E_SELF_TEST;
}

static const struct ts_slots_config cfg = {
    .read = flash_read,
    .program = flash_program,
    .erase = flash_erase,
    .self_test = self_test,
    .buffer = work,
    .rules = {.crypto = {NULL, start, update, finish, verify},
              .crc = {NULL, ts_crc16_small, ts_crc32_small},
              .max_bytes = SLOT,
              .chip = TS_CHIP_ESP32S3,
              .firmware = UINT32_MAX,
              .stage = TS_NO_STAGE},
};

static bool slot0(void *ctx, uint32_t offset, uint8_t *out, uint32_t len) {
    return flash_read(ctx, TS_AREA_SLOT0, offset, out, len);
}

/* What ts_image_verify let pass must hold together. */
static void ask(const struct ts_image *image) {
    const uint8_t *m = flash + image->manifest.at;
    uint32_t len = image->manifest.bytes, input = 0, output = 0, unused;
    struct ts_image_tensor t;
    struct ts_image_operator op;
    for (uint32_t i = 0; i < image->received; i++) {
        if (!ts_image_received(m, len, i, &t)) {
            abort();
        }
        input += t.bytes;
    }
    for (uint32_t i = 0; i < image->inputs; i++) {
        if (!ts_image_input(m, len, i, &unused) || unused >= image->received) {
            abort();
        }
    }
    for (uint32_t i = 0; i < image->sent; i++) {
        int32_t from;
        if (!ts_image_sent(m, len, i, &from) || !(from >= 0 ? ts_image_output(m, len, (uint32_t)from, &t)
                                                            : ts_image_received(m, len, (uint32_t)(-1 - from), &t))) {
            abort();
        }
        output += t.bytes;
    }
    for (uint32_t i = 0; i < image->operators; i += 1 + image->operators / 8u) {
        if (!ts_image_operator(m, len, i, &op)) {
            abort();
        }
    }
    for (uint32_t i = 0; i < image->results; i++) {
        if (!ts_image_result(m, len, i, &t)) {
            abort();
        }
    }
    if (input != image->input.bytes || output != image->output.bytes ||
        ts_image_received(m, len, image->received, &t) || ts_image_operator(m, len, image->operators, &op)) {
        abort();
    }
}

static void an_image(const uint8_t *data, uint32_t len) {
    struct ts_image image;
    struct ts_image_source source = {NULL, slot0};
    memcpy(flash, data, len < SLOT ? len : SLOT);
    memcpy(flash, "tsIM", 4);
    ts_put16(flash + 4, 1);
    flash[7] |= TS_IMAGE_SIGNED;
    ts_put32(flash + 60, ts_crc32_small(NULL, 0, flash, 60));
    if (ts_image_verify(&cfg.rules, &source, NULL, work, sizeof work, &image) == TS_OK &&
        image.kind == TS_IMAGE_STAGE) {
        ask(&image);
    }
    /* And without a look at it first: the questions must be safe with any bytes. */
    uint8_t *exact = malloc(len + 1);
    memcpy(exact, data, len);
    for (uint32_t i = 0; i < 3; i++) {
        struct ts_image_tensor t;
        struct ts_image_operator op;
        uint32_t received;
        int32_t route;
        ts_image_received(exact, len, i, &t);
        ts_image_output(exact, len, i, &t);
        ts_image_input(exact, len, i, &received);
        ts_image_sent(exact, len, i, &route);
        ts_image_operator(exact, len, i, &op);
    }
    free(exact);
}

static void a_state(const uint8_t *data, uint32_t len) {
    static const uint8_t digest[TS_IMAGE_DIGEST] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
                                                    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};
    struct ts_slots slots;
    struct ts_image image;
    uint32_t at, half = len / 2;
    for (uint32_t i = 0; i < 2; i++) {
        uint8_t *record = flash + 2 * SLOT + i * TS_SECTOR;
        memcpy(record, data + i * half, half < TS_SECTOR ? half : TS_SECTOR);
        memcpy(record, "tsSR", 4);
        ts_put32(record + 124, ts_crc32_small(NULL, 0, record, 124));
    }
    if (ts_slots_boot(&slots, &cfg, &image) == TS_OK && slots.running > 1) {
        abort();
    }
    uint8_t header[TS_IMAGE_HEADER] = {'t', 's', 'I', 'M', 1, 0, TS_IMAGE_STAGE, TS_IMAGE_SIGNED};
    ts_put32(header + 8, 64 + 16 + 64);
    ts_put32(header + 12, UINT32_MAX);
    ts_put16(header + 24, TS_CHIP_ANY);
    header[27] = 1;
    ts_put32(header + 36, 16);
    ts_put32(header + 60, ts_crc32_small(NULL, 0, header, 60));
    if (ts_slots_begin(&slots, header, digest, &at) == TS_OK) {
        ts_slots_write(&slots, at, header, 60);
        ts_slots_finish(&slots, &image);
    }
    ts_slots_activate(&slots, digest);
    ts_slots_abort(&slots);
    ts_slots_boot(&slots, &cfg, &image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2 || size > 2 * TS_SECTOR) {
        return 0;
    }
    memset(flash, 0xFF, sizeof flash);
    if (data[0] % 2 == 0) {
        an_image(data + 1, (uint32_t)size - 1);
    } else {
        a_state(data + 1, (uint32_t)size - 1);
    }
    return 0;
}
