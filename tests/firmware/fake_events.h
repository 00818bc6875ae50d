/* ESP-IDF's event loop and IP interfaces on a PC: handlers are called by the test. */
#ifndef FAKE_EVENTS_H
#define FAKE_EVENTS_H

#include <stdbool.h>

#include "esp_event.h"
#include "esp_netif.h"

/* Calls whoever registered for this event. */
void fake_event(esp_event_base_t base, int32_t id, void *data);

/* What esp_netif was told. */
extern char fake_hostname[64];
extern int fake_linklocals;
extern uint32_t fake_ip; /* as in the packet; 0: none */
extern esp_netif_t *const fake_netif;

/* What mDNS was told: "instance _service _protocol port key=value ...". */
extern char fake_service[512];

#endif
