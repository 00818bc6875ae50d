/* What firmware/main uses of ESP-IDF, FreeRTOS, lwIP and NimBLE: the names, their types and values, and the header
 * each stands in. split.py makes those headers of it, so that the firmware compiles for Xtensa without ESP-IDF and its
 * ports run on a PC against fakes. against_idf.py compares every name with the real headers, for two releases.
 *
 * Structs have only the members in use, in any order. What is only an initializer in the real headers is one here. */

/*@ sdkconfig.h */
/* The firmware's own options come before this from its Kconfig.projbuild and sdkconfig files; these are ESP-IDF's,
 * with what those files make of them. */
#define CONFIG_ESP_DEFAULT_CPU_FREQ_MHZ 240
#define CONFIG_ESP_CONSOLE_UART_BAUDRATE 115200
#if CONFIG_TINYSPLIT_WIFI
#define CONFIG_ESP_WIFI_SOFTAP_SAE_SUPPORT 1
#endif
#if CONFIG_TINYSPLIT_BLE
#define CONFIG_BT_NIMBLE_MAX_CONNECTIONS 3
#endif

/*@ esp_err.h */
#include <stdint.h>
typedef int esp_err_t;
#define ESP_OK 0
#define ESP_FAIL -1
#define ESP_ERR_NO_MEM 0x101
#define ESP_ERR_INVALID_ARG 0x102
#define ESP_ERR_INVALID_STATE 0x103
#define ESP_ERR_INVALID_SIZE 0x104
#define ESP_ERR_NOT_FOUND 0x105
#define ESP_ERR_NOT_SUPPORTED 0x106
#define ESP_ERR_TIMEOUT 0x107
const char *esp_err_to_name(esp_err_t code);
void _esp_error_check_failed(esp_err_t code, const char *file, int line, const char *function, const char *expression)
    __attribute__((noreturn));
