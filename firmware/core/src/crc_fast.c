#include "tinysplit/crc.h"

void ts_crc_fast_init(struct ts_crc_fast *t) {
    for (uint32_t i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        t->crc16[0][i] = ts_crc16_small(NULL, 0, &byte, 1);
        t->crc32[0][i] = ~ts_crc32_small(NULL, ~0u, &byte, 1);
    }
    for (uint32_t k = 1; k < 8; k++) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t a = t->crc16[k - 1][i];
            uint32_t b = t->crc32[k - 1][i];
            t->crc16[k][i] = (uint16_t)(((a << 8) & 0xffffu) ^ t->crc16[0][a >> 8]);
            t->crc32[k][i] = (b >> 8) ^ t->crc32[0][b & 0xffu];
        }
    }
}

uint16_t ts_crc16_fast(void *tables, uint16_t crc, const uint8_t *data, size_t len) {
    const struct ts_crc_fast *t = tables;
    uint32_t c = crc;
    while (len >= 8) {
        c = (uint32_t)t->crc16[7][data[0] ^ (c >> 8)] ^ t->crc16[6][data[1] ^ (c & 0xffu)] ^ t->crc16[5][data[2]] ^
            t->crc16[4][data[3]] ^ t->crc16[3][data[4]] ^ t->crc16[2][data[5]] ^ t->crc16[1][data[6]] ^
            t->crc16[0][data[7]];
        data += 8;
        len -= 8;
    }
    for (; len > 0; len--, data++) {
        c = ((c << 8) & 0xffffu) ^ t->crc16[0][(c >> 8) ^ *data];
    }
    return (uint16_t)c;
}

uint32_t ts_crc32_fast(void *tables, uint32_t crc, const uint8_t *data, size_t len) {
    const struct ts_crc_fast *t = tables;
    uint32_t c = ~crc;
    while (len >= 8) {
        uint32_t lo =
            c ^ ((uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24);
        uint32_t hi = (uint32_t)data[4] | (uint32_t)data[5] << 8 | (uint32_t)data[6] << 16 | (uint32_t)data[7] << 24;
        c = t->crc32[7][lo & 0xffu] ^ t->crc32[6][(lo >> 8) & 0xffu] ^ t->crc32[5][(lo >> 16) & 0xffu] ^
            t->crc32[4][lo >> 24] ^ t->crc32[3][hi & 0xffu] ^ t->crc32[2][(hi >> 8) & 0xffu] ^
            t->crc32[1][(hi >> 16) & 0xffu] ^ t->crc32[0][hi >> 24];
        data += 8;
        len -= 8;
    }
    for (; len > 0; len--, data++) {
        c = (c >> 8) ^ t->crc32[0][(c ^ *data) & 0xffu];
    }
    return ~c;
}
