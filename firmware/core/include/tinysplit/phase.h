/* Phase timing: how long each step of an inference took, SPEC.md section 6.2. */
#ifndef TINYSPLIT_PHASE_H
#define TINYSPLIT_PHASE_H

#include "tinysplit/types.h"

#ifdef __cplusplus
extern "C" {
#endif

enum ts_phase {
    TS_P_PREPROCESS = 0,
    TS_P_INVOKE = 1,
    TS_P_ENCODE = 2,
    TS_P_SEND = 3,
    TS_P_RECEIVE = 4,
    TS_P_DECODE = 5,
    TS_P_QUEUE = 6,
    TS_P_DOWNSTREAM = 7,
    TS_PHASES = 8
};

/* One stage's timings of one inference. Unset phases are left out of the wire. */
struct ts_phases {
    uint32_t duration_us[TS_PHASES];
    uint8_t known; /* bit p: phase p was measured */
};

/* Records a phase. */
void ts_phase_set(struct ts_phases *phases, enum ts_phase phase, uint32_t duration_us);

/* Writes the known phases as records of `stage` to out, at most max_records;
 * returns how many. Each is TS_PHASE_BYTES long. */
uint8_t ts_phase_write(const struct ts_phases *phases, uint8_t stage, uint8_t *out, uint8_t max_records);

/* Reads one record. */
void ts_phase_read(const uint8_t *record, uint8_t *stage, uint8_t *phase, uint32_t *duration_us);

#ifdef __cplusplus
}
#endif

#endif
