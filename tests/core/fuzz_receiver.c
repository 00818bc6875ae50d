/* libFuzzer: everything that can come from outside, given to a relay with both its sessions up.
 *
 *   CC=clang-22 cmake -S firmware/core -B build/fuzz -DTS_FUZZ=ON && cmake --build build/fuzz --target fuzz_receiver
 *   build/fuzz/tests/fuzz_receiver -max_total_time=60 -max_len=4096 tests/core/corpus
 *
 * The input is a list of records: operation, length (u8), bytes. Checksums and tags are put right where
 * the operation says so, or the fuzzer would never get past them. */
#include "tinysplit/tinysplit.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGE 2048

enum { UP = 1, DOWN = 2 };

static struct ts_session sessions[3];
static struct ts_job jobs[2];
static uint8_t rx[TS_RX_MEMORY(3, MESSAGE)];
static uint8_t out[TS_JOB_MEMORY(2, MESSAGE)];
static uint8_t frame[512];
static const struct ts_link links[] = {{.mtu = 250}, {.mtu = 512}};
static const struct ts_addr up = {.link = 0, .len = 1, .bytes = {UP}};
static const struct ts_addr down = {.link = 0, .len = 1, .bytes = {DOWN}};
static struct ts_node node;
static uint64_t now;
static uint32_t seed;
static uint32_t nonce_i;
static uint32_t next_id[2];
static uint32_t sends;

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *bytes, size_t len) {
    (void)ctx;
    if (len > links[to->link].mtu || len < 8) {
        abort();
    }
    if (bytes[0] >> 4 == TS_F_HELLO) {
        nonce_i = ts_get32(bytes + 4);
    }
    sends++;
    return sends % 13 == 0 ? TS_E_WOULD_BLOCK : sends % 29 == 0 ? TS_E_SEND_FAILED : TS_OK;
}

static uint32_t random_word(void *ctx) {
    (void)ctx;
    return seed = seed * 1664525u + 1013904223u;
}

static int invoke(void *ctx, struct ts_invoke *run) {
    (void)ctx;
    uint32_t n = run->input->total < run->output_cap ? run->input->total : run->output_cap;
    memcpy(run->output, run->input->data, n);
    run->count = 1;
    run->bytes[0] = run->inference % 5 == 4 ? UINT32_MAX : n;
    return run->inference % 3 == 0 ? TS_E_WOULD_BLOCK : run->inference % 7 == 0 ? TS_E_INVOKE_FAILED : TS_OK;
}

static void on_event(void *ctx, const struct ts_event *e) {
    (void)ctx;
    if (e->type == TS_EV_MESSAGE) {
        volatile uint32_t sum = 0;
        for (uint32_t i = 0; i < e->len; i++) {
            sum += e->body[i];
        }
        if (e->len % 3 != 0) {
            ts_release(&node.ep, now, e->session, e->slot);
        }
    }
}

static struct ts_node_config cfg = {.endpoint = {.crc = {NULL, ts_crc16_small, ts_crc32_small},
                                                 .send = send_frame,
                                                 .random = random_word,
                                                 .role = TS_ROLE_RELAY,
                                                 .stage = 1,
                                                 .stage_count = 3,
                                                 .codecs = 1,
                                                 .bundle = {1},
                                                 .accept_control = true,
                                                 .accept_blob = true,
                                                 .links = links,
                                                 .link_count = 2,
                                                 .sessions = sessions,
                                                 .session_count = 3,
                                                 .rx_memory = rx,
                                                 .rx_memory_bytes = sizeof rx,
                                                 .max_message = MESSAGE,
                                                 .frame = frame,
                                                 .frame_bytes = sizeof frame},
                                    .downstream = &down,
                                    .jobs = jobs,
                                    .job_count = 2,
                                    .out_memory = out,
                                    .out_memory_bytes = sizeof out,
                                    .max_output = MESSAGE,
                                    .invoke = invoke,
                                    .event = on_event};