#define ESP_ERROR_CHECK(x)                                                                                             \
    do {                                                                                                               \
        esp_err_t checked = (x);                                                                                       \
        if (checked != ESP_OK) {                                                                                       \
            _esp_error_check_failed(checked, __FILE__, __LINE__, __func__, #x);                                        \
        }                                                                                                              \
    } while (0)

/*@ esp_idf_version.h */
#define ESP_IDF_VERSION_VAL(major, minor, patch) (((major) << 16) | ((minor) << 8) | (patch))
#ifndef TEST_IDF_MINOR
#define TEST_IDF_MINOR 3
#endif
#define ESP_IDF_VERSION ESP_IDF_VERSION_VAL(5, TEST_IDF_MINOR, 1)

/*@ freertos/FreeRTOS.h */
#include "sdkconfig.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
typedef int BaseType_t;
typedef unsigned UBaseType_t;
typedef uint32_t TickType_t;
typedef uint8_t StackType_t;
typedef void (*TaskFunction_t)(void *);
#define pdTRUE 1
#define pdFALSE 0
#define pdPASS 1
#define portMAX_DELAY ((TickType_t)0xffffffffUL)
#define portTICK_PERIOD_MS ((TickType_t)1000 / CONFIG_FREERTOS_HZ)
#define pdMS_TO_TICKS(ms) ((TickType_t)(((uint64_t)(ms) * CONFIG_FREERTOS_HZ) / 1000))
typedef struct {
    void *fake[24];
} StaticQueue_t;
typedef StaticQueue_t StaticSemaphore_t;
typedef struct {
    uint32_t owner;
    uint32_t count;
} portMUX_TYPE;
#define portMUX_INITIALIZER_UNLOCKED {.owner = 0xB33FFFFF, .count = 0}
void vPortEnterCritical(portMUX_TYPE *mux);
void vPortExitCritical(portMUX_TYPE *mux);
#define portENTER_CRITICAL(mux) vPortEnterCritical(mux)
#define portEXIT_CRITICAL(mux) vPortExitCritical(mux)
#define taskENTER_CRITICAL(mux) portENTER_CRITICAL(mux)
#define taskEXIT_CRITICAL(mux) portEXIT_CRITICAL(mux)
typedef struct {
    void *fake[8];
} StaticTask_t;

/*@ freertos/queue.h */
#include "freertos/FreeRTOS.h"
typedef struct QueueDefinition *QueueHandle_t;
QueueHandle_t xQueueGenericCreateStatic(const UBaseType_t length, const UBaseType_t item, uint8_t *storage,
                                        StaticQueue_t *state, const uint8_t type);
BaseType_t xQueueGenericSend(QueueHandle_t queue, const void *const item, TickType_t ticks, const BaseType_t place);
BaseType_t xQueueReceive(QueueHandle_t queue, void *const item, TickType_t ticks);
#define xQueueCreateStatic(length, item, storage, state)                                                               \
    xQueueGenericCreateStatic((length), (item), (storage), (state), 0)
#define xQueueSend(queue, item, ticks) xQueueGenericSend((queue), (item), (ticks), 0)

/*@ freertos/semphr.h */
#include "freertos/queue.h"
typedef QueueHandle_t SemaphoreHandle_t;
QueueHandle_t xQueueCreateMutexStatic(const uint8_t type, StaticQueue_t *state);
BaseType_t xQueueSemaphoreTake(QueueHandle_t queue, TickType_t ticks);
#define xSemaphoreCreateMutexStatic(state) xQueueCreateMutexStatic(1, (state))
#define xSemaphoreCreateBinaryStatic(state) xQueueGenericCreateStatic(1, 0, NULL, (state), 3)
#define xSemaphoreTake(semaphore, ticks) xQueueSemaphoreTake((semaphore), (ticks))
#define xSemaphoreGive(semaphore) xQueueGenericSend((semaphore), NULL, 0, 0)

/*@ freertos/task.h */
#include "freertos/FreeRTOS.h"
typedef struct tskTaskControlBlock *TaskHandle_t;
TaskHandle_t xTaskCreateStaticPinnedToCore(TaskFunction_t task, const char *const name, const uint32_t stack_bytes,
                                           void *const arg, UBaseType_t priority, StackType_t *const stack,
                                           StaticTask_t *const state, const BaseType_t core);
BaseType_t xTaskCreatePinnedToCore(TaskFunction_t task, const char *const name, const uint32_t stack_bytes,
                                   void *const arg, UBaseType_t priority, TaskHandle_t *const handle,
                                   const BaseType_t core);
TaskHandle_t xTaskGetHandle(const char *name);
UBaseType_t uxTaskGetStackHighWaterMark(TaskHandle_t task);
void vTaskDelay(const TickType_t ticks);
void vTaskDelete(TaskHandle_t task);

/*@ esp_timer.h */
#include "esp_err.h"
typedef struct esp_timer *esp_timer_handle_t;
typedef void (*esp_timer_cb_t)(void *arg);
typedef struct {
    esp_timer_cb_t callback;
    void *arg;
    const char *name;
} esp_timer_create_args_t;
esp_err_t esp_timer_create(const esp_timer_create_args_t *args, esp_timer_handle_t *timer);
esp_err_t esp_timer_start_once(esp_timer_handle_t timer, uint64_t us);
esp_err_t esp_timer_stop(esp_timer_handle_t timer);
int64_t esp_timer_get_time(void);

/*@ esp_task_wdt.h */
#include "esp_err.h"
#include "freertos/task.h"
esp_err_t esp_task_wdt_add(TaskHandle_t task);
esp_err_t esp_task_wdt_delete(TaskHandle_t task);
esp_err_t esp_task_wdt_reset(void);
esp_err_t esp_task_wdt_status(TaskHandle_t task);

/*@ esp_random.h */
#include <stdint.h>
uint32_t esp_random(void);

/*@ esp_mac.h */
#include "esp_err.h"
typedef enum { ESP_MAC_ETH = 3 } esp_mac_type_t;
esp_err_t esp_read_mac(uint8_t *mac, esp_mac_type_t type);
esp_err_t esp_efuse_mac_get_default(uint8_t *mac);

/*@ esp_rom_crc.h */
#include <stdint.h>
uint16_t esp_rom_crc16_be(uint16_t crc, const uint8_t *data, uint32_t len);
uint32_t esp_rom_crc32_le(uint32_t crc, const uint8_t *data, uint32_t len);

/*@ esp_event.h */
#include "esp_err.h"
typedef const char *esp_event_base_t;
typedef void (*esp_event_handler_t)(void *arg, esp_event_base_t base, int32_t id, void *data);
#define ESP_EVENT_ANY_ID -1
esp_err_t esp_event_loop_create_default(void);
esp_err_t esp_event_handler_register(esp_event_base_t base, int32_t id, esp_event_handler_t handler, void *arg);

/*@ esp_netif.h */
#include "esp_event.h"
#include <stddef.h>
extern esp_event_base_t const IP_EVENT;
typedef enum {
    IP_EVENT_STA_GOT_IP = 0,
    IP_EVENT_STA_LOST_IP = 1,
    IP_EVENT_GOT_IP6 = 3,
    IP_EVENT_ETH_GOT_IP = 4,
    IP_EVENT_ETH_LOST_IP = 5
} ip_event_t;
typedef struct esp_netif_obj esp_netif_t;
typedef struct esp_netif_inherent_config esp_netif_inherent_config_t;
typedef struct esp_netif_driver_ifconfig esp_netif_driver_ifconfig_t;
typedef struct esp_netif_netstack_config esp_netif_netstack_config_t;
typedef void *esp_netif_iodriver_handle;
struct esp_netif_config {
    const esp_netif_inherent_config_t *base;
    const esp_netif_driver_ifconfig_t *driver;
    const esp_netif_netstack_config_t *stack;
};
typedef struct esp_netif_config esp_netif_config_t;
#define ESP_NETIF_DEFAULT_ETH() {.base = NULL, .driver = NULL, .stack = NULL}
struct esp_ip4_addr {
    uint32_t addr;
};
typedef struct esp_ip4_addr esp_ip4_addr_t;
typedef struct {
    esp_ip4_addr_t ip;
} esp_netif_ip_info_t;
#define IPSTR "%d.%d.%d.%d"
#define IP2STR(a)                                                                                                      \
    ((const uint8_t *)(a))[0], ((const uint8_t *)(a))[1], ((const uint8_t *)(a))[2], ((const uint8_t *)(a))[3]
esp_err_t esp_netif_init(void);
esp_netif_t *esp_netif_new(const esp_netif_config_t *config);
esp_err_t esp_netif_attach(esp_netif_t *netif, esp_netif_iodriver_handle driver);
esp_err_t esp_netif_set_hostname(esp_netif_t *netif, const char *name);
esp_err_t esp_netif_create_ip6_linklocal(esp_netif_t *netif);
esp_err_t esp_netif_get_ip_info(esp_netif_t *netif, esp_netif_ip_info_t *info);
int esp_netif_get_netif_impl_index(esp_netif_t *netif);

/*@ mdns.h */
/* The component espressif/mdns. */
#include "esp_err.h"
#include <stddef.h>
typedef struct {
    const char *key;
    const char *value;
} mdns_txt_item_t;
esp_err_t mdns_init(void);
esp_err_t mdns_hostname_set(const char *name);
esp_err_t mdns_service_add(const char *instance, const char *service, const char *protocol, uint16_t port,
                           mdns_txt_item_t text[], size_t count);

/*@ esp_wifi_default.h */
#include "esp_netif.h"
esp_netif_t *esp_netif_create_default_wifi_sta(void);
esp_netif_t *esp_netif_create_default_wifi_ap(void);

/*@ esp_wifi_types.h */
#include "esp_event.h"
#include <stdbool.h>
#include <stdint.h>
typedef enum { WIFI_MODE_NULL, WIFI_MODE_STA, WIFI_MODE_AP } wifi_mode_t;
typedef enum { WIFI_IF_STA, WIFI_IF_AP } wifi_interface_t;
typedef enum { WIFI_SECOND_CHAN_NONE } wifi_second_chan_t;
typedef enum { WIFI_STORAGE_FLASH, WIFI_STORAGE_RAM } wifi_storage_t;
typedef enum { WIFI_PS_NONE, WIFI_PS_MIN_MODEM, WIFI_PS_MAX_MODEM } wifi_ps_type_t;
typedef enum { WIFI_AUTH_OPEN = 0, WIFI_AUTH_WPA2_PSK = 3, WIFI_AUTH_WPA2_WPA3_PSK = 7 } wifi_auth_mode_t;
typedef enum { WIFI_FAST_SCAN, WIFI_ALL_CHANNEL_SCAN } wifi_scan_method_t;
typedef enum { WIFI_CONNECT_AP_BY_SIGNAL } wifi_sort_method_t;
typedef enum { WPA3_SAE_PWE_UNSPECIFIED = 0, WPA3_SAE_PWE_BOTH = 3 } wifi_sae_pwe_method_t;
typedef enum { WIFI_PHY_MODE_LR, WIFI_PHY_MODE_11B, WIFI_PHY_MODE_11G } wifi_phy_mode_t;
typedef enum {
    WIFI_PHY_RATE_1M_L = 0x00,
    WIFI_PHY_RATE_2M_L = 0x01,
    WIFI_PHY_RATE_5M_L = 0x02,
    WIFI_PHY_RATE_11M_L = 0x03,
    WIFI_PHY_RATE_48M = 0x08,
    WIFI_PHY_RATE_24M = 0x09,
    WIFI_PHY_RATE_12M = 0x0A,
    WIFI_PHY_RATE_6M = 0x0B,
    WIFI_PHY_RATE_54M = 0x0C,
    WIFI_PHY_RATE_36M = 0x0D,
    WIFI_PHY_RATE_18M = 0x0E,
    WIFI_PHY_RATE_9M = 0x0F,
    WIFI_PHY_RATE_LORA_250K = 0x29,
    WIFI_PHY_RATE_LORA_500K = 0x2A
} wifi_phy_rate_t;
typedef enum {
    WIFI_REASON_4WAY_HANDSHAKE_TIMEOUT = 15,
    WIFI_REASON_NO_AP_FOUND = 201,
    WIFI_REASON_AUTH_FAIL = 202,
    WIFI_REASON_HANDSHAKE_TIMEOUT = 204
} wifi_err_reason_t;
#define WIFI_PROTOCOL_11B 0x1
#define WIFI_PROTOCOL_11G 0x2
#define WIFI_PROTOCOL_11N 0x4
#define WIFI_PROTOCOL_LR 0x8
extern esp_event_base_t const WIFI_EVENT;
typedef enum {
    WIFI_EVENT_STA_START = 2,
    WIFI_EVENT_STA_CONNECTED = 4,
    WIFI_EVENT_STA_DISCONNECTED = 5,
    WIFI_EVENT_AP_START = 12,
    WIFI_EVENT_AP_STOP = 13
} wifi_event_t;
typedef struct {
    uint8_t reason;
} wifi_event_sta_disconnected_t;
typedef struct {
    bool capable;
} wifi_pmf_config_t;
typedef struct {
    wifi_auth_mode_t authmode;
} wifi_scan_threshold_t;
typedef struct {
    uint8_t ssid[32];
    uint8_t password[64];
    wifi_scan_method_t scan_method;
    wifi_sort_method_t sort_method;
    wifi_scan_threshold_t threshold;
    wifi_pmf_config_t pmf_cfg;
    wifi_sae_pwe_method_t sae_pwe_h2e;
} wifi_sta_config_t;
typedef struct {
    uint8_t ssid[32];
    uint8_t password[64];
    uint8_t ssid_len;
    uint8_t channel;
    wifi_auth_mode_t authmode;
    uint8_t max_connection;
    wifi_pmf_config_t pmf_cfg;
    wifi_sae_pwe_method_t sae_pwe_h2e;
} wifi_ap_config_t;
typedef union {
    wifi_ap_config_t ap;
    wifi_sta_config_t sta;
} wifi_config_t;
typedef struct {
    int8_t rssi;
    uint32_t phy_11g : 1;
    uint32_t phy_11n : 1;
    uint32_t phy_lr : 1;
} wifi_ap_record_t;
typedef struct {
    int8_t rssi;
} wifi_sta_info_t;
typedef struct {
    wifi_sta_info_t sta[15];
    int num;
} wifi_sta_list_t;
typedef struct {
    signed rssi : 8;
} wifi_pkt_rx_ctrl_t;

/*@ esp_wifi.h */
#include "esp_err.h"
#include "esp_wifi_default.h"
#include "esp_wifi_types.h"
typedef struct {
    int nvs_enable;
} wifi_init_config_t;
#define WIFI_INIT_CONFIG_DEFAULT() {.nvs_enable = 1}
esp_err_t esp_wifi_init(const wifi_init_config_t *config);
esp_err_t esp_wifi_set_storage(wifi_storage_t storage);
esp_err_t esp_wifi_set_mode(wifi_mode_t mode);
esp_err_t esp_wifi_get_mode(wifi_mode_t *mode);
esp_err_t esp_wifi_set_config(wifi_interface_t interface, wifi_config_t *config);
esp_err_t esp_wifi_start(void);
esp_err_t esp_wifi_set_protocol(wifi_interface_t interface, uint8_t protocols);
esp_err_t esp_wifi_connect(void);
esp_err_t esp_wifi_set_ps(wifi_ps_type_t type);
esp_err_t esp_wifi_set_channel(uint8_t primary, wifi_second_chan_t second);
esp_err_t esp_wifi_get_channel(uint8_t *primary, wifi_second_chan_t *second);
esp_err_t esp_wifi_get_mac(wifi_interface_t interface, uint8_t mac[6]);
esp_err_t esp_wifi_sta_get_ap_info(wifi_ap_record_t *record);
esp_err_t esp_wifi_ap_get_sta_list(wifi_sta_list_t *list);

/*@ esp_now.h */
#include "esp_err.h"
#include "esp_idf_version.h"
#include "esp_wifi_types.h"
#include <stddef.h>
#define ESP_ERR_ESPNOW_NO_MEM 0x3067
#define ESP_ERR_ESPNOW_FULL 0x3068
#define ESP_ERR_ESPNOW_EXIST 0x306b
#define ESP_NOW_KEY_LEN 16
#define ESP_NOW_MAX_TOTAL_PEER_NUM 20
#if TEST_IDF_MINOR >= 5
#define ESP_NOW_MAX_DATA_LEN_V2 1470
#endif
typedef enum { ESP_NOW_SEND_SUCCESS = 0, ESP_NOW_SEND_FAIL } esp_now_send_status_t;
typedef struct esp_now_peer_info {
    uint8_t peer_addr[6];
    uint8_t lmk[16];
    uint8_t channel;
    wifi_interface_t ifidx;
    bool encrypt;
} esp_now_peer_info_t;
typedef struct esp_now_recv_info {
    uint8_t *src_addr;
    wifi_pkt_rx_ctrl_t *rx_ctrl;
} esp_now_recv_info_t;
typedef struct {
    wifi_phy_mode_t phymode;
    wifi_phy_rate_t rate;
} esp_now_rate_config_t;
typedef void (*esp_now_recv_cb_t)(const esp_now_recv_info_t *info, const uint8_t *data, int len);
#if TEST_IDF_MINOR >= 5
typedef struct {
    uint8_t *des_addr;
} esp_now_send_info_t;
typedef void (*esp_now_send_cb_t)(const esp_now_send_info_t *info, esp_now_send_status_t status);
#else
typedef void (*esp_now_send_cb_t)(const uint8_t *mac, esp_now_send_status_t status);
#endif
esp_err_t esp_now_init(void);
esp_err_t esp_now_deinit(void);
esp_err_t esp_now_get_version(uint32_t *version);
esp_err_t esp_now_register_recv_cb(esp_now_recv_cb_t callback);
esp_err_t esp_now_register_send_cb(esp_now_send_cb_t callback);
esp_err_t esp_now_set_pmk(const uint8_t *pmk);
esp_err_t esp_now_add_peer(const esp_now_peer_info_t *peer);
esp_err_t esp_now_del_peer(const uint8_t *mac);
esp_err_t esp_now_set_peer_rate_config(const uint8_t *mac, esp_now_rate_config_t *config);
esp_err_t esp_now_send(const uint8_t *mac, const uint8_t *data, size_t len);

/*@ esp_eth.h */
#include "esp_event.h"
#include <stddef.h>
typedef void *esp_eth_handle_t;
typedef struct esp_eth_mac_s esp_eth_mac_t;
typedef struct esp_eth_phy_s esp_eth_phy_t;
typedef struct {
    uint32_t rx_task_prio;
} eth_mac_config_t;
typedef struct {
    int32_t phy_addr;
    uint32_t autonego_timeout_ms;
    int reset_gpio_num;
} eth_phy_config_t;
typedef struct {
    esp_eth_mac_t *mac;
    esp_eth_phy_t *phy;
} esp_eth_config_t;
typedef enum { ETH_CMD_S_MAC_ADDR = 1 } esp_eth_io_cmd_t;
extern esp_event_base_t const ETH_EVENT;
typedef enum { ETHERNET_EVENT_CONNECTED = 2, ETHERNET_EVENT_DISCONNECTED = 3 } eth_event_t;
typedef struct esp_eth_netif_glue_t *esp_eth_netif_glue_handle_t;
#define ETH_MAC_DEFAULT_CONFIG() {.rx_task_prio = 15}
#define ETH_PHY_DEFAULT_CONFIG() {.phy_addr = -1, .reset_gpio_num = 5}
#define ETH_DEFAULT_CONFIG(m, p) {.mac = (m), .phy = (p)}
#if CONFIG_ETH_USE_OPENETH
esp_eth_mac_t *esp_eth_mac_new_openeth(const eth_mac_config_t *config);
#endif
esp_eth_phy_t *esp_eth_phy_new_dp83848(const eth_phy_config_t *config);
esp_err_t esp_eth_driver_install(const esp_eth_config_t *config, esp_eth_handle_t *handle);
esp_err_t esp_eth_ioctl(esp_eth_handle_t handle, esp_eth_io_cmd_t command, void *data);
esp_err_t esp_eth_start(esp_eth_handle_t handle);
esp_err_t esp_eth_stop(esp_eth_handle_t handle);
esp_eth_netif_glue_handle_t esp_eth_new_netif_glue(esp_eth_handle_t handle);

/*@ lwip/sockets.h */
#ifdef __linux__
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/select.h>
#include <sys/socket.h>
#else
#include <stddef.h>
#include <stdint.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/types.h>
typedef uint32_t socklen_t;
typedef uint8_t sa_family_t;
typedef uint16_t in_port_t;
struct in_addr {
    uint32_t s_addr;
};
struct in6_addr {
    union {
        uint32_t u32_addr[4];
        uint8_t u8_addr[16];
    } un;
};
struct sockaddr {
    sa_family_t sa_family;
};
struct sockaddr_in6 {
    sa_family_t sin6_family;
    in_port_t sin6_port;
    struct in6_addr sin6_addr;
    uint32_t sin6_scope_id;
};
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOL_SOCKET 0xfff
#define SO_REUSEADDR 0x0004
#define SO_ERROR 0x1007
#define IPPROTO_TCP 6
#define IPPROTO_IPV6 41
#define IPV6_V6ONLY 27
#define TCP_NODELAY 0x01
#define MSG_DONTWAIT 0x08
#define htons(x) ((uint16_t)((((x) & 0xff) << 8) | (((x) >> 8) & 0xff)))
int socket(int domain, int type, int protocol);
int bind(int fd, const struct sockaddr *name, socklen_t len);
int listen(int fd, int backlog);
int accept(int fd, struct sockaddr *name, socklen_t *len);
int connect(int fd, const struct sockaddr *name, socklen_t len);
int getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int setsockopt(int fd, int level, int name, const void *value, socklen_t len);
ssize_t send(int fd, const void *data, size_t len, int flags);
ssize_t sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to, socklen_t to_len);
ssize_t recv(int fd, void *data, size_t len, int flags);
ssize_t recvfrom(int fd, void *data, size_t len, int flags, struct sockaddr *from, socklen_t *from_len);
int inet_pton(int family, const char *text, void *out);
#endif

