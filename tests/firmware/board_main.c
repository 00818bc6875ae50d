/* The whole application as a program: board FLASH_FILE. Control over standard input and output, UDP and TCP on this
 * machine, all that it keeps in the file; the engine has no kernels (fake_engine.h). test_board.py talks to it.
 *
 * BOARD_RADIO_TAKES_ALL: no task can be made once the network was started (fake_system.h).
 * BOARD_ENGINE: "wrong from VERSION" (the self-tests of such images fail), "fails" (its invocations do), or
 * microseconds an invocation takes. BOARD_WATCHDOG_MS: the task watchdog's patience, 0 or none: without end. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ble.h"
#include "esp_system.h"
#include "fake_chip.h"
#include "fake_engine.h"
#include "fake_flash.h"
#include "fake_nvs.h"
#include "fake_system.h"
#include "link.h"

#define NVS_BYTES (512u * 1024)

void app_main(void);

static char **arguments;

/* The process begins anew; its sockets and everything else but the file are gone. */
static void restart(void) {
    for (int fd = 3; fd < 256; fd++) {
        (void)close(fd);
    }
    (void)setenv("BOARD_RESET", "3", 1);
    (void)execv("/proc/self/exe", arguments);
    _exit(1);
}

static esp_err_t no_radio(const struct settings *settings, struct ts_link *link) {
    (void)settings;
    (void)link;
    return ESP_FAIL;
}
static bool no_peer(const char *text, struct ts_addr *out) {
    (void)text;
    (void)out;
    return false;
}
static int no_way(const struct ts_addr *to, const uint8_t *frame, size_t len) {
    (void)to;
    (void)frame;
    (void)len;
    return TS_E_SEND_FAILED;
}
static void nothing(struct link_status *out) {
    memset(out, 0, sizeof *out);
}
void ble_control_say(uint32_t to, const char *text) {
    (void)to;
    (void)text;
}
void ble_control_tell(const char *text) {
    (void)text;
}
/* As without an antenna. */
const struct link_port link_espnow = {
    .name = "espnow", .start = no_radio, .peer = no_peer, .send = no_way, .describe = nothing};
const struct link_port link_ble = {
    .name = "ble", .start = no_radio, .peer = no_peer, .send = no_way, .describe = nothing};

int main(int argc, char **argv) {
    arguments = argv;
    int fd = argc == 2 ? open(argv[1], O_RDWR | O_CREAT, 0600) : -1;
    off_t had = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;
    if (had < 0 || ftruncate(fd, FAKE_FLASH_BYTES + NVS_BYTES) != 0) {
        (void)fprintf(stderr, "usage: %s FLASH_FILE\n", argv[0]);
        return 2;
    }
    uint8_t *memory = mmap(NULL, FAKE_FLASH_BYTES + NVS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        return 1;
    }
    fake_flash_at(memory);
    fake_nvs_keep(memory + FAKE_FLASH_BYTES, NVS_BYTES);
    if (had == 0) {
        fake_flash_clear();
    }
    fake_flash_restart();
    fake_restart = restart;
    uint32_t chance;
    fake_random = getentropy(&chance, sizeof chance) == 0 ? chance : 1; /* each boot is another */
    fake_reset_reason = getenv("BOARD_RESET") != NULL ? ESP_RST_SW : ESP_RST_POWERON;
    fake_radio_takes_all = getenv("BOARD_RADIO_TAKES_ALL") != NULL;
    const char *engine = getenv("BOARD_ENGINE");
    engine = engine != NULL ? engine : "0";
    (void)sscanf(engine, "wrong from %u", &fake_engine_wrong_from);
    fake_engine_fails = strcmp(engine, "fails") == 0;
    fake_engine_us = (uint32_t)strtoul(engine, NULL, 10);
    const char *patience = getenv("BOARD_WATCHDOG_MS");
    fake_watchdog_ms = patience != NULL ? (uint32_t)strtoul(patience, NULL, 10) : 0;
    app_main();
    for (;;) {
        (void)pause();
    }
}
