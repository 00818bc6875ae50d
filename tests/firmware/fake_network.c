/* A network that is there: for tests of what runs on top of it. */
#include <stdio.h>
#include <string.h>

#include "fake_system.h"
#include "network.h"

esp_err_t network_start(const struct settings *settings) {
    (void)settings;
    atomic_store(&fake_memory_gone, fake_radio_takes_all);
    return ESP_OK;
}

void network_announce(const struct settings *settings) {
    (void)settings;
}

bool network_is_up(void) {
    return true;
}

uint32_t network_scope(void) {
    return 0;
}

void network_describe(struct link_status *out) {
    out->up = true;
    strcpy(out->address, "127.0.0.1");
}

void network_place(struct link_status *out, const char *scheme, uint16_t port) {
    (void)snprintf(out->address, sizeof out->address, "%s://127.0.0.1:%u", scheme, (unsigned)port);
}
