/* Commands: one JSON object a line, host/boards/control.schema.json, from consoles, MQTT and sessions. */
#ifndef CONTROL_H
#define CONTROL_H

#include "cJSON.h"
#include "line.h"
#include "node.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a command came from, and its answer goes to: a console's number, or one of these. */
#define CONTROL_MQTT 16u
#define CONTROL_SESSION 32u   /* + session */
#define CONTROL_BLE 0x100000u /* + what ble.c knows the connection by */

extern const struct line_sink control_sink;

/* Starts the control task: results, events, telemetry, commands of sessions. */
void control_start(const char *problem);

/* Says `ready` to all who listen, once a firmware on trial is known to stay: who waits for it counts on that. Commands
 * wait for it. On the task of control_start. */
void control_ready(void);

/* Deals with a line; answers before it returns, but for `run`. From any task with 6 KB of stack. */
void control_line(unsigned source, struct line *line);

/* What the retained status says while the board is online; for cJSON_free. NULL: no memory. From any task. */
char *control_status(void);

/* Adds what is counted here to a record of telemetry. */
void control_add_counts(cJSON *object);

/* Runs a function on the control task, where lines may be dealt with; false if its queue is full. */
bool control_defer(void (*function)(void *arg), void *arg);

/* From the link task: a result (taken over until control_result_done), a message of a session. False if there is
 * no room. */
struct node_result *control_result_take(void);
void control_result(struct node_result *result);
bool control_message(uint16_t session, uint8_t slot, uint8_t kind, const uint8_t *body, uint32_t len);

#ifdef __cplusplus
}
#endif

#endif
