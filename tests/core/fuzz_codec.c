/* libFuzzer target for codec 1. The first byte chooses: the rest is decoded as a coded form, which must be refused or
 * fit, or it is a tensor, which must come back. Buffers have exactly their length, so that ASan sees every byte too
 * far. */
#include "tinysplit/codec.h"

#include <stdlib.h>
#include <string.h>

static struct ts_codec codec;

static void decode(const uint8_t *data, uint32_t len, uint32_t cap) {
    uint8_t *in = malloc(len + 1);
    uint8_t *out = malloc(cap + 1);
    uint32_t n = 0;
    memcpy(in, data, len);
    int code = ts_codec_decode(&codec, in, len, out, cap, &n);
    if (code == TS_OK ? n > cap : code != TS_E_MALFORMED && code != TS_E_TOO_LARGE) {
        abort();
    }
    free(in);
    free(out);
}

static void there_and_back(const uint8_t *data, uint32_t n, struct ts_near near) {
    uint8_t *coded = malloc(n + 1);
    uint8_t *out = malloc(n + 1);
    uint32_t got = 0;
    uint32_t len = ts_codec_encode(&codec, data, n, near, coded);
    if (len > n + 1 || ts_codec_decode(&codec, coded, len, out, n, &got) != TS_OK || got != n ||
        memcmp(out, data, n) != 0) {
        abort();
    }
    free(coded);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 4) {
        return 0;
    }
    uint32_t len = (uint32_t)size - 4;
    if (data[0] % 2 == 0) {
        decode(data + 4, len, ts_get16(data + 1));
    } else {
        struct ts_near near = {.left = data[1], .above = ts_get16(data + 2)};
        near.left = near.above != 0 ? near.left : 0;
        there_and_back(data + 4, len, near);
    }
    return 0;
}
