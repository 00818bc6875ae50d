/* Images: the vectors, what the manifest says, and every way to be refused. */
#include "check.h"

#include "images.h"

#define SLOT (16u * 4096u)

static struct signer *ours;
static struct signer *theirs;

struct bytes {
    const uint8_t *data;
    uint32_t len;
    uint32_t fail_at; /* the read that fails, from 1 */
    uint32_t reads;
};

/* What lies behind the image is erased flash. */
static bool read_bytes(void *ctx, uint32_t offset, uint8_t *out, uint32_t len) {
    struct bytes *b = ctx;
    assert_true(offset + len <= SLOT);
    for (uint32_t i = 0; i < len; i++) {
        out[i] = offset + i < b->len ? b->data[offset + i] : 0xFF;
    }
    return ++b->reads != b->fail_at;
}

static struct ts_image_rules rules_of(struct signer *key) {
    return (struct ts_image_rules){.crypto = signer_crypto(key),
                                   .crc = {NULL, ts_crc16_small, ts_crc32_small},
                                   .max_bytes = SLOT,
                                   .max_arena = 300000,
                                   .firmware = 0x000100,
                                   .chip = TS_CHIP_ESP32S3,
                                   .stage = TS_NO_STAGE};
}

static int judge(const struct ts_image_rules *rules, const uint8_t *data, uint32_t len, struct ts_image *image) {
    static uint8_t work[TS_IMAGE_MANIFEST];
    struct bytes b = {.data = data, .len = len};
    struct ts_image_source source = {&b, read_bytes};
    return ts_image_verify(rules, &source, NULL, work, sizeof work, image);
}

/* How a board with our key takes a draft that we signed. */
static int judge_draft(const struct draft *d) {
    struct ts_image_rules rules = rules_of(ours);
    struct ts_image image;
    uint32_t len;
    uint8_t *packed = image_pack(d, ours, &len);
    int code = judge(&rules, packed, len, &image);
    free(packed);
    return code;
}

static uint32_t number(const char *text, const char *name, const char *key) {
    const char *value = vector_field(text, name, strlen(name), key);
    assert_non_null(value);
    return (uint32_t)strtoul(value, NULL, 10);
}

static uint32_t unhex(const char *hex, uint8_t *out, uint32_t cap) {
    uint32_t n = 0;
    for (; hex != NULL && hex[0] > ' ' && n < cap; hex += 2, n++) {
        unsigned value;
        assert_int_equal(sscanf(hex, "%2x", &value), 1);
        out[n] = (uint8_t)value;
    }
    return n;
}

static void the_vectors(void **state) {
    (void)state;
    static const char *const names[] = {"image_signed", "image_unsigned", "image_firmware"};
    size_t text_len;
    char *text = read_file(IMAGE_VECTORS_PATH, &text_len);
    for (uint32_t i = 0; i < 3; i++) {
        const char *name = names[i];
        uint8_t data[512], key[65], digest[TS_IMAGE_DIGEST];
        uint32_t len = unhex(vector_field(text, name, strlen(name), "hex"), data, sizeof data);
        struct signer *signer = NULL;
        if (unhex(vector_field(text, name, strlen(name), "key"), key, sizeof key) != 0) {
            signer = signer_public(key);
        }
        struct ts_image_rules rules = rules_of(signer);
        rules.allow_unsigned = signer == NULL;
        struct ts_image image;
        assert_int_equal(judge(&rules, data, len, &image), TS_OK);
        unhex(vector_field(text, name, strlen(name), "digest"), digest, sizeof digest);
        assert_memory_equal(image.digest, digest, sizeof digest);
        assert_int_equal(image.bytes, number(text, name, "bytes"));
        assert_int_equal(image.version, number(text, name, "version"));
        assert_int_equal(image.downgrade_from, number(text, name, "downgrade_from"));
        assert_int_equal(image.firmware, number(text, name, "firmware"));
        assert_int_equal(image.chip, number(text, name, "chip"));
        assert_int_equal(image.stage, number(text, name, "stage"));
        assert_int_equal(image.stage_count, number(text, name, "stage_count"));
        assert_int_equal(image.arena_bytes, number(text, name, "arena_bytes"));
        assert_int_equal(image.manifest.bytes, number(text, name, "manifest_bytes"));
        assert_int_equal(image.model.bytes, number(text, name, "model_bytes"));
        assert_int_equal(image.input.bytes, number(text, name, "input_bytes"));
        assert_int_equal(image.output.bytes, number(text, name, "output_bytes"));
        assert_int_equal(image.received, number(text, name, "received"));
        assert_int_equal(image.outputs, number(text, name, "outputs"));
        assert_int_equal(image.inputs, number(text, name, "inputs"));
        assert_int_equal(image.sent, number(text, name, "sent"));
        assert_int_equal(image.operators, number(text, name, "operators"));
        assert_int_equal(image.results, number(text, name, "result"));
        if (signer != NULL) {
            signer_free(signer);
        }
    }
    free(text);
}

