#include "network.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "esp_event.h"
#include "sdkconfig.h"

/* Without the component espressif/mdns (CMakeLists.txt) the name is known to the DHCP server alone. */
#if CONFIG_TINYSPLIT_MDNS && defined(__has_include)
#if __has_include("mdns.h")
#include "mdns.h"
#define HAVE_MDNS 1
#endif
#endif

static esp_netif_t *interface;
static atomic_bool up;
static bool prepared;

void network_set_up(bool now_up) {
    atomic_store(&up, now_up);
    link_wake();
}

static void on_ip_event(void *arg, esp_event_base_t base, int32_t id, void *data) {
    (void)arg;
    (void)base;
    (void)data;
    switch (id) {
    case IP_EVENT_STA_GOT_IP:
    case IP_EVENT_ETH_GOT_IP:
    case IP_EVENT_GOT_IP6:
        network_set_up(true);
        break;
    case IP_EVENT_STA_LOST_IP:
    case IP_EVENT_ETH_LOST_IP:
        network_set_up(false);
        break;
    default:
        break;
    }
}

esp_err_t network_prepare(void) {
    if (prepared) {
        return ESP_OK;
    }
    esp_err_t error = esp_netif_init();
    if (error == ESP_OK) {
        error = esp_event_loop_create_default();
        if (error == ESP_ERR_INVALID_STATE) {
            error = ESP_OK; /* there is one */
        }
    }
    if (error == ESP_OK) {
        error = esp_event_handler_register(IP_EVENT, ESP_EVENT_ANY_ID, on_ip_event, NULL);
    }
    prepared = error == ESP_OK;
    return error;
}

void network_announce(const struct settings *settings) {
#if HAVE_MDNS
    /* What `tinysplit boards` reads. A board that cannot be found is no reason not to serve. */
    static const char *const roles[] = {"host", "head", "relay", "tail", "bridge"};
    const struct link_identity *who = link_identity();
    static char bundle[2 * TS_BUNDLE_BYTES + 1];
    char stage[4];
    char stages[4];
    (void)snprintf(stage, sizeof stage, "%u", (unsigned)who->stage);
    (void)snprintf(stages, sizeof stages, "%u", (unsigned)who->stage_count);
    for (size_t i = 0; i < TS_BUNDLE_BYTES; i++) {
        (void)snprintf(bundle + 2 * i, 3, "%02x", who->bundle[i]);
    }
    mdns_txt_item_t text[] = {
        {"name", settings->name},   {"role", who->role < sizeof roles / sizeof *roles ? roles[who->role] : "host"},
        {"firmware", who->version}, {"bundle", bundle},
        {"stage", stage},           {"stages", stages},
    };
    size_t count = sizeof text / sizeof *text - (who->stage == TS_NO_STAGE ? 3u : 0u); /* a bridge has no bundle */
    if (settings->port != 0 && mdns_init() == ESP_OK && mdns_hostname_set(settings->name) == ESP_OK) {
        (void)mdns_service_add(settings->name, "_tinysplit", settings->transport == TRANSPORT_TCP ? "_tcp" : "_udp",
                               settings->port, text, count);
    }
#else
    (void)settings;
#endif
}

esp_err_t network_start(const struct settings *settings) {
    static bool tried;
    static esp_err_t outcome; /* for whoever asks later: an interface without a driver stays down */
    if (!tried) {
        tried = true;
        outcome = network_prepare();
        if (outcome == ESP_OK) {
            outcome = interface_start(settings, &interface);
        }
    }
    return outcome;
}

bool network_is_up(void) {
    return atomic_load(&up);
}

uint32_t network_scope(void) {
    int index = interface != NULL ? esp_netif_get_netif_impl_index(interface) : -1;
    return index > 0 ? (uint32_t)index : 0;
}

void network_place(struct link_status *out, const char *scheme, uint16_t port) {
    char ip[16];
    if (out->address[0] != 0) {
        (void)snprintf(ip, sizeof ip, "%.15s", out->address);
        (void)snprintf(out->address, sizeof out->address, "%s://%s:%u", scheme, ip, (unsigned)port);
    }
}

void network_describe(struct link_status *out) {
    out->up = network_is_up();
    interface_describe(out);
    esp_netif_ip_info_t ip;
    if (interface != NULL && out->up && esp_netif_get_ip_info(interface, &ip) == ESP_OK && ip.ip.addr != 0) {
        (void)snprintf(out->address, sizeof out->address, IPSTR, IP2STR(&ip.ip));
    }
}