/*@ os/os_mbuf.h */
#include <stdint.h>
struct os_mbuf {
    uint8_t *om_data;
    uint16_t om_len;
    struct {
        struct os_mbuf *sle_next;
    } om_next;
    uint16_t fake_packet_len;
};
#define SLIST_NEXT(element, field) ((element)->field.sle_next)
#define OS_MBUF_PKTLEN(om) ((om)->fake_packet_len)
int os_msys_count(void);
int os_msys_num_free(void);
int os_mbuf_copydata(const struct os_mbuf *om, int offset, int len, void *out);
int os_mbuf_append(struct os_mbuf *om, const void *data, uint16_t len);

/*@ host/ble_hs.h */
#include "os/os_mbuf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#define BLE_HS_FOREVER INT32_MAX
#define BLE_HS_EAGAIN 1
#define BLE_HS_ENOMEM 6
#define BLE_HS_ENOTCONN 7
#define BLE_HS_ETIMEOUT 13
#define BLE_HS_EDONE 14
#define BLE_HS_EBUSY 15
#define BLE_HS_ERR_ATT_BASE 0x100
#define BLE_HS_ATT_ERR(x) ((x) ? BLE_HS_ERR_ATT_BASE + (x) : 0)
#define BLE_HS_IO_DISPLAY_ONLY 0x00
#define BLE_HS_IO_KEYBOARD_ONLY 0x02
#define BLE_HS_IO_NO_INPUT_OUTPUT 0x03
#define BLE_ERR_REM_USER_CONN_TERM 0x13
#define BLE_HCI_ADV_RPT_EVTYPE_ADV_IND 0
typedef struct {
    uint8_t type;
    uint8_t val[6];
} ble_addr_t;
/* host/ble_uuid.h */
enum { BLE_UUID_TYPE_16 = 16, BLE_UUID_TYPE_128 = 128 };
typedef struct {
    uint8_t type;
} ble_uuid_t;
typedef struct {
    ble_uuid_t u;
    uint16_t value;
} ble_uuid16_t;
typedef struct {
    ble_uuid_t u;
    uint8_t value[16];
} ble_uuid128_t;
typedef union {
    ble_uuid_t u;
    ble_uuid16_t u16;
    ble_uuid128_t u128;
} ble_uuid_any_t;
#define BLE_UUID16_INIT(x) {.u = {.type = BLE_UUID_TYPE_16}, .value = (x)}
#define BLE_UUID128_INIT(...)                                                                                          \
    {                                                                                                                  \
        .u = {.type = BLE_UUID_TYPE_128}, .value = { __VA_ARGS__ }                                                     \
    }
int ble_uuid_cmp(const ble_uuid_t *a, const ble_uuid_t *b);
/* host/ble_att.h */
#define BLE_ATT_ERR_INSUFFICIENT_AUTHEN 0x05
#define BLE_ATT_ERR_INVALID_ATTR_VALUE_LEN 0x0d
#define BLE_ATT_ERR_UNLIKELY 0x0e
#define BLE_ATT_ERR_INSUFFICIENT_ENC 0x0f
#define BLE_ATT_ERR_INSUFFICIENT_RES 0x11
uint16_t ble_att_mtu(uint16_t conn_handle);
int ble_att_set_preferred_mtu(uint16_t mtu);
/* host/ble_hs_id.h, ble_hs_mbuf.h */
int ble_hs_id_infer_auto(int privacy, uint8_t *type);
struct os_mbuf *ble_hs_mbuf_from_flat(const void *data, uint16_t len);
/* host/ble_hs_adv.h */
#define BLE_HS_ADV_F_DISC_GEN 0x02
#define BLE_HS_ADV_F_BREDR_UNSUP 0x04
struct ble_hs_adv_fields {
    uint8_t flags;
    const ble_uuid128_t *uuids128;
    uint8_t num_uuids128;
    unsigned uuids128_is_complete : 1;
    const uint8_t *name;
    uint8_t name_len;
    unsigned name_is_complete : 1;
    const uint8_t *svc_data_uuid128;
    uint8_t svc_data_uuid128_len;
};
int ble_hs_adv_parse_fields(struct ble_hs_adv_fields *fields, const uint8_t *data, uint8_t len);
/* host/ble_gatt.h */
#define BLE_GATT_ACCESS_OP_READ_CHR 0
#define BLE_GATT_ACCESS_OP_WRITE_CHR 1
#define BLE_GATT_CHR_F_READ 0x0002
#define BLE_GATT_CHR_F_WRITE_NO_RSP 0x0004
#define BLE_GATT_CHR_F_WRITE 0x0008
#define BLE_GATT_CHR_F_NOTIFY 0x0010
#define BLE_GATT_CHR_F_READ_ENC 0x0200
#define BLE_GATT_CHR_F_READ_AUTHEN 0x0400
#define BLE_GATT_CHR_F_WRITE_ENC 0x1000
#define BLE_GATT_CHR_F_WRITE_AUTHEN 0x2000
#define BLE_GATT_SVC_TYPE_END 0
#define BLE_GATT_SVC_TYPE_PRIMARY 1
#define BLE_GATT_DSC_CLT_CFG_UUID16 0x2902
struct ble_gatt_error {
    uint16_t status;
};
struct ble_gatt_svc {
    uint16_t start_handle;
    uint16_t end_handle;
};
struct ble_gatt_attr {
    uint16_t handle;
    struct os_mbuf *om;
};
struct ble_gatt_chr {
    uint16_t def_handle;
    uint16_t val_handle;
    ble_uuid_any_t uuid;
};
struct ble_gatt_dsc {
    uint16_t handle;
    ble_uuid_any_t uuid;
};
struct ble_gatt_access_ctxt {
    uint8_t op;
    struct os_mbuf *om;
};
typedef int ble_gatt_access_fn(uint16_t conn_handle, uint16_t attr_handle, struct ble_gatt_access_ctxt *access,
                               void *arg);
typedef uint16_t ble_gatt_chr_flags;
struct ble_gatt_chr_def {
    const ble_uuid_t *uuid;
    ble_gatt_access_fn *access_cb;
    void *arg;
    ble_gatt_chr_flags flags;
    uint16_t *val_handle;
};
struct ble_gatt_svc_def {
    uint8_t type;
    const ble_uuid_t *uuid;
    const struct ble_gatt_chr_def *characteristics;
};
typedef int ble_gatt_mtu_fn(uint16_t conn_handle, const struct ble_gatt_error *error, uint16_t mtu, void *arg);
typedef int ble_gatt_disc_svc_fn(uint16_t conn_handle, const struct ble_gatt_error *error,
                                 const struct ble_gatt_svc *service, void *arg);