static void the_manifest_answers_questions(void **state) {
    (void)state;
    size_t text_len;
    char *text = read_file(IMAGE_VECTORS_PATH, &text_len);
    uint8_t data[512];
    uint32_t len = unhex(vector_field(text, "image_unsigned", 14, "hex"), data, sizeof data);
    struct ts_image_rules rules = rules_of(NULL);
    rules.allow_unsigned = true;
    struct ts_image image;
    assert_int_equal(judge(&rules, data, len, &image), TS_OK);
    const uint8_t *m = data + image.manifest.at;
    uint32_t m_len = image.manifest.bytes;
    assert_memory_equal(m + image.name.at, "tiny", image.name.bytes);
    assert_int_equal(image.bundle[31], 31);

    struct ts_image_tensor t;
    assert_true(ts_image_received(m, m_len, 0, &t));
    assert_int_equal(t.bytes, 4);
    assert_int_equal(t.dtype, 9);
    assert_int_equal(t.dims, 4);
    assert_int_equal(t.shape[2], 2);
    assert_int_equal(t.scale_bits, 0x3F000000);
    assert_int_equal(t.zero_point, -3);
    assert_true(ts_image_received(m, m_len, 1, &t));
    assert_int_equal(t.bytes, 4);
    assert_int_equal(t.scale_bits, 0);
    assert_false(ts_image_received(m, m_len, 2, &t));
    assert_true(ts_image_output(m, m_len, 0, &t));
    assert_int_equal(t.bytes, 3);
    assert_false(ts_image_output(m, m_len, 1, &t));

    assert_true(ts_image_result(m, m_len, 0, &t));
    assert_int_equal(t.bytes, 10);
    assert_int_equal(t.dtype, 3);
    assert_false(ts_image_result(m, m_len, 1, &t));

    uint32_t received;
    int32_t route;
    assert_true(ts_image_input(m, m_len, 0, &received));
    assert_int_equal(received, 0);
    assert_false(ts_image_input(m, m_len, 1, &received));
    assert_true(ts_image_sent(m, m_len, 0, &route));
    assert_int_equal(route, 0);
    assert_true(ts_image_sent(m, m_len, 1, &route));
    assert_int_equal(route, -2);
    assert_false(ts_image_sent(m, m_len, 2, &route));

    struct ts_image_operator op;
    assert_true(ts_image_operator(m, m_len, 1, &op));
    assert_int_equal(op.code, 9);
    assert_int_equal(op.outputs, 1);
    assert_int_equal(op.crc32[0], 0xDDCCBBAA);
    assert_false(ts_image_operator(m, m_len, 2, &op));
    free(text);
}

