#include "tinysplit/phase.h"

void ts_phase_set(struct ts_phases *p, enum ts_phase phase, uint32_t duration_us) {
    p->duration_us[phase] = duration_us;
    p->known = (uint8_t)(p->known | 1u << phase);
}

uint8_t ts_phase_write(const struct ts_phases *p, uint8_t stage, uint8_t *out, uint8_t max_records) {
    uint8_t n = 0;
    for (uint32_t i = 0; i < TS_PHASES && n < max_records; i++) {
        if (p->known >> i & 1u) {
            out[0] = stage;
            out[1] = (uint8_t)i;
            ts_put32(out + 2, p->duration_us[i]);
            out += TS_PHASE_BYTES;
            n++;
        }
    }
    return n;
}

void ts_phase_read(const uint8_t *record, uint8_t *stage, uint8_t *phase, uint32_t *duration_us) {
    *stage = record[0];
    *phase = record[1];
    *duration_us = ts_get32(record + 2);
}
