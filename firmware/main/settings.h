/* What a board remembers: every setting of control.schema.json that a real board has, one NVS
 * entry each, named as in the schema (a name has at most 15 characters, as NVS wants).
 *
 * Texts are NVS strings, everything else is an NVS u32 (choices by their place in the list).
 * Secrets are written like the others and never shown: who reads them learns only whether they
 * are set. settings.c is bound to no operating system; settings_nvs.c keeps them. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SETTINGS_ADDRESS_BYTES 65 /* with the final 0, as all lengths here */
#define SETTINGS_ERROR_BYTES 128
#define SETTINGS_PEERS 20u /* as many as ESP-NOW knows */

enum settings_role { ROLE_STAGE, ROLE_BRIDGE };
enum settings_transport { TRANSPORT_UDP, TRANSPORT_TCP, TRANSPORT_ESPNOW, TRANSPORT_BLE };
enum settings_wifi { WIFI_STATION, WIFI_SOFT_AP };
enum settings_power_save { POWER_SAVE_NONE, POWER_SAVE_MIN, POWER_SAVE_MAX };
enum settings_meter { METER_NONE, METER_INA219, METER_INA226 };
enum settings_input { INPUT_SELFTEST, INPUT_PATTERN };
enum settings_codec { CODEC_RAW, CODEC_AUTO };

struct settings {
    char name[33]; /* also mDNS host name, BLE name and MQTT topic */
    uint32_t role; /* enum settings_role: what the image says, or a bridge */

    /* Addresses with their scheme: udp://0.0.0.0:4000, tcp://[::]:4000, espnow://aa:bb:cc:dd:ee:ff,
     * ble://NAME. `listen` names the transport. For UDP and TCP its host is any (0.0.0.0 or [::], both
     * families are served); for ESP-NOW it is any (00:00:00:00:00:00) or this board's own;
     * for BLE it is the board's name. `next` is empty for tails and bridges. */
    char listen[SETTINGS_ADDRESS_BYTES];
    char next[SETTINGS_ADDRESS_BYTES];

    uint32_t mtu;        /* longest frame; 0: the transport's own */
    uint32_t window;     /* fragments in flight; 0: the transport's own */
    uint32_t timeout_ms; /* of an inference */
    uint32_t codec;      /* enum settings_codec: boundaries as they are, or compressed with whoever can, too */

    /* Inferences on the board's own account. */
    uint32_t iterations;  /* that follow a boot; 0: none, 0xFFFFFFFF: without end */
    uint32_t period_ms;   /* from start to start; 0: one after the other */
    uint32_t input;       /* enum settings_input */
    uint32_t pipeline;    /* 1: the next head runs while the last boundary travels */
    uint32_t light_sleep; /* 1: sleep between them */
    uint32_t profile;     /* 1: time every operator */

    uint32_t wifi_mode; /* enum settings_wifi */
    char wifi_ssid[33];
    char wifi_password[65];  /* secret; empty: an open network */
    uint32_t power_save;     /* enum settings_power_save, of the Wi-Fi station */
    uint32_t channel;        /* 1..13: ESP-NOW and soft-AP; a connected station keeps its router's */
    uint32_t espnow_version; /* 1: 250 bytes, 2: 1,470 bytes (ESP-IDF 5.4 and newer) */
    uint32_t espnow_rate;    /* enum settings_rate */
    char espnow_pmk[33];     /* secret: 16 bytes in hex; empty: none */
    char espnow_lmk[33];     /* secret: 16 bytes in hex; empty: not encrypted */
    /* Nodes that may call this one, as aa:bb:cc:dd:ee:ff with commas between. The chip opens encrypted packets of
     * peers it knows only. */
    char espnow_peers[SETTINGS_PEERS * 18];
    uint32_t ble_phy;      /* 1 or 2: Mbit/s */
    uint32_t ble_interval; /* connection interval in units of 1.25 ms, 6..3200 */
    char ble_passkey[7];   /* secret: six digits; empty: none */
    uint32_t att_mtu;      /* the largest ATT_MTU asked for and granted, 23..517 */