static void each_rule_has_its_error(void **state) {
    (void)state;
    struct draft good = image_draft(1, 1000);
    assert_int_equal(judge_draft(&good), TS_OK);
    struct draft d = good;
    d.chip = TS_CHIP_ANY;
    assert_int_equal(judge_draft(&d), TS_OK);
    d.chip = 0; /* an ESP32 */
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_CHIP);
    d = good;
    d.firmware = 0x000101;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_FIRMWARE);
    d = good;
    d.arena_bytes = 300001;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_ARENA);
    d = good;
    d.model_bytes = SLOT;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_TOO_LARGE);
    d = good;
    d.version = 0;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_MALFORMED);
    d = good;
    d.flags = 2;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_MALFORMED);
    d = good;
    d.kind = 3;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_MALFORMED);
    d = good;
    d.stage = 2;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_MALFORMED);
    d = good;
    d.stage_count = 255;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_MALFORMED);
    d = good;
    d.model_bytes = 0;
    assert_int_equal(judge_draft(&d), TS_E_IMAGE_MALFORMED);
}

static void another_stage_is_refused(void **state) {
    (void)state;
    struct ts_image_rules rules = rules_of(ours);
    struct draft d = image_draft(1, 1000);
    struct ts_image image;
    uint32_t len;
    uint8_t *packed = image_pack(&d, ours, &len);
    rules.stage = 0;
    assert_int_equal(judge(&rules, packed, len, &image), TS_OK);
    rules.stage = 1;
    assert_int_equal(judge(&rules, packed, len, &image), TS_E_IMAGE_STAGE);
    free(packed);
}

static void keys_decide(void **state) {
    (void)state;
    struct draft d = image_draft(1, 1000);
    struct ts_image image;
    uint32_t len;
    uint8_t *by_us = image_pack(&d, ours, &len), *by_them = image_pack(&d, theirs, &len);
    uint8_t *by_nobody = image_pack(&d, NULL, &len);
    for (int development = 0; development < 2; development++) {
        struct ts_image_rules with_key = rules_of(ours), keyless = rules_of(NULL);
        with_key.allow_unsigned = keyless.allow_unsigned = development;
        assert_int_equal(judge(&with_key, by_us, len, &image), TS_OK);
        assert_int_equal(judge(&with_key, by_them, len, &image), TS_E_IMAGE_SIGNATURE);
        assert_int_equal(judge(&with_key, by_nobody, len, &image), TS_E_IMAGE_UNSIGNED);
        assert_int_equal(judge(&keyless, by_us, len, &image), TS_E_IMAGE_NO_KEY);
        assert_int_equal(judge(&keyless, by_nobody, len, &image), development ? TS_OK : TS_E_IMAGE_NO_KEY);
    }
    /* Claiming to be signed does not make it so. */
    struct ts_image_rules rules = rules_of(ours);
    by_nobody[7] = TS_IMAGE_SIGNED;
    image_seal(by_nobody, len, NULL);
    assert_int_equal(judge(&rules, by_nobody, len, &image), TS_E_IMAGE_SIGNATURE);
    free(by_us);
    free(by_them);
    free(by_nobody);
}

static void no_bit_can_flip(void **state) {
    (void)state;
    struct draft d = image_draft(1, 600);
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        struct ts_image_rules rules = rules_of(is_signed ? ours : NULL);
        rules.allow_unsigned = true;
        struct ts_image image;
        uint32_t len;
        uint8_t *packed = image_pack(&d, is_signed ? ours : NULL, &len);
        for (uint32_t bit = 0; bit < 8 * len; bit++) {
            packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
            int code = judge(&rules, packed, len, &image);
            assert_true(code >= TS_E_IMAGE_MALFORMED && code <= TS_E_IMAGE_SIGNATURE);
            packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_int_equal(judge(&rules, packed, len, &image), TS_OK);
        free(packed);
    }
}

static void no_sector_can_be_missing(void **state) {
    (void)state;
    struct ts_image_rules rules = rules_of(ours);
    struct draft d = image_draft(1, 40000);
    struct ts_image image;
    uint32_t len;
    uint8_t *packed = image_pack(&d, ours, &len);
    for (uint32_t keep = 0; keep < len; keep += 4096) {
        assert_int_equal(judge(&rules, packed, keep, &image), keep == 0 ? TS_E_IMAGE_MALFORMED : TS_E_IMAGE_SIGNATURE);
    }
    assert_int_equal(judge(&rules, packed, len - 16, &image), TS_E_IMAGE_SIGNATURE);
    free(packed);
}

