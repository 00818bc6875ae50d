/* The board's IP interface: Wi-Fi station or soft-AP (wifi.c), or the emulator's Ethernet (eth.c).
 *
 * network_start returns at once. The interface comes up by itself whenever its network is there and goes
 * on trying for ever; drivers' events only set flags. Everything else here may be called from any task. */
#ifndef NETWORK_H
#define NETWORK_H

#include "esp_netif.h"
#include "link.h"
#include "settings.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Brings the interface up; does nothing if it is. ESP_ERR_INVALID_STATE if no network is configured. */
esp_err_t network_start(const struct settings *settings);

/* Tells the network by mDNS, where the build has it, that this node listens at settings->port: once, by its port. */
void network_announce(const struct settings *settings);

/* True while the interface has an address. */
bool network_is_up(void);

/* up, phy, channel, rssi_dbm, reconnects and error of *out; address is the IP address without port. */
void network_describe(struct link_status *out);

/* Turns the IP address in out->address into "scheme://address:port". */
void network_place(struct link_status *out, const char *scheme, uint16_t port);

/* sin6_scope_id of link-local peers. */
uint32_t network_scope(void);

/* --- of wifi.c or eth.c, for network.c and espnow.c --- */

/* Creates the interface and starts its driver. */
esp_err_t interface_start(const struct settings *settings, esp_netif_t **netif);

/* What the driver knows: phy, channel, rssi_dbm, reconnects, error. */
void interface_describe(struct link_status *out);

/* Wi-Fi only: its driver started for ESP-NOW, on settings->channel unless a station decides. */
esp_err_t wifi_radio_start(const struct settings *settings);

/* Of network.c: the interface's address came or went. */
void network_set_up(bool up);

/* Of network.c: esp_netif and the event loop, once. */
esp_err_t network_prepare(void);

#ifdef __cplusplus
}
#endif

#endif
