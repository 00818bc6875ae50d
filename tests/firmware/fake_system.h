/* FreeRTOS and ESP-IDF's timers, random numbers and watchdog on a PC: tasks are threads, a tick is a millisecond. */
#ifndef FAKE_SYSTEM_H
#define FAKE_SYSTEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The clock that esp_timer_get_time tells runs with the PC's until it is set; from then on it stands, and fake_advance
 * moves it and rings timers that are due, in order, on the caller's thread. */
void fake_clock_stop(uint64_t now_us);
void fake_advance(uint64_t us);

/* Lets the running clock jump, e.g. over a deadline. */
void fake_clock_skip(uint64_t us);

/* Time until the next timer, UINT64_MAX if none runs. */
uint64_t fake_next_timer(void);

/* Where the random numbers begin. */
extern _Atomic uint32_t fake_random;

/* Tasks that are in the watchdog's care, and how often they were seen. */
int fake_watched_tasks(void);

/* The program ends when one of them was not seen for longer; 0: never. */
extern uint32_t fake_watchdog_ms;

/* Threads of tasks that have not ended. */
int fake_running_tasks(void);

/* With it, network_start leaves no memory for further tasks: as Espressif's driver did where it just fitted. */
extern bool fake_radio_takes_all;
extern atomic_bool fake_memory_gone;

#endif