    char mqtt_url[129]; /* mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; empty: no MQTT */
    char mqtt_user[65];
    char mqtt_password[129]; /* secret */
    char mqtt_ca[2049];      /* PEM; empty: the certificate bundle */

    uint32_t meter;         /* enum settings_meter, on the I2C pins of Kconfig */
    uint32_t meter_address; /* 0x40..0x4F */
    uint32_t meter_mohm;    /* shunt */

    /* Of `listen`; not kept. */
    uint32_t transport; /* enum settings_transport */
    uint16_t port;      /* UDP and TCP */
};

/* ESP-NOW's rate for a peer, in the order of the schema's choices. */
enum settings_rate {
    RATE_250K,
    RATE_500K,
    RATE_1M,
    RATE_2M,
    RATE_5M,
    RATE_11M,
    RATE_6M,
    RATE_9M,
    RATE_12M,
    RATE_18M,
    RATE_24M,
    RATE_36M,
    RATE_48M,
    RATE_54M
};

enum settings_kind {
    SETTING_NUMBER,
    SETTING_FLAG,
    SETTING_CHOICE,
    SETTING_TEXT, /* from here on they are kept as text */
    SETTING_SECRET,
    SETTING_ADDRESS,
    SETTING_PEERS /* a list of addresses, in the schema an array */
};

/* One setting as the table in settings.c describes it. */
struct setting {
    const char *name;
    enum settings_kind kind;
    size_t offset;              /* in struct settings */
    uint32_t minimum, maximum;  /* numbers; texts: bytes without the final 0 */
    const char *const *choices; /* of a choice, up to NULL */
};

/* All of them, in the order they are shown. */
const struct setting *settings_table(size_t *count);
const struct setting *settings_find(const char *name);

/* What a board has before anything is configured. */
void settings_defaults(struct settings *settings);

/* False, and a line for people in error (SETTINGS_ERROR_BYTES) that says what a setting takes. */
bool settings_refuse(const struct setting *which, char *error);

/* Change one setting. False, and a line for people in error (SETTINGS_ERROR_BYTES), if the value does
 * not fit; nothing is changed then. Choices are given as texts, flags as 0 or 1. */
bool settings_set_text(struct settings *settings, const struct setting *which, const char *value, char *error);
bool settings_set_number(struct settings *settings, const struct setting *which, uint32_t value, char *error);

uint32_t settings_number(const struct settings *settings, const struct setting *which);
const char *settings_text(const struct settings *settings, const struct setting *which); /* of a choice: its name */

/* Whether the settings fit each other; fills in transport and port. False and a line in error if not. */
bool settings_check(struct settings *settings, char *error);

/* Adds the node at "espnow://aa:bb:cc:dd:ee:ff" to a list of peers; the list's text holds SETTINGS_PEERS of them.
 * False, and a line in error, if it is none of a single node or does not fit. */
bool settings_add_peer(char *list, const char *address, char *error);

/* The MACs of espnow_peers; returns how many. */
size_t settings_peers(const struct settings *settings, uint8_t macs[SETTINGS_PEERS][6]);

/* 6 bytes from "aa:bb:cc:dd:ee:ff" and what follows it, up to a comma or the end; false if that is none. */
bool settings_mac(const char *text, uint8_t mac[6]);

/* Bytes of text that can be shown of it if at most so many fit: no character of UTF-8 is cut. */
size_t settings_cut(const char *text, size_t most);

/* Whether all of it is UTF-8. */
bool settings_is_utf8(const char *text, size_t len);

/* An address without its scheme. */
const char *settings_without_scheme(const char *address);

/* --- settings_nvs.c --- */

/* Starts NVS (formats it when its pages cannot be used) and reads all settings over the defaults. What
 * does not fit (written by other firmware) is left at its default and named in *problem, which is
 * empty if all is well. Returns an esp_err_t. */
int settings_load(struct settings *settings, char *problem);

/* Writes those that differ from `old`, then commits. Returns an esp_err_t. */
int settings_store(const struct settings *settings, const struct settings *old);

#ifdef __cplusplus
}
#endif

#endif
