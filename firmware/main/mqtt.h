/* The control plane over MQTT: tinysplit/<name>/cmd, /reply, /telemetry, and /status, retained, with a
 * last will. */
#ifndef MQTT_H
#define MQTT_H

#include <stdbool.h>

#include "once.h"
#include "settings.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Starts the client if a broker is configured and the network port can carry it; it connects, and connects again,
 * by itself. An esp_err_t. */
int mqtt_start(const struct settings *settings);

bool mqtt_is_up(void);

/* The answer to the command being dealt with, and to a `run` later. */
void mqtt_reply(const char *text);

/* What is remembered of commands; NULL without MQTT. */
struct once *mqtt_once(void);

/* Retained commands, which are ignored. */
uint32_t mqtt_retained(void);

/* Dropped while there is no connection. */
void mqtt_telemetry(const char *text);

#ifdef __cplusplus
}
#endif

#endif
