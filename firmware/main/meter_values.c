#include "meter.h"

int32_t meter_current_ua(uint32_t kind, int16_t shunt, uint32_t mohm) {
    /* Tenths of a microvolt over milliohms: 0.1 uV / 1 mOhm = 0.1 mA = 100 uA. */
    int32_t tenths_uv = kind == METER_INA219 ? (int32_t)shunt * 100 : (int32_t)shunt * 25;
    return (int32_t)((int64_t)tenths_uv * 100 / (int64_t)mohm);
}

int32_t meter_voltage_mv(uint32_t kind, uint16_t bus) {
    return kind == METER_INA219 ? (bus >> 3) * 4 : (int32_t)bus * 5 / 4;
}

int64_t meter_energy_nj(int64_t power_before_nw, int64_t power_now_nw, int64_t us) {
    /* nW * us = 1e-15 J; nJ are 1e-9. */
    return (power_before_nw + power_now_nw) / 2 * us / 1000000;
}
