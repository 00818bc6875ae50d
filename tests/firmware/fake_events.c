#include "fake_events.h"

#include "mdns.h"
#include <stdio.h>

#define HANDLERS 8

esp_event_base_t const IP_EVENT = "IP_EVENT";

static struct {
    esp_event_base_t base;
    int32_t id;
    esp_event_handler_t handler;
    void *arg;
} handlers[HANDLERS];
static int count, loops;

char fake_hostname[64];
int fake_linklocals;
uint32_t fake_ip;
static int netif;
esp_netif_t *const fake_netif = (esp_netif_t *)&netif;

void fake_event(esp_event_base_t base, int32_t id, void *data) {
    for (int i = 0; i < count; i++) {
        if (handlers[i].base == base && (handlers[i].id == ESP_EVENT_ANY_ID || handlers[i].id == id)) {
            handlers[i].handler(handlers[i].arg, base, id, data);
        }
    }
}

esp_err_t esp_event_loop_create_default(void) {
    return loops++ == 0 ? ESP_OK : ESP_ERR_INVALID_STATE;
}

esp_err_t esp_event_handler_register(esp_event_base_t base, int32_t id, esp_event_handler_t handler, void *arg) {
    if (loops == 0 || count == HANDLERS) {
        return ESP_ERR_INVALID_STATE;
    }
    handlers[count].base = base;
    handlers[count].id = id;
    handlers[count].handler = handler;
    handlers[count++].arg = arg;
    return ESP_OK;
}

esp_err_t esp_netif_init(void) {
    return ESP_OK;
}

esp_netif_t *esp_netif_new(const esp_netif_config_t *config) {
    (void)config;
    return fake_netif;
}

esp_err_t esp_netif_attach(esp_netif_t *which, esp_netif_iodriver_handle driver) {
    return which == fake_netif && driver != NULL ? ESP_OK : ESP_ERR_INVALID_ARG;
}

esp_err_t esp_netif_set_hostname(esp_netif_t *which, const char *name) {
    (void)which;
    (void)snprintf(fake_hostname, sizeof fake_hostname, "%s", name);
    return ESP_OK;
}

esp_err_t esp_netif_create_ip6_linklocal(esp_netif_t *which) {
    fake_linklocals += which == fake_netif;
    return ESP_OK;
}

esp_err_t esp_netif_get_ip_info(esp_netif_t *which, esp_netif_ip_info_t *info) {
    (void)which;
    info->ip.addr = fake_ip;
    return ESP_OK;
}

int esp_netif_get_netif_impl_index(esp_netif_t *which) {
    (void)which;
    return 2;
}

char fake_service[512];

esp_err_t mdns_init(void) {
    return ESP_OK;
}

esp_err_t mdns_hostname_set(const char *name) {
    return name[0] != 0 ? ESP_OK : ESP_ERR_INVALID_ARG;
}

esp_err_t mdns_service_add(const char *instance, const char *service, const char *protocol, uint16_t port,
                           mdns_txt_item_t text[], size_t items) {
    int at = snprintf(fake_service, sizeof fake_service, "%s %s %s %u", instance, service, protocol, (unsigned)port);
    for (size_t i = 0; i < items; i++) {
        at += snprintf(fake_service + at, sizeof fake_service - (size_t)at, " %s=%s", text[i].key, text[i].value);
    }
    return ESP_OK;
}
