#include "tinysplit/types.h"

bool ts_due(uint32_t now, uint32_t at) {
    return at != 0 && (int32_t)(now - at) >= 0;
}

uint32_t ts_after(uint32_t at, uint32_t us) {
    uint32_t t = at + us;
    return t != 0 ? t : 1;
}

uint32_t ts_sooner(uint32_t a, uint32_t b) {
    return b == 0 || (a != 0 && (int32_t)(a - b) < 0) ? a : b;
}

void ts_put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

void ts_put32(uint8_t *p, uint32_t v) {
    ts_put16(p, v);
    ts_put16(p + 2, v >> 16);
}

void ts_put64(uint8_t *p, uint64_t v) {
    ts_put32(p, (uint32_t)v);
    ts_put32(p + 4, (uint32_t)(v >> 32));
}

uint16_t ts_get16(const uint8_t *p) {
    return (uint16_t)(p[0] | (p[1] << 8));
}

uint32_t ts_get32(const uint8_t *p) {
    return (uint32_t)ts_get16(p) | ((uint32_t)ts_get16(p + 2) << 16);
}

uint64_t ts_get64(const uint8_t *p) {
    return (uint64_t)ts_get32(p) | ((uint64_t)ts_get32(p + 4) << 32);
}