static struct ts_session *session_of(const struct ts_addr *addr) {
    for (uint32_t i = 0; i < 3; i++) {
        if (sessions[i].state >= TS_S_PENDING && sessions[i].addr.bytes[0] == addr->bytes[0]) {
            return &sessions[i];
        }
    }
    return NULL;
}

static const struct ts_keys *keys_of(const struct ts_addr *addr) {
    static const struct ts_keys none;
    const struct ts_session *s = session_of(addr);
    return s == NULL ? &none : s->state == TS_S_UP && s->pending.until == 0 ? &s->keys : &s->pending.keys;
}

/* A fresh copy of exactly this length, so that ASan sees a byte too far. */
static void give(const struct ts_addr *from, const uint8_t *bytes, size_t len) {
    uint8_t *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, bytes, len);
    ts_node_on_datagram(&node, now, from, copy, len);
    free(copy);
}

static void give_hello(const struct ts_addr *from, uint8_t kind, const uint8_t *bytes, size_t len) {
    uint8_t in[TS_HELLO_MAX_BYTES] = {0};
    struct ts_hello h = {.version_max = 1,
                         .version_min = 1,
                         .slots = 2,
                         .role = kind == TS_F_HELLO ? TS_ROLE_HEAD : TS_ROLE_TAIL,
                         .stage = kind == TS_F_HELLO ? 0 : 2,
                         .stage_count = 3,
                         .mtu = 250,
                         .window = 64,
                         .codecs = 1,
                         .nonce_i = kind == TS_F_HELLO ? 7 + (uint32_t)len : nonce_i,
                         .nonce_a = kind == TS_F_HELLO ? 0 : 9,
                         .max_message = MESSAGE,
                         .bundle = {1}};
    ts_hello_encode(&cfg.endpoint.crc, kind, &h, in);
    for (size_t i = 0; i + 1 < len; i += 2) { /* pairs: where, what */
        in[bytes[i] % 64] ^= bytes[i + 1];
    }
    ts_put32(in + 64, ts_crc32_small(NULL, 0, in, 64));
    give(from, in, TS_HELLO_BYTES);
}

static void give_sealed(const struct ts_addr *from, const uint8_t *bytes, size_t len) {
    uint8_t in[300];
    const struct ts_keys *k = keys_of(from);
    if (len < 2 || len > 256) {
        return;
    }
    memcpy(in, bytes, len);
    in[1] = (uint8_t)k->sid;
    if (in[0] >> 4 >= TS_F_PING && len >= 8) {
        ts_put32(in + 4, k->sid);
    }
    ts_put16(in + len, ts_crc16_small(NULL, k->seed, in, len));
    give(from, in, len + 2);
}

/* A whole message with a right CRC32, in one frame. */
static void give_message(const struct ts_addr *from, const uint8_t *bytes, size_t len) {
    uint8_t in[300];
    const struct ts_keys *k = keys_of(from);
    if (len < 1 || len > 200) {
        return;
    }
    struct ts_envelope env = {.kind = bytes[0], .ttl_ms = (uint16_t)(len * 7), .id = ++next_id[from->bytes[0] - 1]};
    ts_envelope_encode(&cfg.endpoint.crc, k->sid, &env, bytes + 1, (uint32_t)len - 1, in);
    memcpy(in + TS_ENVELOPE, bytes + 1, len - 1);
    struct ts_frame f = {.kind = TS_F_DATA,
                         .flags = TS_DATA_LAST,
                         .message = (uint16_t)env.id,
                         .payload = in,
                         .payload_len = (uint16_t)(TS_ENVELOPE + len - 1)};
    uint8_t sealed[300];
    give(from, sealed, ts_frame_encode(&cfg.endpoint.crc, k->sid, k->seed, &f, sealed));
}

static void ignore(void *ctx, const uint8_t *bytes, size_t len) {
    (void)ctx;
    give(&up, bytes, len);
}

static void short_enough(void *ctx, const uint8_t *frame, size_t len) {
    (void)ctx;
    (void)frame;
    if (len < 1 || len > 100) {
        abort();
    }
}

