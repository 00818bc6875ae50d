/* What the board tells of itself: memory and stack low-water marks, temperature, reset reason, power. */
#ifndef TELEMETRY_H
#define TELEMETRY_H

#include <stdint.h>

#include "cJSON.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Reads why the board restarted, opens the temperature sensor. Once, early. */
void telemetry_start(void);

/* Since telemetry_start. esp_timer's clock is no such thing in the emulator, where it outlasts a restart. */
int64_t telemetry_uptime_ms(void);

/* "power_on", "panic", "task_watchdog", ... */
const char *telemetry_reset_reason(void);

/* Adds a member `memory`: free heap now and at its lowest, by kind, and what each task's stack never used. */
void telemetry_add_memory(cJSON *object);

/* Adds a member `operators`: of each the kind, and its microseconds in the last run that was timed (0: none). */
void telemetry_add_operators(cJSON *object);

/* A record as the event `telemetry` has it; the caller deletes it. */
cJSON *telemetry(void);

/* From the control task: sends a record over MQTT when it is time. */
void telemetry_step(void);

#ifdef __cplusplus
}
#endif

#endif
