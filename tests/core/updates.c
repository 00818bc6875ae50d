#include "updates.h"

#include <string.h>

static int self_test(void *ctx, unsigned slot, const struct ts_image *image, uint32_t *detail) {
    struct flash *f = ctx;
    struct board *b = (struct board *)((char *)f - offsetof(struct board, flash));
    (void)slot;
    b->self_tests++;
    *detail = 12;
    return image->version == b->fails_version ? TS_E_SELF_TEST : TS_OK;
}

void board_init(struct board *b, struct signer *key, uint64_t seed) {
    memset(b, 0, sizeof *b);
    flash_init(&b->flash, seed);
    b->cfg = (struct ts_slots_config){
        .ctx = &b->flash,
        .read = flash_read,
        .program = flash_program,
        .erase = flash_erase,
        .self_test = self_test,
        .buffer = b->buffer,
        .rules = {.crypto = signer_crypto(key),
                  .crc = {NULL, ts_crc16_small, ts_crc32_small},
                  .max_bytes = FLASH_SLOT,
                  .firmware = 0x000100,
                  .chip = TS_CHIP_ESP32S3,
                  .stage = TS_NO_STAGE},
    };
}

int board_boot(struct board *b) {
    memset(b->buffer, 0xA5, sizeof b->buffer);
    memset(&b->image, 0xA5, sizeof b->image);
    return ts_slots_boot(&b->slots, &b->cfg, &b->image);
}

int board_update(struct board *b, const struct packed *p, uint32_t piece) {
    struct ts_image image;
    uint32_t at;
    int code = ts_slots_begin(&b->slots, p->bytes, p->digest, &at);
    for (uint32_t n; code == TS_OK && at < p->len; at += n) {
        n = p->len - at < piece ? p->len - at : piece;
        code = ts_slots_write(&b->slots, at, p->bytes + at, n);
    }
    if (code == TS_OK) {
        code = ts_slots_finish(&b->slots, &image);
    }
    return code == TS_OK ? ts_slots_activate(&b->slots, p->digest) : code;
}

bool board_runs(struct board *b, const struct packed *p) {
    return b->slots.running != TS_NO_SLOT && memcmp(b->image.digest, p->digest, sizeof p->digest) == 0 &&
           memcmp(b->flash.bytes + flash_base((enum ts_area)b->slots.running), p->bytes, p->len) == 0;
}

struct packed pack_draft(const struct draft *d, struct signer *s) {
    struct packed p;
    p.bytes = image_pack(d, s, &p.len);
    image_digest(p.bytes, p.len, p.digest);
    return p;
}