typedef int ble_gatt_chr_fn(uint16_t conn_handle, const struct ble_gatt_error *error, const struct ble_gatt_chr *chr,
                            void *arg);
typedef int ble_gatt_dsc_fn(uint16_t conn_handle, const struct ble_gatt_error *error, uint16_t chr_val_handle,
                            const struct ble_gatt_dsc *dsc, void *arg);
typedef int ble_gatt_attr_fn(uint16_t conn_handle, const struct ble_gatt_error *error, struct ble_gatt_attr *attr,
                             void *arg);
int ble_gatts_count_cfg(const struct ble_gatt_svc_def *services);
int ble_gatts_add_svcs(const struct ble_gatt_svc_def *services);
int ble_gatts_notify_custom(uint16_t conn_handle, uint16_t attr_handle, struct os_mbuf *om);
int ble_gattc_exchange_mtu(uint16_t conn_handle, ble_gatt_mtu_fn *cb, void *arg);
int ble_gattc_disc_svc_by_uuid(uint16_t conn_handle, const ble_uuid_t *uuid, ble_gatt_disc_svc_fn *cb, void *arg);
int ble_gattc_disc_all_chrs(uint16_t conn_handle, uint16_t first, uint16_t last, ble_gatt_chr_fn *cb, void *arg);
int ble_gattc_disc_all_dscs(uint16_t conn_handle, uint16_t first, uint16_t last, ble_gatt_dsc_fn *cb, void *arg);
int ble_gattc_read_long(uint16_t conn_handle, uint16_t handle, uint16_t offset, ble_gatt_attr_fn *cb, void *arg);
int ble_gattc_write_flat(uint16_t conn_handle, uint16_t handle, const void *data, uint16_t len, ble_gatt_attr_fn *cb,
                         void *arg);
int ble_gattc_write_no_rsp_flat(uint16_t conn_handle, uint16_t handle, const void *data, uint16_t len);
/* host/ble_gap.h */
#define BLE_GAP_CONN_MODE_UND 2
#define BLE_GAP_DISC_MODE_GEN 2
#define BLE_GAP_LE_PHY_1M 1
#define BLE_GAP_LE_PHY_2M 2
#define BLE_GAP_LE_PHY_2M_MASK 0x02
#define BLE_GAP_LE_PHY_CODED_ANY 0
#define BLE_GAP_EVENT_CONNECT 0
#define BLE_GAP_EVENT_DISCONNECT 1
#define BLE_GAP_EVENT_CONN_UPDATE 3
#define BLE_GAP_EVENT_DISC 7
#define BLE_GAP_EVENT_ADV_COMPLETE 9
#define BLE_GAP_EVENT_ENC_CHANGE 10
#define BLE_GAP_EVENT_PASSKEY_ACTION 11
#define BLE_GAP_EVENT_NOTIFY_RX 12
#define BLE_GAP_EVENT_NOTIFY_TX 13
#define BLE_GAP_EVENT_SUBSCRIBE 14
#define BLE_GAP_EVENT_REPEAT_PAIRING 17
#define BLE_GAP_EVENT_PHY_UPDATE_COMPLETE 18
#define BLE_GAP_EVENT_DATA_LEN_CHG 34
struct ble_gap_adv_params {
    uint8_t conn_mode;
    uint8_t disc_mode;
    uint16_t itvl_min;
    uint16_t itvl_max;
};
#define BLE_GAP_REPEAT_PAIRING_RETRY 1
#define BLE_GAP_REPEAT_PAIRING_IGNORE 2
struct ble_gap_sec_state {
    unsigned encrypted : 1;
    unsigned authenticated : 1;
};
struct ble_gap_passkey_params {
    uint8_t action;
};
struct ble_gap_repeat_pairing {
    uint16_t conn_handle;
};
struct ble_gap_conn_desc {
    struct ble_gap_sec_state sec_state;
    ble_addr_t peer_id_addr;
    uint16_t conn_itvl;
    uint16_t conn_latency;
    uint16_t supervision_timeout;
};
struct ble_gap_conn_params {
    uint16_t scan_itvl;
    uint16_t scan_window;
    uint16_t itvl_min;
    uint16_t itvl_max;
    uint16_t latency;
    uint16_t supervision_timeout;
};
struct ble_gap_upd_params {
    uint16_t itvl_min;
    uint16_t itvl_max;
    uint16_t latency;
    uint16_t supervision_timeout;
};
struct ble_gap_disc_params {
    uint16_t itvl;
    uint16_t window;
    uint8_t passive : 1;
};
struct ble_gap_disc_desc {
    uint8_t event_type;
    uint8_t length_data;
    ble_addr_t addr;
    const uint8_t *data;
};
struct ble_gap_event {
    uint8_t type;
    union {
        struct {
            int status;
            uint16_t conn_handle;
        } connect;
        struct {
            int reason;
            struct ble_gap_conn_desc conn;
        } disconnect;
        struct ble_gap_disc_desc disc;
        struct {
            int reason;
        } adv_complete;
        struct {
            int status;
            uint16_t conn_handle;
        } enc_change;
        struct {
            struct ble_gap_passkey_params params;
            uint16_t conn_handle;
        } passkey;
        struct ble_gap_repeat_pairing repeat_pairing;
        struct {
            struct os_mbuf *om;
            uint16_t attr_handle;
        } notify_rx;
        struct {
            uint16_t conn_handle;
            uint16_t attr_handle;
            uint8_t cur_notify : 1;
        } subscribe;
        struct {
            uint16_t max_tx_octets;
            uint16_t max_rx_octets;
        } data_len_chg;
    };
};
typedef int ble_gap_event_fn(struct ble_gap_event *event, void *arg);
int ble_gap_adv_set_fields(const struct ble_hs_adv_fields *fields);
int ble_gap_adv_rsp_set_fields(const struct ble_hs_adv_fields *fields);
int ble_gap_adv_start(uint8_t own_type, const ble_addr_t *direct, int32_t ms, const struct ble_gap_adv_params *params,
                      ble_gap_event_fn *cb, void *arg);
int ble_gap_adv_stop(void);
int ble_gap_adv_active(void);
int ble_gap_disc(uint8_t own_type, int32_t ms, const struct ble_gap_disc_params *params, ble_gap_event_fn *cb,
                 void *arg);
int ble_gap_disc_cancel(void);
int ble_gap_disc_active(void);
int ble_gap_connect(uint8_t own_type, const ble_addr_t *peer, int32_t ms, const struct ble_gap_conn_params *params,
                    ble_gap_event_fn *cb, void *arg);
int ble_gap_conn_active(void);
int ble_gap_security_initiate(uint16_t conn_handle);
int ble_gap_terminate(uint16_t conn_handle, uint8_t reason);
int ble_gap_conn_find(uint16_t conn_handle, struct ble_gap_conn_desc *desc);
int ble_gap_conn_rssi(uint16_t conn_handle, int8_t *rssi);
int ble_gap_update_params(uint16_t conn_handle, const struct ble_gap_upd_params *params);
int ble_gap_set_data_len(uint16_t conn_handle, uint16_t octets, uint16_t us);
int ble_gap_set_prefered_le_phy(uint16_t conn_handle, uint8_t tx, uint8_t rx, uint16_t options);
int ble_gap_read_le_phy(uint16_t conn_handle, uint8_t *tx, uint8_t *rx);
/* host/ble_sm.h */
#define BLE_SM_PAIR_KEY_DIST_ENC 0x01
#define BLE_SM_PAIR_KEY_DIST_ID 0x02
#define BLE_SM_IOACT_INPUT 2
#define BLE_SM_IOACT_DISP 3
struct ble_sm_io {
    uint8_t action;
    union {
        uint32_t passkey;
    };
};
int ble_sm_inject_io(uint16_t conn_handle, struct ble_sm_io *io);
/* host/ble_store.h */
struct ble_store_status_event;
typedef int ble_store_status_fn(struct ble_store_status_event *event, void *arg);
int ble_store_util_status_rr(struct ble_store_status_event *event, void *arg);
int ble_store_util_delete_peer(const ble_addr_t *peer);
typedef void ble_hs_reset_fn(int reason);
typedef void ble_hs_sync_fn(void);
struct ble_hs_cfg {
    uint8_t sm_io_cap;
    unsigned sm_bonding : 1;
    unsigned sm_mitm : 1;
    unsigned sm_sc : 1;
    uint8_t sm_our_key_dist;
    uint8_t sm_their_key_dist;
    ble_hs_reset_fn *reset_cb;
    ble_hs_sync_fn *sync_cb;
    ble_store_status_fn *store_status_cb;
};
extern struct ble_hs_cfg ble_hs_cfg;

/*@ host/util/util.h */
int ble_hs_util_ensure_addr(int prefer_random);

/*@ services/gap/ble_svc_gap.h */
void ble_svc_gap_init(void);
int ble_svc_gap_device_name_set(const char *name);

/*@ services/gatt/ble_svc_gatt.h */
void ble_svc_gatt_init(void);

/*@ nimble/nimble_port.h */
#include "esp_err.h"
esp_err_t nimble_port_init(void);
esp_err_t nimble_port_deinit(void);
void nimble_port_run(void);
int nimble_port_stop(void);

/*@ nimble/nimble_port_freertos.h */
#include "freertos/FreeRTOS.h"
void nimble_port_freertos_init(TaskFunction_t task);
void nimble_port_freertos_deinit(void);

