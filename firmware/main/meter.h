/* An INA219 or INA226 in the board's supply, on I2C. */
#ifndef METER_H
#define METER_H

#include <stdbool.h>
#include <stdint.h>

#include "settings.h"

#ifdef __cplusplus
extern "C" {
#endif

struct meter_reading {
    int32_t voltage_mv; /* of the supply, last sample */
    int32_t current_ua; /* likewise; negative: the shunt is the wrong way round */
    int64_t energy_uj;  /* since start, by trapezoids between samples */
    uint32_t samples, failures;
};

/* Starts sampling if a meter is configured. False, with a line for people, if it does not answer. */
bool meter_start(const struct settings *settings, const char **problem);

/* The latest values; false if there is no meter, or none came yet. Any task. */
bool meter_read(struct meter_reading *out);

/* --- arithmetic, bound to nothing --- */

/* Shunt register to microamperes. INA219: 10 uV per count (SBOS448G, 8.6.3.1); INA226: 2.5 uV (SBOS547B, table 7-1). */
int32_t meter_current_ua(uint32_t kind, int16_t shunt, uint32_t mohm);

/* Bus register to millivolts. INA219: bits 15..3 of 4 mV (8.6.3.2); INA226: 1.25 mV. */
int32_t meter_voltage_mv(uint32_t kind, uint16_t bus);

/* Energy between two samples, microjoules; powers in nanowatts, time in microseconds. */
int64_t meter_energy_nj(int64_t power_before_nw, int64_t power_now_nw, int64_t us);

#ifdef __cplusplus
}
#endif

#endif
