/* Counts the instructions of codec 1 on bare metal: CCOUNT under qemu's
 * -icount shift=7, which ticks 40 MHz x 128 ns = 5.12 times per instruction on an lx106. boundaries.bin has tensors one
 * behind the other: u32 bytes, u16 left, u16 above, the bytes. A line for each: bytes, coded bytes, instructions of
 * encoding and of decoding. */
#include "bare.h"
#include "tinysplit/codec.h"

#include <string.h>

#define MOST 40000u

extern const uint8_t _binary_boundaries_bin_start[];
extern const uint8_t _binary_boundaries_bin_end[];

static struct ts_codec codec;
static uint8_t coded[MOST + 1];
static uint8_t decoded[MOST];

static uint32_t count(void) {
    uint32_t ccount;
    __asm__ volatile("rsr %0, ccount" : "=r"(ccount)::"memory");
    return ccount;
}

static void say(uint32_t value, char end) {
    char text[12];
    size_t at = sizeof text;
    text[--at] = end;
    do {
        text[--at] = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0);
    simcall(SYS_WRITE, 1, text + at, sizeof text - at);
}

void run(void) {
    const uint8_t *at = _binary_boundaries_bin_start;
    int failed = 0;
    while (at < _binary_boundaries_bin_end && failed == 0) {
        uint32_t n = ts_get32(at);
        struct ts_near near = {.left = ts_get16(at + 4), .above = ts_get16(at + 6)};
        at += 8;
        uint32_t start = count();
        uint32_t len = ts_codec_encode(&codec, at, n, near, coded);
        uint32_t middle = count();
        uint32_t got = 0;
        int code = ts_codec_decode(&codec, coded, len, decoded, MOST, &got);
        uint32_t end = count();
        failed = n > MOST || code != TS_OK || got != n || memcmp(decoded, at, n) != 0;
        say(n, ' ');
        say(len, ' ');
        say(middle - start, ' ');
        say(end - middle, '\n');
        at += n;
    }
    simcall(SYS_EXIT, failed, NULL, 0);
}
