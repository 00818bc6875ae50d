/* Consoles: UART0 and USB serial/JTAG, each with log text, control lines and frames on one wire. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include "app.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Opens the ports and sends the log to both. Lines are taken from console_listen on. */
void console_start(void);

/* Starts the tasks that read: lines go to control_line, frames to wire_received. */
void console_listen(void);

/* Writes a whole line; never between the bytes of another or of a frame. Waits for room at most 2 s. */
void console_line(unsigned console, const char *text);

#ifdef __cplusplus
}
#endif

#endif