/* Headers whose lengths lie, with a CRC and a signature that fit. */
static void lengths_that_lie(void **state) {
    (void)state;
    static const uint32_t lies[] = {0,      1,      15,   16,        17,         63,         64,         127,
                                    128,    129,    4096, 4097,      0x7FFFFFFF, 0x80000000, 0x80000010, 0xFFFFFFC0,
                                    0xFFF0, 0xFFFF, SLOT, SLOT + 16, 0xFFFFFFEF, 0xFFFFFFF0, 0xFFFFFFF1, 0xFFFFFFFF};
    struct ts_image_rules rules = rules_of(ours);
    struct draft d = image_draft(1, 1000);
    struct ts_image image;
    uint32_t len;
    uint8_t *packed = image_pack(&d, ours, &len);
    uint8_t header[TS_IMAGE_HEADER];
    memcpy(header, packed, sizeof header);
    uint32_t tried = 0;
    for (uint32_t first = 8; first <= 44; first = first == 8 ? 32 : first + 4) {
        for (uint32_t second = 8; second <= 44; second = second == 8 ? 32 : second + 4) {
            for (uint32_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
                for (uint32_t k = 0; k < sizeof lies / sizeof lies[0]; k++) {
                    memcpy(packed, header, sizeof header);
                    ts_put32(packed + first, lies[i]);
                    ts_put32(packed + second, lies[k]);
                    if (memcmp(packed, header, sizeof header) == 0) {
                        continue;
                    }
                    ts_put32(packed + 60, ts_crc32_small(NULL, 0, packed, 60));
                    int code = judge(&rules, packed, len, &image);
                    assert_true(code >= TS_E_IMAGE_MALFORMED && code <= TS_E_IMAGE_SIGNATURE);
                    tried++;
                }
            }
        }
    }
    assert_true(tried > 10000);
    free(packed);
}

static void manifest_is(struct draft *d, const char *hex) {
    d->manifest_bytes = unhex(hex, d->manifest, sizeof d->manifest);
}