static void no_zeros(void *ctx, const uint8_t *text, size_t len) {
    (void)ctx;
    if (len == 0 || memchr(text, 0, len) != NULL) {
        abort();
    }
}

/* Bytes of a wire as they are, or as a frame of it, so that whole ones come up, too. */
static void read_wire(struct ts_wire *wire, const uint8_t *bytes, size_t len, bool whole) {
    uint8_t coded[TS_WIRE_MAX(256)];
    if (whole) {
        len = ts_wire_encode(wire->crc, bytes, len, coded);
        bytes = coded;
    }
    ts_wire_read(wire, bytes, len, short_enough, no_zeros, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t stream_buffer[256];
    static uint8_t wire_buffer[TS_WIRE_MAX(100)];
    struct ts_stream streams[2];
    struct ts_wire wire;
    now = 1000;
    seed = 1;
    sends = 0;
    next_id[0] = next_id[1] = 0;
    if (ts_node_init(&node, &cfg, now) != TS_OK) {
        abort();
    }
    ts_stream_init(&streams[0], false, stream_buffer, sizeof stream_buffer);
    ts_stream_init(&streams[1], true, stream_buffer, sizeof stream_buffer);
    ts_wire_init(&wire, &cfg.endpoint.crc, wire_buffer, 100);
    ts_node_poll(&node, now);
    give_hello(&down, TS_F_HELLO_ACK, NULL, 0);
    give_hello(&up, TS_F_HELLO, NULL, 0);
    const uint8_t confirm[] = {TS_F_PING << 4, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
    give_sealed(&up, confirm, sizeof confirm);
    while (size >= 2) {
        uint8_t op = data[0];
        size_t len = data[1] < size - 2 ? data[1] : size - 2;
        const uint8_t *bytes = data + 2;
        const struct ts_addr *from = (op & 0x80u) != 0 ? &down : &up;
        switch (op & 0x0Fu) {
        case 0:
            give(from, bytes, len);
            break;
        case 1:
        case 2:
        case 3:
            give_sealed(from, bytes, len);
            break;
        case 4:
        case 5:
            give_message(from, bytes, len);
            break;
        case 6:
            give_hello(from, TS_F_HELLO, bytes, len);
            break;
        case 7:
            give_hello(from, TS_F_HELLO_ACK, bytes, len);
            break;
        case 8:
            if ((op & 0x40u) != 0) {
                read_wire(&wire, bytes, len, (op & 0x20u) != 0);
                break;
            }
            if (ts_stream_read(&streams[op >> 4 & 1u], bytes, len, ignore, NULL) != TS_OK) {
                ts_stream_init(&streams[0], false, stream_buffer, sizeof stream_buffer);
            }
            break;
        case 9:
            ts_release(&node.ep, now, (uint16_t)(op >> 4 & 3u), (uint8_t)(len & 1u));
            break;
        case 10:
            if (node.running >= 0) {
                struct ts_invoke run = node.run;
                run.invoke_us = (uint32_t)len;
                ts_node_invoked(&node, now, &run, len % 3 == 0 ? TS_E_INVOKE_FAILED : TS_OK);
            }
            break;
        case 11:
            now -= len < now ? len : 0; /* the clock goes back */
            break;
        case 12:
            now += (uint64_t)len * 1000000u;
            break;
        case 13: {
            static const uint8_t local[256];
            struct ts_tensors input = {.count = 1, .bytes = {(uint32_t)len}, .total = (uint32_t)len, .data = local};
            ts_node_infer(&node, now, op >> 4, &input, 0);
            break;
        }
        case 14:
            ts_node_cancel(&node, now, op >> 4);
            break;
        default:
            now += (uint64_t)len * len * 4u;
            break;
        }
        uint64_t until = ts_node_poll(&node, now);
        if (until < now) {
            abort();
        }
        data += 2 + len;
        size -= 2 + len;
    }
    return 0;
}
