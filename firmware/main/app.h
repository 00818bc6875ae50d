/* What the parts of the application share: which core and priority a task has, and the calls between
 * parts. Each part's own header has the rest.
 *
 *   core 0: Wi-Fi, Bluetooth, lwIP, the link task (owner of the core's ts_node), control, MQTT
 *   core 1: the engine, alone
 *
 * Start-up: settings -> phase pins -> console -> light sleep -> slots and image -> engine and self-test -> network
 * -> link ports -> link task -> MQTT. Nothing before the link task waits for a peer. */
#ifndef APP_H
#define APP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "settings.h"
#include "tinysplit/phase.h"

#ifdef __cplusplus
extern "C" {
#endif

#define APP_RADIO_CORE 0
#define APP_ENGINE_CORE 1

/* FreeRTOS priorities. Wi-Fi's task has 23, lwIP's 18. The link task is above all else of ours, so that
 * frames are acknowledged while control prints. */
#define APP_LINK_PRIORITY 15
#define APP_PORT_PRIORITY 14 /* tasks of link ports that wait in recv */
#define APP_CONTROL_PRIORITY 5
#define APP_ENGINE_PRIORITY 10

/* The settings in force since boot. */
const struct settings *app_settings(void);

/* --- console.c: UART0 (0) and USB serial/JTAG (1); text lines and frames share them, SPEC.md section 9 --- */

#define CONSOLES 2

/* Sends a frame on a console: TS_OK, TS_E_WOULD_BLOCK if its buffer has no room (link_wake follows when it
 * may have), TS_E_SEND_FAILED. From the link task only. */
int console_send_frame(unsigned console, const uint8_t *frame, size_t len);

/* Called by the console's task for each frame that came in; implemented by the wire port. */
void wire_received(unsigned console, const uint8_t *frame, size_t len);

/* --- phases.c: one pin per phase, high while it lasts --- */

void phase_begin(enum ts_phase phase);
void phase_end(enum ts_phase phase);

/* --- control.c --- */

/* An event for whoever controls the board, on consoles and MQTT. fields: JSON members without braces,
 * e.g. "\"state\":\"connected\",\"rssi\":-61"; may be empty. */
void control_event(const char *name, const char *fields);

#ifdef __cplusplus
}
#endif

#endif