/* Signed manifests that are wrong each in one thing; the good one first. */
static void manifests_that_lie(void **state) {
    (void)state;
#define M(count, name, received, outputs, inputs, sent, ops, more)                                                     \
    "a" count "0158200000000000000000000000000000000000000000000000000000000000000000" name received outputs inputs    \
        sent ops RESULT more
#define NAME "026161"
#define RECEIVED "038184098201040000"
#define OUTPUTS "048184098201030000"
#define INPUTS "058100"
#define SENT "068100"
#define OPS "0781820300"
#define OPS1000 TEN(TEN(TEN("8103")))
#define OPS24 TEN("8103") TEN("8103") "8103810381038103"
#define TEN(x) x x x x x x x x x x
#define RESULT "088184038118640000"
    static const char *const lies[] = {
        M("7", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, "", ""),                      /* no operators */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, "", ""),                      /* they are missing */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, "0780", ""),                  /* none */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "00"),                   /* bytes behind it */
        M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, ""),                     /* a pair too few */
        M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "0800"),                 /* a key twice */
        M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "098181818181818100"),   /* nested too deep */
        M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "09fb0000000000000000"), /* a float */
        M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "09bf"),                 /* an open map */
        M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "099affffffff"),         /* an array of 2^32 - 1 */
        M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "095affffffff"),         /* a string as long */
        M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "091bffffffffffffffff"), /* 64 bits */
        M("8", "0260", RECEIVED, OUTPUTS, INPUTS, SENT, OPS, ""),                   /* no name */
        M("8", "026261ff", RECEIVED, OUTPUTS, INPUTS, SENT, OPS, ""),               /* a name that cannot be printed */
        M("8", "024161", RECEIVED, OUTPUTS, INPUTS, SENT, OPS, ""),                 /* a name of bytes */
        M("8", NAME, "038184098201050000", OUTPUTS, INPUTS, SENT, OPS, ""),         /* 5 bytes, not 4 */
        M("8", NAME, "0380", OUTPUTS, INPUTS, SENT, OPS, ""),                       /* nothing received */
        M("8", NAME, "038184098200040000", OUTPUTS, INPUTS, SENT, OPS, ""),         /* a dimension of 0 */
        M("8", NAME, "0381840982011a000000040000", OUTPUTS, INPUTS, SENT, OPS, ""), /* 4 in 4 bytes */
        M("8", NAME, "038184008201040000", OUTPUTS, INPUTS, SENT, OPS, ""),         /* float32 */
        M("8", NAME, "038184051a00010000", OUTPUTS, INPUTS, SENT, OPS, ""),         /* a shape that is a number */
        M("8", NAME,
          "03818409841a800000001a800000000404"
          "0000",
          OUTPUTS, INPUTS, SENT, OPS, ""), /* 2^66 bytes */
        M("8", NAME,
          "03818409841a000100001a000100000104"
          "0000",
          OUTPUTS, INPUTS, SENT, OPS, ""),                                                /* 2^34 bytes */
        M("8", NAME, "0381830982010400", OUTPUTS, INPUTS, SENT, OPS, ""),                 /* a tensor of three */
        M("8", NAME, "03818409890101010101010101040000", OUTPUTS, INPUTS, SENT, OPS, ""), /* 9 dimensions */
        M("8", NAME, RECEIVED, "048184098201040000", INPUTS, SENT, OPS, ""),              /* sends 4, not 3 */
        M("8", NAME, RECEIVED, OUTPUTS, "058101", SENT, OPS, ""),                         /* an input not received */
        M("8", NAME, RECEIVED, OUTPUTS, "058120", SENT, OPS, ""),                         /* input -1 */
        M("8", NAME, RECEIVED, OUTPUTS, "0580", SENT, OPS, ""),                           /* no input */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, "068101", OPS, ""),                       /* an output that is none */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, "068120", OPS, ""),                       /* received 0 has 4 bytes */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, "068121", OPS, ""),                       /* received 1 is none */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, "06813affffffff", OPS, ""),               /* received 2^32 - 1 */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, "06820000", OPS, ""),                     /* sends twice 3 */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, "0680", OPS, ""),                         /* sends nothing */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, "078180", ""), /* an operator without a code */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, "07818a03000000000000000000", ""),    /* nine outputs */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, "0781820320", ""),                    /* a checksum below 0 */
        M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, "07990401" OPS1000 OPS24 "8103", ""), /* 1025 operators */
        M("8", RECEIVED, NAME, OUTPUTS, INPUTS, SENT, OPS, ""),                             /* out of order */
        M("7", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, ""),                             /* a pair too many */
        M("8", "02016161", RECEIVED, OUTPUTS, INPUTS, SENT, OPS, ""),
        "80",
        "a0",
        "00",
        "",
    };
    struct draft d = image_draft(1, 100);
    manifest_is(&d, M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, ""));
    assert_int_equal(judge_draft(&d), TS_OK);
    manifest_is(&d, M("9", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, OPS, "0981a10000"));
    assert_int_equal(judge_draft(&d), TS_OK); /* what comes after is for later readers */
    manifest_is(&d, M("8", NAME, RECEIVED, OUTPUTS, INPUTS, SENT, "07990400" OPS1000 OPS24, ""));
    assert_int_equal(judge_draft(&d), TS_OK); /* 1024 operators are not too many */
    for (uint32_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        manifest_is(&d, lies[i]);
        if (judge_draft(&d) != TS_E_IMAGE_MALFORMED) {
            fail_msg("manifest %u was taken: %s", i, lies[i]);
        }
    }
}

