#include "fake_engine.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"

bool fake_engine_fails;
uint32_t fake_engine_us, fake_engine_wrong_from;

static struct engine_state state = {.wrong_operator = ENGINE_OPERATORS};
static struct ts_image image;
static const uint8_t *base;
static uint32_t received[TS_MAX_TENSORS], sent[TS_MAX_TENSORS];
static bool profiled, timed;

static int refuse(int code, const char *why) {
    (void)snprintf(state.problem, sizeof state.problem, "%s", why);
    return code;
}

void engine_close(void) {
    memset(&state, 0, sizeof state);
    state.wrong_operator = ENGINE_OPERATORS;
}

int engine_open(const struct ts_image *of, const uint8_t *at) {
    engine_close();
    image = *of;
    base = at;
    const uint8_t *m = base + image.manifest.at;
    struct ts_image_tensor tensor;
    for (uint32_t i = 0; i < image.received; i++) {
        if (!ts_image_received(m, image.manifest.bytes, i, &tensor)) {
            return refuse(TS_E_IMAGE_MALFORMED, "the image's manifest contradicts itself");
        }
        received[i] = tensor.bytes;
    }
    for (uint32_t i = 0; i < image.sent; i++) {
        int32_t route;
        if (!ts_image_sent(m, image.manifest.bytes, i, &route)) {
            return refuse(TS_E_IMAGE_MALFORMED, "the image's manifest contradicts itself");
        }
        if (route >= 0 && !ts_image_output(m, image.manifest.bytes, (uint32_t)route, &tensor)) {
            return refuse(TS_E_IMAGE_MALFORMED, "the image's manifest contradicts itself");
        }
        sent[i] = route >= 0 ? tensor.bytes : received[-1 - route];
    }
    state.open = true;
    state.arena_internal = true;
    state.arena_bytes = 100000;
    state.arena_used = 90000;
    state.operators = image.operators;
    return TS_OK;
}

int engine_self_test(uint32_t *detail) {
    if (!state.open) {
        return TS_E_INVOKE_FAILED;
    }
    state.tests++;
    state.proven = fake_engine_wrong_from == 0 || image.version < fake_engine_wrong_from;
    if (!state.proven) {
        state.wrong_operator = 0;
        (void)snprintf(state.wrong, sizeof state.wrong, "operator 0, CONV_2D 1x8x8x3 to 1x4x4x8, reference kernel");
        *detail = 0;
        return refuse(TS_E_SELF_TEST, "the self-test gives other bytes, first in operator 0");
    }
    state.passed++;
    state.problem[0] = '\0';
    return TS_OK;
}

int engine_run(struct ts_invoke *run) {
    if (!state.open || !state.proven) {
        return TS_E_REFUSED;
    }
    uint32_t total = engine_sent_bytes();
    bool fits = run->input->count == image.received && run->output_cap >= total;
    for (uint32_t i = 0; fits && i < image.received; i++) {
        fits = run->input->bytes[i] == received[i];
    }
    if (!fits) {
        return TS_E_MALFORMED;
    }
    usleep(fake_engine_us);
    timed = profiled;
    state.runs++;
    state.last_us = run->invoke_us = fake_engine_us + 1;
    if (fake_engine_fails) {
        return TS_E_INVOKE_FAILED;
    }
    bool golden = memcmp(run->input->data, base + image.input.at, run->input->total) == 0;
    uint32_t sum = 1;
    for (uint32_t i = 0; i < run->input->total; i++) {
        sum = sum * 31 + run->input->data[i];
    }
    for (uint32_t i = 0; i < total; i++) {
        run->output[i] = golden ? base[image.output.at + i] : (uint8_t)(sum + i);
    }
    run->count = image.sent;
    memcpy(run->bytes, sent, sizeof sent);
    return TS_OK;
}

bool engine_golden(struct ts_tensors *out) {
    if (!state.open) {
        return false;
    }
    memset(out, 0, sizeof *out);
    out->total = engine_received(out->bytes, &out->count);
    out->data = base + image.input.at;
    return true;
}

uint32_t engine_received(uint32_t bytes[TS_MAX_TENSORS], uint8_t *count) {
    uint32_t total = 0;
    *count = state.open ? image.received : 0;
    for (uint32_t i = 0; i < *count; i++) {
        bytes[i] = received[i];
        total += received[i];
    }
    return total;
}

/* Without neighbours: an encoder may choose so (SPEC.md 14.1). */
void engine_near(struct ts_near near[TS_MAX_TENSORS]) {
    memset(near, 0, TS_MAX_TENSORS * sizeof *near);
}

uint32_t engine_sent_bytes(void) {
    uint32_t total = 0;
    for (uint32_t i = 0; state.open && i < image.sent; i++) {
        total += sent[i];
    }
    return total;
}

void engine_profile(bool on) {
    profiled = on;
}

bool engine_operator(uint32_t index, const char **name, uint32_t *us) {
    if (!state.open || index >= state.operators) {
        return false;
    }
    *name = "CONV_2D";
    *us = timed ? 10 + index : 0;
    return true;
}

struct engine_state engine_state(void) {
    return state;
}

const char *engine_kernels_name(uint8_t kernels) {
    return kernels == KERNELS_ESP_NN ? "esp-nn" : kernels == KERNELS_MIXED ? "mixed" : "reference";
}
