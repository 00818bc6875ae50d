/* Ethernet of the emulator (OpenCores MAC, any PHY will do). Not in builds for boards. */
#include "sdkconfig.h"

#if CONFIG_TINYSPLIT_OPENETH

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "esp_eth.h"
#include "esp_event.h"
#include "esp_mac.h"
#include "esp_random.h"
#include "esp_rom_crc.h"
#include "esp_system.h"
#include "network.h"

static esp_netif_t *netif;
static esp_eth_handle_t driver;
static atomic_bool cable;
static atomic_uint cables;

static void on_eth_event(void *arg, esp_event_base_t base, int32_t id, void *data) {
    (void)arg;
    (void)base;
    (void)data;
    if (id == ETHERNET_EVENT_CONNECTED) {
        atomic_store(&cable, true);
        atomic_fetch_add(&cables, 1);
        (void)esp_netif_create_ip6_linklocal(netif);
    } else if (id == ETHERNET_EVENT_DISCONNECTED) {
        atomic_store(&cable, false);
        network_set_up(false);
    }
}

/* A restart resets the processors, not the emulated MAC: left on, it would go on writing frames to where its buffers
 * were, and ESP-IDF's driver aborts when it does not find the MAC as after power-on. */
static void before_restart(void) {
    (void)esp_eth_stop(driver);
}

/* A panic restarts without that. The driver looks for the mode register's reset value before it resets the MAC itself
 * (esp_eth_mac_openeth.c, "Sanity check"), and would abort again and again. Where the register is, and that value:
 * ESP-IDF's esp_openeth.h and openeth.h. Weak: tests on a PC have no such register. */
#define OPENETH_MODER ((volatile uint32_t *)0x600CD000)
#define OPENETH_MODER_DEFAULT 0xa000u

void eth_silence(void);

__attribute__((weak)) void eth_silence(void) {
    *OPENETH_MODER = OPENETH_MODER_DEFAULT;
}

/* The emulated chip's MAC address is zero unless it was given eFuses. Then a locally administered one is made from the
 * board's name, so that boards of different names can share a segment and keep their addresses. */
static void mac_address(const struct settings *settings, uint8_t mac[6]) {
    uint8_t base[6] = {0};
    static const uint8_t none[6];
    if (esp_efuse_mac_get_default(base) == ESP_OK && memcmp(base, none, sizeof none) != 0 &&
        esp_read_mac(mac, ESP_MAC_ETH) == ESP_OK) {
        return;
    }
    size_t len = strlen(settings->name);
    uint32_t word = len > 0 ? esp_rom_crc32_le(0, (const uint8_t *)settings->name, (uint32_t)len) : esp_random();
    mac[0] = 0x02;
    mac[1] = 0x54; /* "TS" */
    for (unsigned i = 0; i < 4; i++) {
        mac[2 + i] = (uint8_t)(word >> (8u * i));
    }
}

esp_err_t interface_start(const struct settings *settings, esp_netif_t **out) {
    esp_netif_config_t netif_config = ESP_NETIF_DEFAULT_ETH();
    netif = esp_netif_new(&netif_config);
    if (netif == NULL) {
        return ESP_ERR_NO_MEM;
    }
    (void)esp_netif_set_hostname(netif, settings->name);
    eth_mac_config_t mac_config = ETH_MAC_DEFAULT_CONFIG();
    eth_phy_config_t phy_config = ETH_PHY_DEFAULT_CONFIG();
    phy_config.reset_gpio_num = -1;
    phy_config.autonego_timeout_ms = 100;
    eth_silence();
    esp_eth_mac_t *mac = esp_eth_mac_new_openeth(&mac_config);
    esp_eth_phy_t *phy = esp_eth_phy_new_dp83848(&phy_config);
    if (mac == NULL || phy == NULL) {
        return ESP_ERR_NO_MEM;
    }
    esp_eth_config_t config = ETH_DEFAULT_CONFIG(mac, phy);
    esp_err_t error = esp_eth_driver_install(&config, &driver);
    if (error != ESP_OK) {
        return error;
    }
    uint8_t address[6];
    mac_address(settings, address);
    error = esp_eth_ioctl(driver, ETH_CMD_S_MAC_ADDR, address);
    if (error != ESP_OK) {
        return error;
    }
    esp_eth_netif_glue_handle_t glue = esp_eth_new_netif_glue(driver);
    if (glue == NULL) {
        return ESP_ERR_NO_MEM;
    }
    error = esp_netif_attach(netif, glue);
    if (error == ESP_OK) {
        error = esp_event_handler_register(ETH_EVENT, ESP_EVENT_ANY_ID, on_eth_event, NULL);
    }
    if (error == ESP_OK) {
        error = esp_register_shutdown_handler(before_restart);
    }
    if (error == ESP_OK) {
        error = esp_eth_start(driver);
    }
    *out = netif;
    return error;
}

void interface_describe(struct link_status *out) {
    unsigned times = atomic_load(&cables);
    out->reconnects = times > 1 ? times - 1 : 0;
    (void)snprintf(out->phy, sizeof out->phy, "eth");
    if (!atomic_load(&cable)) {
        (void)snprintf(out->error, sizeof out->error, "no cable: start the emulator with -nic user,model=open_eth");
    }
}

#endif