static void any_bytes_can_be_asked(void **state) {
    (void)state;
    struct draft d = image_draft(1, 100);
    for (uint32_t bit = 0; bit < 8 * d.manifest_bytes; bit++) {
        uint8_t *exact = malloc(d.manifest_bytes); /* so that ASan sees the end */
        memcpy(exact, d.manifest, d.manifest_bytes);
        exact[bit / 8] ^= (uint8_t)(1u << bit % 8);
        for (uint32_t len = 0; len <= d.manifest_bytes; len += 7) {
            for (uint32_t i = 0; i < 3; i++) {
                struct ts_image_tensor t;
                struct ts_image_operator op;
                uint32_t received;
                int32_t route;
                if (ts_image_received(exact, len, i, &t)) {
                    assert_true(t.bytes > 0 && t.dims <= TS_IMAGE_DIMS);
                }
                ts_image_output(exact, len, i, &t);
                ts_image_result(exact, len, i, &t);
                ts_image_input(exact, len, i, &received);
                ts_image_sent(exact, len, i, &route);
                if (ts_image_operator(exact, len, i, &op)) {
                    assert_true(op.outputs <= TS_IMAGE_CRCS);
                }
            }
        }
        free(exact);
    }
}

static void a_failing_flash_is_named(void **state) {
    (void)state;
    static uint8_t work[TS_IMAGE_MANIFEST];
    struct ts_image_rules rules = rules_of(ours);
    struct draft d = image_draft(1, 10000);
    uint32_t len;
    uint8_t *packed = image_pack(&d, ours, &len);
    struct bytes b = {.data = packed, .len = len};
    struct ts_image_source source = {&b, read_bytes};
    struct ts_image image;
    assert_int_equal(ts_image_verify(&rules, &source, NULL, work, sizeof work, &image), TS_OK);
    for (uint32_t i = 1, reads = b.reads; i <= reads; i++) {
        b.fail_at = i;
        b.reads = 0;
        assert_int_equal(ts_image_verify(&rules, &source, NULL, work, sizeof work, &image), TS_E_FLASH_FAILED);
    }
    assert_int_equal(ts_image_verify(&rules, &source, NULL, work, sizeof work - 1, &image), TS_E_INVALID);
    free(packed);
}

static void the_announced_digest_counts(void **state) {
    (void)state;
    static uint8_t work[TS_IMAGE_MANIFEST];
    struct ts_image_rules rules = rules_of(ours);
    struct draft d = image_draft(1, 1000);
    uint32_t len;
    uint8_t *packed = image_pack(&d, ours, &len);
    struct bytes b = {.data = packed, .len = len};
    struct ts_image_source source = {&b, read_bytes};
    struct ts_image image;
    uint8_t digest[TS_IMAGE_DIGEST];
    image_digest(packed, len, digest);
    assert_int_equal(ts_image_verify(&rules, &source, digest, work, sizeof work, &image), TS_OK);
    digest[31] ^= 1;
    assert_int_equal(ts_image_verify(&rules, &source, digest, work, sizeof work, &image), TS_E_IMAGE_DIGEST);
    free(packed);
}

static int make_keys(void **state) {
    (void)state;
    ours = signer_new();
    theirs = signer_new();
    return 0;
}

static int drop_keys(void **state) {
    (void)state;
    signer_free(ours);
    signer_free(theirs);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vectors),
        cmocka_unit_test(the_manifest_answers_questions),
        cmocka_unit_test(each_rule_has_its_error),
        cmocka_unit_test(another_stage_is_refused),
        cmocka_unit_test(keys_decide),
        cmocka_unit_test(no_bit_can_flip),
        cmocka_unit_test(no_sector_can_be_missing),
        cmocka_unit_test(lengths_that_lie),
        cmocka_unit_test(manifests_that_lie),
        cmocka_unit_test(any_bytes_can_be_asked),
        cmocka_unit_test(a_failing_flash_is_named),
        cmocka_unit_test(the_announced_digest_counts),
    };
    return cmocka_run_group_tests(tests, make_keys, drop_keys);
}
