/* Control lines over BLE, SPEC.md section 13.6: answers and events, from any task. */
#ifndef BLE_H
#define BLE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An answer to whoever sent the line: `to` is what control_line was given, less CONTROL_BLE. Dropped if that connection
 * is gone. Waits for room, 2 s at most. */
void ble_control_say(uint32_t to, const char *text);

/* An event, to every central that listens. */
void ble_control_tell(const char *text);

#ifdef __cplusplus
}
#endif

#endif