/*@ esp_log.h */
#include <stdarg.h>
#include <stdint.h>
typedef enum {
    ESP_LOG_NONE,
    ESP_LOG_ERROR,
    ESP_LOG_WARN,
    ESP_LOG_INFO,
    ESP_LOG_DEBUG,
    ESP_LOG_VERBOSE
} esp_log_level_t;
typedef int (*vprintf_like_t)(const char *format, va_list arguments);
vprintf_like_t esp_log_set_vprintf(vprintf_like_t function);
void esp_log_write(esp_log_level_t level, const char *tag, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define ESP_LOGE(tag, ...) esp_log_write(ESP_LOG_ERROR, tag, __VA_ARGS__)
#define ESP_LOGW(tag, ...) esp_log_write(ESP_LOG_WARN, tag, __VA_ARGS__)
#define ESP_LOGI(tag, ...) esp_log_write(ESP_LOG_INFO, tag, __VA_ARGS__)

/*@ esp_system.h */
#include "esp_err.h"
typedef enum {
    ESP_RST_POWERON = 1,
    ESP_RST_EXT = 2,
    ESP_RST_SW = 3,
    ESP_RST_PANIC = 4,
    ESP_RST_INT_WDT = 5,
    ESP_RST_TASK_WDT = 6,
    ESP_RST_WDT = 7,
    ESP_RST_DEEPSLEEP = 8,
    ESP_RST_BROWNOUT = 9,
    ESP_RST_USB = 11
} esp_reset_reason_t;
esp_reset_reason_t esp_reset_reason(void);
typedef void (*shutdown_handler_t)(void);
esp_err_t esp_register_shutdown_handler(shutdown_handler_t handle);
void esp_restart(void) __attribute__((noreturn));

/*@ esp_heap_caps.h */
#include <stddef.h>
#include <stdint.h>
#define MALLOC_CAP_8BIT (1 << 2)
#define MALLOC_CAP_SPIRAM (1 << 10)
#define MALLOC_CAP_INTERNAL (1 << 11)
#define MALLOC_CAP_DEFAULT (1 << 12)
void *heap_caps_aligned_alloc(size_t alignment, size_t size, uint32_t caps);
void *heap_caps_aligned_calloc(size_t alignment, size_t count, size_t size, uint32_t caps);
void *heap_caps_calloc_prefer(size_t count, size_t size, size_t choices, ...);
void heap_caps_free(void *block);
size_t heap_caps_get_free_size(uint32_t caps);
size_t heap_caps_get_minimum_free_size(uint32_t caps);
size_t heap_caps_get_total_size(uint32_t caps);
size_t heap_caps_get_largest_free_block(uint32_t caps);

/*@ esp_app_desc.h */
typedef struct {
    char version[32];
    char idf_ver[32];
} esp_app_desc_t;
const esp_app_desc_t *esp_app_get_description(void);

/*@ esp_partition.h */
#include "esp_err.h"
#include <stddef.h>
typedef enum { ESP_PARTITION_TYPE_APP = 0, ESP_PARTITION_TYPE_DATA = 1 } esp_partition_type_t;
typedef enum { ESP_PARTITION_SUBTYPE_DATA_OTA = 0x00 } esp_partition_subtype_t;
typedef enum { ESP_PARTITION_MMAP_DATA = 0 } esp_partition_mmap_memory_t;
typedef uint32_t esp_partition_mmap_handle_t;
typedef struct {
    uint32_t size;
} esp_partition_t;
const esp_partition_t *esp_partition_find_first(esp_partition_type_t type, esp_partition_subtype_t subtype,
                                                const char *label);
esp_err_t esp_partition_read(const esp_partition_t *partition, size_t offset, void *out, size_t len);
esp_err_t esp_partition_write(const esp_partition_t *partition, size_t offset, const void *data, size_t len);
esp_err_t esp_partition_erase_range(const esp_partition_t *partition, size_t offset, size_t len);
esp_err_t esp_partition_mmap(const esp_partition_t *partition, size_t offset, size_t len,
                             esp_partition_mmap_memory_t memory, const void **out, esp_partition_mmap_handle_t *handle);
void esp_partition_munmap(esp_partition_mmap_handle_t handle);

/*@ esp_ota_ops.h */
#include "esp_partition.h"
#define OTA_WITH_SEQUENTIAL_WRITES 0xfffffffe
typedef uint32_t esp_ota_handle_t;
typedef enum { ESP_OTA_IMG_PENDING_VERIFY = 0x1U, ESP_OTA_IMG_UNDEFINED = 0xFFFFFFFFU } esp_ota_img_states_t;
const esp_partition_t *esp_ota_get_next_update_partition(const esp_partition_t *from);
esp_err_t esp_ota_begin(const esp_partition_t *partition, size_t len, esp_ota_handle_t *handle);
esp_err_t esp_ota_write(esp_ota_handle_t handle, const void *data, size_t len);
esp_err_t esp_ota_end(esp_ota_handle_t handle);
esp_err_t esp_ota_abort(esp_ota_handle_t handle);
esp_err_t esp_ota_set_boot_partition(const esp_partition_t *partition);
const esp_partition_t *esp_ota_get_running_partition(void);
esp_err_t esp_ota_get_state_partition(const esp_partition_t *partition, esp_ota_img_states_t *state);
esp_err_t esp_ota_mark_app_valid_cancel_rollback(void);
esp_err_t esp_ota_mark_app_invalid_rollback_and_reboot(void);

/*@ esp_pm.h */
#include "esp_err.h"
#include <stdbool.h>
typedef struct {
    int max_freq_mhz;
    int min_freq_mhz;
    bool light_sleep_enable;
} esp_pm_config_t;
typedef enum { ESP_PM_CPU_FREQ_MAX = 0 } esp_pm_lock_type_t;
typedef struct esp_pm_lock *esp_pm_lock_handle_t;
esp_err_t esp_pm_configure(const void *config);
esp_err_t esp_pm_lock_create(esp_pm_lock_type_t type, int arg, const char *name, esp_pm_lock_handle_t *lock);
esp_err_t esp_pm_lock_acquire(esp_pm_lock_handle_t lock);
esp_err_t esp_pm_lock_release(esp_pm_lock_handle_t lock);

/*@ nvs.h */
#include "esp_err.h"
#include <stddef.h>
#define ESP_ERR_NVS_NOT_FOUND 0x1102
#define ESP_ERR_NVS_NO_FREE_PAGES 0x110d
#define ESP_ERR_NVS_NEW_VERSION_FOUND 0x1110
typedef uint32_t nvs_handle_t;
typedef enum { NVS_READONLY, NVS_READWRITE } nvs_open_mode_t;
esp_err_t nvs_open(const char *space, nvs_open_mode_t mode, nvs_handle_t *handle);
void nvs_close(nvs_handle_t handle);
esp_err_t nvs_commit(nvs_handle_t handle);
esp_err_t nvs_erase_key(nvs_handle_t handle, const char *key);
esp_err_t nvs_get_u32(nvs_handle_t handle, const char *key, uint32_t *out);
esp_err_t nvs_set_u32(nvs_handle_t handle, const char *key, uint32_t value);
esp_err_t nvs_get_str(nvs_handle_t handle, const char *key, char *out, size_t *len);
esp_err_t nvs_set_str(nvs_handle_t handle, const char *key, const char *value);
esp_err_t nvs_get_blob(nvs_handle_t handle, const char *key, void *out, size_t *len);
esp_err_t nvs_set_blob(nvs_handle_t handle, const char *key, const void *value, size_t len);

/*@ nvs_flash.h */
#include "nvs.h"
esp_err_t nvs_flash_init(void);
esp_err_t nvs_flash_erase(void);

/*@ driver/gpio.h */
#include "esp_err.h"
typedef enum { GPIO_NUM_NC = -1, GPIO_NUM_48 = 48 } gpio_num_t;
typedef enum { GPIO_MODE_OUTPUT = 2 } gpio_mode_t;
typedef struct {
    uint64_t pin_bit_mask;
    gpio_mode_t mode;
} gpio_config_t;
#define GPIO_IS_VALID_OUTPUT_GPIO(pin) ((pin) >= 0 && (pin) <= 48 && !((pin) >= 22 && (pin) <= 25))
esp_err_t gpio_config(const gpio_config_t *config);
esp_err_t gpio_set_level(gpio_num_t pin, uint32_t level);

/*@ driver/uart.h */
#include "esp_err.h"
#include "freertos/queue.h"
#include <stddef.h>
typedef enum { UART_NUM_0 = 0, UART_NUM_1 = 1 } uart_port_t;
esp_err_t uart_driver_install(uart_port_t port, int rx_bytes, int tx_bytes, int events, QueueHandle_t *queue,
                              int flags);
esp_err_t uart_set_baudrate(uart_port_t port, uint32_t baud);
esp_err_t uart_get_buffered_data_len(uart_port_t port, size_t *len);
esp_err_t uart_get_tx_buffer_free_size(uart_port_t port, size_t *len);
int uart_read_bytes(uart_port_t port, void *out, uint32_t len, TickType_t ticks);
int uart_write_bytes(uart_port_t port, const void *data, size_t len);

/*@ driver/uart_vfs.h */
void uart_vfs_dev_use_driver(int port);

/*@ driver/usb_serial_jtag.h */
#include "esp_err.h"
#include "freertos/FreeRTOS.h"
#include <stdbool.h>
#include <stddef.h>
typedef struct {
    uint32_t tx_buffer_size;
    uint32_t rx_buffer_size;
} usb_serial_jtag_driver_config_t;
esp_err_t usb_serial_jtag_driver_install(usb_serial_jtag_driver_config_t *config);
bool usb_serial_jtag_is_connected(void);
int usb_serial_jtag_read_bytes(void *out, uint32_t len, TickType_t ticks);
int usb_serial_jtag_write_bytes(const void *data, size_t len, TickType_t ticks);

/*@ driver/temperature_sensor.h */
#include "esp_err.h"
typedef enum { TEMPERATURE_SENSOR_CLK_SRC_DEFAULT = 12 } temperature_sensor_clk_src_t;
typedef struct {
    int range_min;
    int range_max;
    temperature_sensor_clk_src_t clk_src;
} temperature_sensor_config_t;
typedef struct temperature_sensor_obj_t *temperature_sensor_handle_t;
#define TEMPERATURE_SENSOR_CONFIG_DEFAULT(min, max)                                                                    \
    {.range_min = min, .range_max = max, .clk_src = TEMPERATURE_SENSOR_CLK_SRC_DEFAULT}
esp_err_t temperature_sensor_install(const temperature_sensor_config_t *config, temperature_sensor_handle_t *sensor);
esp_err_t temperature_sensor_enable(temperature_sensor_handle_t sensor);
esp_err_t temperature_sensor_get_celsius(temperature_sensor_handle_t sensor, float *celsius);

/*@ driver/i2c_master.h */
#include "driver/gpio.h"
#include <stddef.h>
typedef int i2c_port_num_t;
typedef enum { I2C_CLK_SRC_DEFAULT = 11 } i2c_clock_source_t;
typedef enum { I2C_ADDR_BIT_LEN_7 = 0 } i2c_addr_bit_len_t;
typedef struct {
    i2c_port_num_t i2c_port;
    gpio_num_t sda_io_num;
    gpio_num_t scl_io_num;
    union {
        i2c_clock_source_t clk_source;
    };
    uint8_t glitch_ignore_cnt;
    struct {
        uint32_t enable_internal_pullup : 1;
    } flags;
} i2c_master_bus_config_t;
typedef struct {
    i2c_addr_bit_len_t dev_addr_length;
    uint16_t device_address;
    uint32_t scl_speed_hz;
} i2c_device_config_t;
typedef struct i2c_master_bus_t *i2c_master_bus_handle_t;
typedef struct i2c_master_dev_t *i2c_master_dev_handle_t;
esp_err_t i2c_new_master_bus(const i2c_master_bus_config_t *config, i2c_master_bus_handle_t *bus);
esp_err_t i2c_master_bus_add_device(i2c_master_bus_handle_t bus, const i2c_device_config_t *config,
                                    i2c_master_dev_handle_t *device);
esp_err_t i2c_master_probe(i2c_master_bus_handle_t bus, uint16_t address, int timeout_ms);
esp_err_t i2c_master_transmit(i2c_master_dev_handle_t device, const uint8_t *data, size_t len, int timeout_ms);
esp_err_t i2c_master_transmit_receive(i2c_master_dev_handle_t device, const uint8_t *data, size_t len, uint8_t *out,
                                      size_t out_len, int timeout_ms);

/*@ esp_crt_bundle.h */
#include "esp_err.h"
esp_err_t esp_crt_bundle_attach(void *config);

/*@ esp_http_client.h */
#include "esp_err.h"
typedef struct esp_http_client *esp_http_client_handle_t;
typedef struct {
    const char *url;
    const char *cert_pem;
    int timeout_ms;
    esp_err_t (*crt_bundle_attach)(void *config);
} esp_http_client_config_t;
esp_http_client_handle_t esp_http_client_init(const esp_http_client_config_t *config);
esp_err_t esp_http_client_set_header(esp_http_client_handle_t client, const char *name, const char *value);
esp_err_t esp_http_client_open(esp_http_client_handle_t client, int body_len);
int64_t esp_http_client_fetch_headers(esp_http_client_handle_t client);
int esp_http_client_get_status_code(esp_http_client_handle_t client);
int esp_http_client_read(esp_http_client_handle_t client, char *out, int len);
esp_err_t esp_http_client_cleanup(esp_http_client_handle_t client);

/*@ mqtt_client.h */
#include "esp_event.h"
#include <stdbool.h>
typedef struct esp_mqtt_client *esp_mqtt_client_handle_t;
typedef enum {
    MQTT_EVENT_ANY = -1,
    MQTT_EVENT_ERROR = 0,
    MQTT_EVENT_CONNECTED = 1,
    MQTT_EVENT_DISCONNECTED = 2,
    MQTT_EVENT_SUBSCRIBED = 3,
    MQTT_EVENT_DATA = 6
} esp_mqtt_event_id_t;
typedef enum {
    MQTT_ERROR_TYPE_NONE = 0,
    MQTT_ERROR_TYPE_CONNECTION_REFUSED = 2,
    MQTT_ERROR_TYPE_SUBSCRIBE_FAILED = 3
} esp_mqtt_error_type_t;
typedef enum { MQTT_CONNECTION_ACCEPTED = 0 } esp_mqtt_connect_return_code_t;
typedef struct esp_mqtt_error_codes {
    esp_err_t esp_tls_last_esp_err;
    int esp_tls_cert_verify_flags;
    esp_mqtt_error_type_t error_type;
    esp_mqtt_connect_return_code_t connect_return_code;
} esp_mqtt_error_codes_t;
typedef struct esp_mqtt_event_t {
    char *data;
    int data_len;
    int total_data_len;
    int current_data_offset;
    char *topic;
    int topic_len;
    esp_mqtt_error_codes_t *error_handle;
    bool retain;
} esp_mqtt_event_t;
typedef struct esp_mqtt_client_config_t {
    struct {
        struct {
            const char *uri;
        } address;
        struct {
            esp_err_t (*crt_bundle_attach)(void *config);
            const char *certificate;
        } verification;
    } broker;
    struct {
        const char *username;
        const char *client_id;
        struct {
            const char *password;
        } authentication;
    } credentials;
    struct {
        struct {
            const char *topic;
            const char *msg;
            int qos;
            int retain;
        } last_will;
        int keepalive;
    } session;
    struct {
        int reconnect_timeout_ms;
        int timeout_ms;
    } network;
    struct {
        int priority;
        int stack_size;
    } task;
    struct {
        int size;
        int out_size;
    } buffer;
    struct {
        uint64_t limit;
    } outbox;
} esp_mqtt_client_config_t;
esp_mqtt_client_handle_t esp_mqtt_client_init(const esp_mqtt_client_config_t *config);
esp_err_t esp_mqtt_client_start(esp_mqtt_client_handle_t client);
esp_err_t esp_mqtt_client_register_event(esp_mqtt_client_handle_t client, esp_mqtt_event_id_t event,
                                         esp_event_handler_t handler, void *arg);
int esp_mqtt_client_subscribe_single(esp_mqtt_client_handle_t client, const char *topic, int qos);
int esp_mqtt_client_publish(esp_mqtt_client_handle_t client, const char *topic, const char *data, int len, int qos,
                            int retain);
int esp_mqtt_client_enqueue(esp_mqtt_client_handle_t client, const char *topic, const char *data, int len, int qos,
                            int retain, bool store);

/*@ cJSON.h */
#include <stddef.h>
typedef int cJSON_bool;
typedef struct cJSON {
    struct cJSON *next;
    struct cJSON *child;
    char *valuestring;
    double valuedouble;
    char *string;
} cJSON;
#define cJSON_ArrayForEach(element, array)                                                                             \
    for (element = (array) != NULL ? (array)->child : NULL; element != NULL; element = element->next)
cJSON *cJSON_ParseWithLengthOpts(const char *text, size_t len, const char **end, cJSON_bool terminated);
char *cJSON_PrintUnformatted(const cJSON *item);
cJSON_bool cJSON_PrintPreallocated(cJSON *item, char *out, const int len, const cJSON_bool formatted);
void cJSON_Delete(cJSON *item);
void cJSON_free(void *block);
cJSON *cJSON_GetObjectItemCaseSensitive(const cJSON *const object, const char *const name);
cJSON_bool cJSON_IsBool(const cJSON *const item);
cJSON_bool cJSON_IsTrue(const cJSON *const item);
cJSON_bool cJSON_IsNull(const cJSON *const item);
cJSON_bool cJSON_IsNumber(const cJSON *const item);
cJSON_bool cJSON_IsString(const cJSON *const item);
cJSON_bool cJSON_IsArray(const cJSON *const item);
cJSON_bool cJSON_IsObject(const cJSON *const item);
int cJSON_GetArraySize(const cJSON *array);
cJSON *cJSON_CreateObject(void);
cJSON *cJSON_CreateArray(void);
cJSON *cJSON_CreateNumber(double value);
cJSON *cJSON_CreateString(const char *value);
cJSON *cJSON_CreateStringReference(const char *value);
cJSON_bool cJSON_AddItemToArray(cJSON *array, cJSON *item);
cJSON_bool cJSON_AddItemToObject(cJSON *object, const char *name, cJSON *item);
cJSON *cJSON_AddNullToObject(cJSON *const object, const char *const name);
cJSON *cJSON_AddTrueToObject(cJSON *const object, const char *const name);
cJSON *cJSON_AddFalseToObject(cJSON *const object, const char *const name);
cJSON *cJSON_AddBoolToObject(cJSON *const object, const char *const name, const cJSON_bool value);
cJSON *cJSON_AddNumberToObject(cJSON *const object, const char *const name, const double value);
cJSON *cJSON_AddStringToObject(cJSON *const object, const char *const name, const char *const value);
cJSON *cJSON_AddRawToObject(cJSON *const object, const char *const name, const char *const raw);
cJSON *cJSON_AddObjectToObject(cJSON *const object, const char *const name);
cJSON *cJSON_AddArrayToObject(cJSON *const object, const char *const name);

/*@ mbedtls/base64.h */
#include <stddef.h>
int mbedtls_base64_encode(unsigned char *out, size_t room, size_t *len, const unsigned char *data, size_t data_len);
int mbedtls_base64_decode(unsigned char *out, size_t room, size_t *len, const unsigned char *text, size_t text_len);

/*@ mbedtls/sha256.h */
#include <stddef.h>
#include <stdint.h>
typedef struct {
    void *fake[64];
} mbedtls_sha256_context;
void mbedtls_sha256_init(mbedtls_sha256_context *context);
void mbedtls_sha256_free(mbedtls_sha256_context *context);
int mbedtls_sha256_starts(mbedtls_sha256_context *context, int is224);
int mbedtls_sha256_update(mbedtls_sha256_context *context, const unsigned char *data, size_t len);
int mbedtls_sha256_finish(mbedtls_sha256_context *context, unsigned char *digest);

/*@ mbedtls/ecp.h */
#include <stddef.h>
#include <stdint.h>
typedef struct mbedtls_mpi {
    void *fake[4];
} mbedtls_mpi;
typedef struct mbedtls_ecp_point {
    void *fake[16];
} mbedtls_ecp_point;
typedef struct mbedtls_ecp_group {
    void *fake[64];
} mbedtls_ecp_group;
typedef enum { MBEDTLS_ECP_DP_SECP256R1 = 3 } mbedtls_ecp_group_id;
void mbedtls_mpi_init(mbedtls_mpi *number);
void mbedtls_mpi_free(mbedtls_mpi *number);
int mbedtls_mpi_read_binary(mbedtls_mpi *number, const unsigned char *data, size_t len);
void mbedtls_ecp_group_init(mbedtls_ecp_group *group);
void mbedtls_ecp_group_free(mbedtls_ecp_group *group);
int mbedtls_ecp_group_load(mbedtls_ecp_group *group, mbedtls_ecp_group_id id);
void mbedtls_ecp_point_init(mbedtls_ecp_point *point);
void mbedtls_ecp_point_free(mbedtls_ecp_point *point);
int mbedtls_ecp_point_read_binary(const mbedtls_ecp_group *group, mbedtls_ecp_point *point, const unsigned char *data,
                                  size_t len);
int mbedtls_ecp_check_pubkey(const mbedtls_ecp_group *group, const mbedtls_ecp_point *point);

/*@ mbedtls/ecdsa.h */
#include "mbedtls/ecp.h"
int mbedtls_ecdsa_verify(mbedtls_ecp_group *group, const unsigned char *digest, size_t len,
                         const mbedtls_ecp_point *key, const mbedtls_mpi *r, const mbedtls_mpi *s);

/*@ esp_nn.h */
#include <stdint.h>
typedef struct data_dims {
    int32_t width;
    int32_t height;
    int32_t channels;
} data_dims_t;
typedef struct data_2d {
    int32_t width;
    int32_t height;
} data_2d_t;
typedef struct dw_conv_params {
    int32_t ch_mult;
    data_2d_t stride;
    data_2d_t padding;
} dw_conv_params_t;

/*@ new */
/* C++: no C++ library comes with picolibc. */
#include <stddef.h>
inline void *operator new(size_t, void *place) noexcept {
    return place;
}

/*@ cstdint */
#include <stdint.h>

/*@ tensorflow/lite/c/common.h */
/* esp-tflite-micro. Its C++ is held against the real headers by compiling the engine with them. */
#include <stddef.h>
#include <stdint.h>
typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;
typedef enum { kTfLiteNoType = 0, kTfLiteInt16 = 7, kTfLiteInt8 = 9 } TfLiteType;
typedef enum { kTfLiteActNone = 0 } TfLiteFusedActivation;
struct TfLiteIntArray {
    int size;
};
union TfLitePtrUnion {
    char *raw;
    void *data;
};
struct TfLiteTensor {
    TfLiteType type;
    TfLitePtrUnion data;
    size_t bytes;
};
struct TfLiteEvalTensor {
    TfLitePtrUnion data;
    TfLiteType type;
};
struct TfLiteNode {
    TfLiteIntArray *inputs;
    void *user_data;
    void *builtin_data;
};
struct TfLiteContext {
    void *(*AllocatePersistentBuffer)(TfLiteContext *context, size_t bytes);
    TfLiteEvalTensor *(*GetEvalTensor)(const TfLiteContext *context, int index);
};

/*@ tensorflow/lite/c/builtin_op_data.h */
#include "tensorflow/lite/c/common.h"
struct TfLiteConvParams {
    TfLiteFusedActivation activation;
};
struct TfLiteDepthwiseConvParams {
    TfLiteFusedActivation activation;
};
struct TfLitePoolParams {
    TfLiteFusedActivation activation;
};
struct TfLiteFullyConnectedParams {
    TfLiteFusedActivation activation;
};

/*@ tensorflow/lite/kernels/internal/types.h */
#include <stdint.h>
namespace tflite {
class RuntimeShape {};
struct ArithmeticParams {
    int32_t input1_offset, input2_offset, output_offset, output_multiplier;
    int output_shift, left_shift;
    int32_t input1_multiplier;
    int input1_shift;
    int32_t input2_multiplier;
    int input2_shift;
    int32_t quantized_activation_min, quantized_activation_max;
};
struct ConvParams {};
struct DepthwiseParams {};
struct FullyConnectedParams {};
struct SoftmaxParams {};
} // namespace tflite

/*@ tensorflow/lite/kernels/internal/reference/add.h */
#include "tensorflow/lite/kernels/internal/types.h"

/*@ tensorflow/lite/kernels/internal/reference/process_broadcast_shapes.h */
#include "tensorflow/lite/kernels/internal/types.h"
namespace tflite {
namespace reference_ops {
bool ProcessBroadcastShapes(const RuntimeShape &a, const RuntimeShape &b, ArithmeticParams *params);
} // namespace reference_ops
} // namespace tflite

/*@ tensorflow/lite/kernels/internal/reference/integer_ops/add.h */
#include "tensorflow/lite/kernels/internal/types.h"
namespace tflite {
namespace reference_integer_ops {
void Add(const ArithmeticParams &params, const RuntimeShape &shape1, const int8_t *data1, const RuntimeShape &shape2,
         const int8_t *data2, const RuntimeShape &out_shape, int8_t *out);
void BroadcastAdd4DSlow(const ArithmeticParams &params, const RuntimeShape &shape1, const int8_t *data1,
                        const RuntimeShape &shape2, const int8_t *data2, const RuntimeShape &out_shape, int8_t *out);
} // namespace reference_integer_ops
} // namespace tflite

/*@ tensorflow/lite/kernels/internal/reference/integer_ops/conv.h */
#include "tensorflow/lite/kernels/internal/types.h"
namespace tflite {
namespace reference_integer_ops {
void ConvPerChannel(const ConvParams &params, const int32_t *multiplier, const int32_t *shift,
                    const RuntimeShape &shape, const int8_t *data, const RuntimeShape &filter_shape,
                    const int8_t *filter, const RuntimeShape &bias_shape, const int32_t *bias,
                    const RuntimeShape &out_shape, int8_t *out);
} // namespace reference_integer_ops
} // namespace tflite

/*@ tensorflow/lite/kernels/internal/reference/integer_ops/depthwise_conv.h */
#include "tensorflow/lite/kernels/internal/types.h"
namespace tflite {
namespace reference_integer_ops {
void DepthwiseConvPerChannel(const DepthwiseParams &params, const int32_t *multiplier, const int32_t *shift,
                             const RuntimeShape &shape, const int8_t *data, const RuntimeShape &filter_shape,
                             const int8_t *filter, const RuntimeShape &bias_shape, const int32_t *bias,
                             const RuntimeShape &out_shape, int8_t *out);
} // namespace reference_integer_ops
} // namespace tflite

/*@ tensorflow/lite/kernels/internal/reference/integer_ops/fully_connected.h */
#include "tensorflow/lite/kernels/internal/types.h"
namespace tflite {
namespace reference_integer_ops {
template <typename InputType, typename WeightType, typename OutputType, typename BiasType>
void FullyConnected(const FullyConnectedParams &params, const RuntimeShape &shape, const InputType *data,
                    const RuntimeShape &filter_shape, const WeightType *filter, const RuntimeShape &bias_shape,
                    const BiasType *bias, const RuntimeShape &out_shape, OutputType *out);
template <typename InputType, typename WeightType, typename OutputType, typename BiasType>
void FullyConnectedPerChannel(const FullyConnectedParams &params, const int32_t *multiplier, const int *shift,
                              const RuntimeShape &shape, const InputType *data, const RuntimeShape &filter_shape,
                              const WeightType *filter, const RuntimeShape &bias_shape, const BiasType *bias,
                              const RuntimeShape &out_shape, OutputType *out);
} // namespace reference_integer_ops
} // namespace tflite

/*@ tensorflow/lite/kernels/internal/reference/softmax.h */
#include "tensorflow/lite/kernels/internal/types.h"
namespace tflite {
namespace reference_ops {
template <typename InputT, typename OutputT>
void Softmax(const SoftmaxParams &params, const RuntimeShape &shape, const InputT *data, const RuntimeShape &out_shape,
             OutputT *out);
} // namespace reference_ops
} // namespace tflite

/*@ tensorflow/lite/micro/kernels/kernel_util.h */
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/kernels/internal/types.h"
struct TFLMRegistration {
    void *(*init)(TfLiteContext *context, const char *buffer, size_t len);
};
namespace tflite {
namespace micro {
const TfLiteEvalTensor *GetEvalInput(const TfLiteContext *context, const TfLiteNode *node, int index);
TfLiteEvalTensor *GetEvalOutput(const TfLiteContext *context, const TfLiteNode *node, int index);
template <typename T> T *GetTensorData(TfLiteEvalTensor *tensor);
template <typename T> const T *GetTensorData(const TfLiteEvalTensor *tensor);
template <typename T> const T *GetOptionalTensorData(const TfLiteEvalTensor *tensor);
const RuntimeShape GetTensorShape(const TfLiteEvalTensor *tensor);
TFLMRegistration RegisterOp(void *(*init)(TfLiteContext *context, const char *buffer, size_t len),
                            TfLiteStatus (*prepare)(TfLiteContext *context, TfLiteNode *node),
                            TfLiteStatus (*invoke)(TfLiteContext *context, TfLiteNode *node),
                            void (*free)(TfLiteContext *context, void *data) = nullptr,
                            void (*reset)(TfLiteContext *context, void *data) = nullptr);
} // namespace micro
} // namespace tflite

/*@ tensorflow/lite/micro/kernels/add.h */
#include "tensorflow/lite/micro/kernels/kernel_util.h"
namespace tflite {
extern const int kAddInputTensor1, kAddInputTensor2, kAddOutputTensor;
struct OpDataAdd {
    int input1_shift, input2_shift;
    int32_t output_activation_min, output_activation_max, input1_multiplier, input2_multiplier, output_multiplier;
    int output_shift, left_shift;
    int32_t input1_offset, input2_offset, output_offset;
};
TfLiteStatus AddPrepare(TfLiteContext *context, TfLiteNode *node);
TFLMRegistration Register_ADD();
} // namespace tflite

/*@ tensorflow/lite/micro/kernels/conv.h */
#include "tensorflow/lite/c/builtin_op_data.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
namespace tflite {
extern const int kConvInputTensor, kConvWeightsTensor, kConvBiasTensor, kConvOutputTensor;
struct OpDataConv {
    int32_t *per_channel_output_multiplier;
    int32_t *per_channel_output_shift;
};
void *ConvInit(TfLiteContext *context, const char *buffer, size_t len);
TfLiteStatus ConvPrepare(TfLiteContext *context, TfLiteNode *node);
ConvParams ConvParamsQuantized(const TfLiteConvParams &params, const OpDataConv &data);
TFLMRegistration Register_CONV_2D();
} // namespace tflite

/*@ tensorflow/lite/micro/kernels/depthwise_conv.h */
#include "tensorflow/lite/micro/kernels/conv.h"
namespace tflite {
extern const int kDepthwiseConvInputTensor, kDepthwiseConvWeightsTensor, kDepthwiseConvBiasTensor,
    kDepthwiseConvOutputTensor;
TfLiteStatus DepthwiseConvPrepare(TfLiteContext *context, TfLiteNode *node);
DepthwiseParams DepthwiseConvParamsQuantized(const TfLiteDepthwiseConvParams &params, const OpDataConv &data);
TFLMRegistration Register_DEPTHWISE_CONV_2D();
} // namespace tflite

/*@ tensorflow/lite/micro/kernels/fully_connected.h */
#include "tensorflow/lite/c/builtin_op_data.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
namespace tflite {
extern const int kFullyConnectedInputTensor, kFullyConnectedWeightsTensor, kFullyConnectedBiasTensor,
    kFullyConnectedOutputTensor;
struct OpDataFullyConnected {
    int32_t *per_channel_output_multiplier;
    int32_t *per_channel_output_shift;
    bool is_per_channel;
};
FullyConnectedParams FullyConnectedParamsQuantized(const OpDataFullyConnected &data);
TfLiteStatus CalculateOpDataFullyConnected(TfLiteContext *context, TfLiteFusedActivation activation, TfLiteType type,
                                           const TfLiteTensor *input, const TfLiteTensor *filter,
                                           const TfLiteTensor *bias, TfLiteTensor *output, OpDataFullyConnected *data);
TFLMRegistration Register_FULLY_CONNECTED();
} // namespace tflite

/*@ tensorflow/lite/micro/kernels/mul.h */
#include "tensorflow/lite/micro/kernels/kernel_util.h"
namespace tflite {
extern const int kMulInput1Tensor, kMulInput2Tensor, kMulOutputTensor;
struct OpDataMul {};
void *MulInit(TfLiteContext *context, const char *buffer, size_t len);
TfLiteStatus MulPrepare(TfLiteContext *context, TfLiteNode *node);
TfLiteStatus EvalMulQuantizedReference(TfLiteContext *context, TfLiteNode *node, const OpDataMul *data,
                                       const TfLiteEvalTensor *a, const TfLiteEvalTensor *b, TfLiteEvalTensor *output);
TFLMRegistration Register_MUL();
} // namespace tflite

/*@ tensorflow/lite/micro/kernels/pooling.h */
#include "tensorflow/lite/c/builtin_op_data.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
namespace tflite {
extern const int kPoolingInputTensor, kPoolingOutputTensor;
struct OpDataPooling {};
TfLiteStatus PoolingPrepare(TfLiteContext *context, TfLiteNode *node);
template <typename T>
void AveragePoolingEvalQuantized(TfLiteContext *context, const TfLiteNode *node, const TfLitePoolParams *params,
                                 const OpDataPooling *data, const TfLiteEvalTensor *input, TfLiteEvalTensor *output);
template <typename T>
void MaxPoolingEvalQuantized(TfLiteContext *context, TfLiteNode *node, TfLitePoolParams *params,
                             const OpDataPooling *data, const TfLiteEvalTensor *input, TfLiteEvalTensor *output);
TFLMRegistration Register_AVERAGE_POOL_2D();
TFLMRegistration Register_MAX_POOL_2D();
} // namespace tflite

/*@ tensorflow/lite/micro/kernels/softmax.h */
#include "tensorflow/lite/micro/kernels/kernel_util.h"
namespace tflite {
void *SoftmaxInit(TfLiteContext *context, const char *buffer, size_t len);
TfLiteStatus SoftmaxPrepare(TfLiteContext *context, TfLiteNode *node);
TFLMRegistration Register_SOFTMAX();
} // namespace tflite

/*@ tensorflow/lite/micro/memory_helpers.h */
#include "tensorflow/lite/c/common.h"
namespace tflite {
TfLiteStatus TfLiteEvalTensorByteLength(const TfLiteEvalTensor *tensor, size_t *bytes);
}

/*@ tensorflow/lite/micro/micro_context.h */
#include "tensorflow/lite/c/common.h"
namespace tflite {
class MicroContext {
  public:
    virtual ~MicroContext();
    virtual TfLiteTensor *AllocateTempInputTensor(const TfLiteNode *node, int index);
    virtual TfLiteTensor *AllocateTempOutputTensor(const TfLiteNode *node, int index);
    virtual void DeallocateTempTfLiteTensor(TfLiteTensor *tensor);
};
MicroContext *GetMicroContext(const TfLiteContext *context);
} // namespace tflite

/*@ tensorflow/lite/micro/micro_profiler_interface.h */
#include <stdint.h>
namespace tflite {
class MicroProfilerInterface {
  public:
    virtual ~MicroProfilerInterface() {
    }
    virtual uint32_t BeginEvent(const char *tag) = 0;
    virtual void EndEvent(uint32_t handle) = 0;
};
} // namespace tflite

/*@ tensorflow/lite/schema/schema_generated.h */
#include <stddef.h>
#include <stdint.h>
#define TFLITE_SCHEMA_VERSION (3)
namespace flatbuffers {
template <typename T> struct Offset {};
template <typename T> struct Element {
    typedef T type;
};
template <typename T> struct Element<Offset<T>> {
    typedef const T *type;
};
template <typename T> class Vector {
  public:
    uint32_t size() const;
    typename Element<T>::type Get(uint32_t index) const;
};
class Verifier {
  public:
    Verifier(const uint8_t *const data, const size_t len, const uint32_t max_depth = 64,
             const uint32_t max_tables = 1000000, const bool check_alignment = true);
};
} // namespace flatbuffers
namespace tflite {
enum BuiltinOperator : int32_t {
    BuiltinOperator_ADD = 0,
    BuiltinOperator_AVERAGE_POOL_2D = 1,
    BuiltinOperator_CONV_2D = 3,
    BuiltinOperator_DEPTHWISE_CONV_2D = 4,
    BuiltinOperator_FULLY_CONNECTED = 9,
    BuiltinOperator_MAX_POOL_2D = 17,
    BuiltinOperator_MUL = 18,
    BuiltinOperator_SOFTMAX = 25,
    BuiltinOperator_CUSTOM = 32
};
const char *EnumNameBuiltinOperator(BuiltinOperator op);
struct OperatorCode {};
struct Tensor {
    const flatbuffers::Vector<int32_t> *shape() const;
};
struct Operator {
    uint32_t opcode_index() const;
    const flatbuffers::Vector<int32_t> *inputs() const;
    const flatbuffers::Vector<int32_t> *outputs() const;
};
struct SubGraph {
    const flatbuffers::Vector<flatbuffers::Offset<Tensor>> *tensors() const;
    const flatbuffers::Vector<int32_t> *inputs() const;
    const flatbuffers::Vector<int32_t> *outputs() const;
    const flatbuffers::Vector<flatbuffers::Offset<Operator>> *operators() const;
};
struct Model {
    uint32_t version() const;
    const flatbuffers::Vector<flatbuffers::Offset<OperatorCode>> *operator_codes() const;
    const flatbuffers::Vector<flatbuffers::Offset<SubGraph>> *subgraphs() const;
};
const Model *GetModel(const void *data);
bool VerifyModelBuffer(flatbuffers::Verifier &verifier);
} // namespace tflite

/*@ tensorflow/lite/schema/schema_utils.h */
#include "tensorflow/lite/schema/schema_generated.h"
namespace tflite {
BuiltinOperator GetBuiltinCode(const OperatorCode *code);
}

/*@ tensorflow/lite/micro/micro_mutable_op_resolver.h */
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/schema/schema_generated.h"
namespace tflite {
class MicroOpResolver {
  public:
    virtual ~MicroOpResolver();
    virtual const TFLMRegistration *FindOp(BuiltinOperator op) const = 0;
};
TFLMRegistration fake_registration();
template <unsigned int tOpCount> class MicroMutableOpResolver : public MicroOpResolver {
  public:
    MicroMutableOpResolver();
    const TFLMRegistration *FindOp(BuiltinOperator op) const override;
    TfLiteStatus AddAdd(const TFLMRegistration &kernel = fake_registration());
    TfLiteStatus AddAveragePool2D(const TFLMRegistration &kernel = fake_registration());
    TfLiteStatus AddConcatenation();
    TfLiteStatus AddConv2D(const TFLMRegistration &kernel = fake_registration());
    TfLiteStatus AddDepthwiseConv2D(const TFLMRegistration &kernel = fake_registration());
    TfLiteStatus AddDequantize();
    TfLiteStatus AddFullyConnected(const TFLMRegistration &kernel = fake_registration());
    TfLiteStatus AddHardSwish();
    TfLiteStatus AddLogistic();
    TfLiteStatus AddMaxPool2D(const TFLMRegistration &kernel = fake_registration());
    TfLiteStatus AddMean();
    TfLiteStatus AddMul(const TFLMRegistration &kernel = fake_registration());
    TfLiteStatus AddPack();
    TfLiteStatus AddPad();
    TfLiteStatus AddPadV2();
    TfLiteStatus AddQuantize();
    TfLiteStatus AddRelu();
    TfLiteStatus AddRelu6();
    TfLiteStatus AddReshape();
    TfLiteStatus AddShape();
    TfLiteStatus AddSoftmax(const TFLMRegistration &kernel = fake_registration());
    TfLiteStatus AddStridedSlice();
};
} // namespace tflite

/*@ tensorflow/lite/micro/micro_interpreter.h */
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_profiler_interface.h"
namespace tflite {
class MicroResourceVariables;
class MicroInterpreter {
  public:
    MicroInterpreter(const Model *model, const MicroOpResolver &resolver, uint8_t *arena, size_t arena_bytes,
                     MicroResourceVariables *variables = nullptr, MicroProfilerInterface *profiler = nullptr,
                     bool preserve_all_tensors = false);
    ~MicroInterpreter();
    TfLiteStatus AllocateTensors();
    TfLiteStatus Invoke();
    TfLiteTensor *input(size_t index);
    size_t inputs_size() const;
    TfLiteTensor *output(size_t index);
    size_t outputs_size() const;
    size_t arena_used_bytes() const;

  protected:
    const TfLiteContext &context() const;
};
} // namespace tflite
