#include "settings.h"

#include <stdio.h>
#include <string.h>

static const char *const roles[] = {"stage", "bridge", NULL};
static const char *const wifi_modes[] = {"station", "soft_ap", NULL};
static const char *const power_saves[] = {"none", "min", "max", NULL};
static const char *const codecs[] = {"raw", "auto", NULL};
static const char *const inputs[] = {"selftest", "pattern", NULL};
static const char *const rates[] = {"250K", "500K", "1M",  "2M",  "5.5M", "11M", "6M", "9M",
                                    "12M",  "18M",  "24M", "36M", "48M",  "54M", NULL};
static const char *const meters[] = {"none", "ina219", "ina226", NULL};
static const char *const schemes[] = {"udp", "tcp", "espnow", "ble", NULL};

#define NUMBER(member, least, most) {#member, SETTING_NUMBER, offsetof(struct settings, member), least, most, NULL}
#define FLAG(member) {#member, SETTING_FLAG, offsetof(struct settings, member), 0, 1, NULL}
#define CHOICE(member, names)                                                                                          \
    {#member, SETTING_CHOICE, offsetof(struct settings, member), 0, sizeof(names) / sizeof(names)[0] - 2, names}
#define OF_TEXT(kind, member, least)                                                                                   \
    {#member, kind, offsetof(struct settings, member), least, sizeof(((struct settings *)0)->member) - 1, NULL}

static const struct setting table[] = {
    OF_TEXT(SETTING_TEXT, name, 1),
    CHOICE(role, roles),
    OF_TEXT(SETTING_ADDRESS, listen, 1),
    OF_TEXT(SETTING_ADDRESS, next, 0),
    NUMBER(mtu, 0, 16384),
    NUMBER(window, 0, 64),
    NUMBER(timeout_ms, 1, 600000),
    CHOICE(codec, codecs),
    NUMBER(iterations, 0, UINT32_MAX),
    NUMBER(period_ms, 0, 86400000),
    CHOICE(input, inputs),
    FLAG(pipeline),
    FLAG(light_sleep),
    FLAG(profile),
    CHOICE(wifi_mode, wifi_modes),
    OF_TEXT(SETTING_TEXT, wifi_ssid, 0),
    OF_TEXT(SETTING_SECRET, wifi_password, 0),
    CHOICE(power_save, power_saves),
    NUMBER(channel, 1, 13),
    NUMBER(espnow_version, 1, 2),
    CHOICE(espnow_rate, rates),
    OF_TEXT(SETTING_SECRET, espnow_pmk, 0),
    OF_TEXT(SETTING_SECRET, espnow_lmk, 0),
    OF_TEXT(SETTING_PEERS, espnow_peers, 0),
    NUMBER(ble_phy, 1, 2),
    NUMBER(ble_interval, 6, 3200),
    NUMBER(att_mtu, 23, 517),
    OF_TEXT(SETTING_SECRET, ble_passkey, 0),
    OF_TEXT(SETTING_TEXT, mqtt_url, 0),
    OF_TEXT(SETTING_TEXT, mqtt_user, 0),
    OF_TEXT(SETTING_SECRET, mqtt_password, 0),
    OF_TEXT(SETTING_TEXT, mqtt_ca, 0),
    CHOICE(meter, meters),
    NUMBER(meter_address, 0x40, 0x4F),
    NUMBER(meter_mohm, 1, 10000),
};

#define COUNT (sizeof table / sizeof table[0])

const struct setting *settings_table(size_t *count) {
    *count = COUNT;
    return table;
}

const struct setting *settings_find(const char *name) {
    for (size_t i = 0; i < COUNT; i++) {
        if (strcmp(table[i].name, name) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

void settings_defaults(struct settings *settings) {
    *settings = (struct settings){.name = "tinysplit",
                                  .listen = "udp://0.0.0.0:4000",
                                  .timeout_ms = 10000,
                                  .pipeline = 1,
                                  .channel = 6,
                                  .espnow_version = 1,
                                  .espnow_rate = RATE_1M,
                                  .ble_phy = 2,
                                  .ble_interval = 6,
                                  .att_mtu = 517,
                                  .meter_address = 0x40,
                                  .meter_mohm = 100};
    char error[SETTINGS_ERROR_BYTES];
    (void)settings_check(settings, error);
}

static char *text_of(const struct settings *settings, const struct setting *which) {
    return (char *)settings + which->offset;
}

static uint32_t *number_of(const struct settings *settings, const struct setting *which) {
    return (uint32_t *)(void *)((char *)settings + which->offset);
}

static bool is_text(const struct setting *which) {
    return which->kind >= SETTING_TEXT;
}

static bool refuse(char *error, const char *name, const char *what) {
    (void)snprintf(error, SETTINGS_ERROR_BYTES, "%s: %s", name, what);
    return false;
}

bool settings_refuse(const struct setting *which, char *error) {
    switch (which->kind) {
    case SETTING_NUMBER:
        (void)snprintf(error, SETTINGS_ERROR_BYTES, "%s: a whole number from %lu to %lu", which->name,
                       (unsigned long)which->minimum, (unsigned long)which->maximum);
        return false;
    case SETTING_FLAG:
        return refuse(error, which->name, "true or false");
    case SETTING_PEERS:
        return refuse(error, which->name, "a list of addresses");
    case SETTING_CHOICE: {
        (void)refuse(error, which->name, "one of ");
        for (size_t i = 0, len = strlen(error); which->choices[i] != NULL; i++, len = strlen(error)) {
            (void)snprintf(error + len, SETTINGS_ERROR_BYTES - len, "%s%s", i == 0 ? "" : ", ", which->choices[i]);
        }
        return false;
    }
    default:
        return refuse(error, which->name, "a text");
    }
}

static bool printable(const char *value) {
    for (; *value != '\0'; value++) {
        if (((unsigned char)*value < ' ' && *value != '\n' && *value != '\r') || *value == 0x7F) {
            return false;
        }
    }
    return true;
}

size_t settings_cut(const char *text, size_t most) {
    size_t len = strlen(text);
    if (len <= most) {
        return len;
    }
    while (most > 0 && ((unsigned char)text[most] & 0xC0) == 0x80) {
        most--;
    }
    return most;
}

bool settings_is_utf8(const char *text, size_t len) {
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000}; /* shorter forms exist below: RFC 3629 section 3 */
    const unsigned char *at = (const unsigned char *)text, *end = at + len;
    while (at < end) {
        unsigned more = *at < 0x80 ? 0 : *at < 0xE0 ? 1 : *at < 0xF0 ? 2 : 3;
        uint32_t code = more == 0 ? *at : *at & (0x3Fu >> more);
        if ((*at >= 0x80 && *at < 0xC0) || *at > 0xF4 || more >= (size_t)(end - at)) {
            return false;
        }
        at++;
        for (unsigned i = 0; i < more; i++, at++) {
            if ((*at & 0xC0) != 0x80) {
                return false;
            }
            code = code << 6 | (*at & 0x3Fu);
        }
        if (code < least[more] || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF) {
            return false;
        }
    }
    return true;
}

static bool name_is_good(const char *name) {
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == strlen(name);
}

static bool hex_key(const char *value) {
    return *value == '\0' || (strlen(value) == 32 && strspn(value, "0123456789abcdefABCDEF") == 32);
}

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

bool settings_mac(const char *text, uint8_t mac[6]) {
    memset(mac, 0, 6);
    for (size_t i = 0; i < 17; i++) {
        char c = text[i];
        uint8_t digit = c >= '0' && c <= '9'   ? (uint8_t)(c - '0')
                        : c >= 'a' && c <= 'f' ? (uint8_t)(c - 'a' + 10)
                        : c >= 'A' && c <= 'F' ? (uint8_t)(c - 'A' + 10)
                                               : 16;
        if (i % 3 == 2 ? c != ':' : digit > 15) {
            return false;
        }
        if (i % 3 != 2) {
            mac[i / 3] = (uint8_t)(mac[i / 3] << 4 | digit);
        }
    }
    return text[17] == '\0' || text[17] == ',';
}

/* A node's own address; a group is nobody. */
static bool is_mac(const char *text) {
    uint8_t mac[6];
    return settings_mac(text, mac) && text[17] == '\0' && (mac[0] & 1) == 0;
}

static bool is_list_of_macs(const char *list) {
    uint8_t mac[6];
    while (*list != '\0') {
        if (!settings_mac(list, mac) || (mac[0] & 1) != 0 || (list[17] == ',' && list[18] == '\0')) {
            return false;
        }
        list += list[17] == ',' ? 18 : 17;
    }
    return true;
}

bool settings_add_peer(char *list, const char *address, char *error) {
    size_t len = strlen(list);
    if (!starts_with(address, "espnow://") || !is_mac(settings_without_scheme(address))) {
        return refuse(error, "espnow_peers", "addresses of nodes, espnow://aa:bb:cc:dd:ee:ff");
    }
    if (len >= SETTINGS_PEERS * 18 - 1) {
        return refuse(error, "espnow_peers", "20 at most");
    }
    if (len > 0) {
        list[len++] = ',';
    }
    memcpy(list + len, settings_without_scheme(address), 18);
    return true;
}

size_t settings_peers(const struct settings *settings, uint8_t macs[SETTINGS_PEERS][6]) {
    size_t count = 0;
    for (const char *at = settings->espnow_peers; count < SETTINGS_PEERS && settings_mac(at, macs[count]);) {
        count++;
        if (at[17] == '\0') {
            break;
        }
        at += 18;
    }
    return count;
}

bool settings_set_text(struct settings *settings, const struct setting *which, const char *value, char *error) {
    if (which->kind == SETTING_CHOICE) {
        for (uint32_t i = 0; which->choices[i] != NULL; i++) {
            if (strcmp(which->choices[i], value) == 0) {
                *number_of(settings, which) = i;
                return true;
            }
        }
        return settings_refuse(which, error);
    }
    if (!is_text(which)) {
        return settings_refuse(which, error);
    }
    size_t len = strlen(value);
    if (len < which->minimum || len > which->maximum) {
        (void)snprintf(error, SETTINGS_ERROR_BYTES, "%s: %u to %u bytes, not %u", which->name, (unsigned)which->minimum,
                       (unsigned)which->maximum, (unsigned)len);
        return false;
    }
    if (!printable(value) || !settings_is_utf8(value, len)) {
        return refuse(error, which->name, "has characters that do not print, or is no UTF-8");
    }
    char *at = text_of(settings, which);
    if (at == settings->name && !name_is_good(value)) {
        return refuse(error, which->name, "letters, digits, dot, dash and underscore");
    }
    if ((at == settings->espnow_pmk || at == settings->espnow_lmk) && !hex_key(value)) {
        return refuse(error, which->name, "16 bytes as 32 hexadecimal digits");
    }
    if (which->kind == SETTING_PEERS && !is_list_of_macs(value)) {
        return refuse(error, which->name, "addresses of nodes");
    }
    if (at == settings->ble_passkey && len != 0 && (len != 6 || strspn(value, "0123456789") != 6)) {
        return refuse(error, which->name, "six digits, or none");
    }
    if (at == settings->wifi_password && len != 0 && len < 8) {
        return refuse(error, which->name, "at least 8 characters (WPA), or none");
    }
    if (at == settings->mqtt_url && len != 0 && !starts_with(value, "mqtt://") && !starts_with(value, "mqtts://")) {
        return refuse(error, which->name, "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]");
    }
    /* All may read the URL. */
    if (at == settings->mqtt_url && strchr(value, '@') != NULL) {
        return refuse(error, which->name, "no name and no password in it: mqtt_user, mqtt_password");
    }
    memcpy(at, value, len + 1);
    return true;
}

bool settings_set_number(struct settings *settings, const struct setting *which, uint32_t value, char *error) {
    if (is_text(which)) {
        return settings_refuse(which, error);
    }
    if (value < which->minimum || value > which->maximum) {
        (void)snprintf(error, SETTINGS_ERROR_BYTES, "%s: %lu to %lu, not %lu", which->name,
                       (unsigned long)which->minimum, (unsigned long)which->maximum, (unsigned long)value);
        return false;
    }
    *number_of(settings, which) = value;
    return true;
}

uint32_t settings_number(const struct settings *settings, const struct setting *which) {
    return is_text(which) ? 0 : *number_of(settings, which);
}

const char *settings_text(const struct settings *settings, const struct setting *which) {
    if (which->kind == SETTING_CHOICE) {
        return which->choices[*number_of(settings, which)];
    }
    return is_text(which) ? text_of(settings, which) : "";
}

const char *settings_without_scheme(const char *address) {
    const char *at = strstr(address, "://");
    return at == NULL ? address : at + 3;
}

/* Index of an address's scheme, -1 if it has none of ours. */
static int scheme_of(const char *address) {
    const char *end = strstr(address, "://");
    for (int i = 0; end != NULL && schemes[i] != NULL; i++) {
        if ((size_t)(end - address) == strlen(schemes[i]) && starts_with(address, schemes[i])) {
            return i;
        }
    }
    return -1;
}

static bool port_of(const char *address, bool zero_allowed, uint16_t *port) {
    const char *colon = strrchr(settings_without_scheme(address), ':');
    if (colon == NULL || colon[1] == '\0' || strlen(colon + 1) > 5) {
        return false;
    }
    uint32_t value = 0;
    for (const char *p = colon + 1; *p != '\0'; p++) {
        if (*p < '0' || *p > '9') {
            return false;
        }
        value = value * 10 + (uint32_t)(*p - '0');
    }
    *port = (uint16_t)value;
    return value <= 65535 && (value != 0 || zero_allowed);
}

bool settings_check(struct settings *settings, char *error) {
    int scheme = scheme_of(settings->listen);
    if (scheme < 0) {
        return refuse(error, "listen",
                      "udp://0.0.0.0:PORT, tcp://0.0.0.0:PORT, espnow://00:00:00:00:00:00 or ble://NAME");
    }
    const char *own = settings_without_scheme(settings->listen);
    bool inet = scheme == TRANSPORT_UDP || scheme == TRANSPORT_TCP;
    uint16_t port = 0;
    if (inet &&
        ((!starts_with(own, "0.0.0.0:") && !starts_with(own, "[::]:")) || !port_of(settings->listen, false, &port))) {
        return refuse(error, "listen", "host 0.0.0.0 or [::] (this board has one interface), and a port");
    }
    if (scheme == TRANSPORT_ESPNOW && !is_mac(own)) {
        return refuse(error, "listen", "espnow://aa:bb:cc:dd:ee:ff, or all zero for this board's own");
    }
    if (scheme == TRANSPORT_BLE && (*own == '\0' || strlen(own) > 26)) {
        return refuse(error, "listen", "ble:// and a name of 1 to 26 characters");
    }
    if (settings->next[0] != '\0') {
        uint16_t next_port;
        if (scheme_of(settings->next) != scheme) {
            return refuse(error, "next", "another transport than listen");
        }
        if (inet && !port_of(settings->next, false, &next_port)) {
            return refuse(error, "next", "an address with a port");
        }
        if (scheme == TRANSPORT_ESPNOW && !is_mac(settings_without_scheme(settings->next))) {
            return refuse(error, "next", "espnow://aa:bb:cc:dd:ee:ff");
        }
        if (*settings_without_scheme(settings->next) == '\0') {
            return refuse(error, "next", "an address behind the scheme");
        }
    }
    if (settings->role == ROLE_BRIDGE && settings->next[0] != '\0') {
        return refuse(error, "next", "a bridge has no next stage");
    }
    if (settings->mtu != 0 && settings->mtu < 128) {
        return refuse(error, "mtu", "0 (the transport's own) or 128 to 16384");
    }
    if (settings->espnow_lmk[0] != '\0' && settings->espnow_pmk[0] == '\0') {
        return refuse(error, "espnow_lmk", "needs espnow_pmk as well");
    }
    if (settings->light_sleep != 0 && settings->period_ms == 0) {
        return refuse(error, "light_sleep", "only between inferences with a period: set period_ms");
    }
    settings->transport = (uint32_t)scheme;
    settings->port = port;
    return true;
}
