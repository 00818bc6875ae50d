#include "tinysplit/image.h"

#include <string.h>

#define MAX_TENSORS TS_MAX_TENSORS
#define MAX_OPERATORS 1024u
#define MAX_NAME 64u
#define MAX_DEPTH 4u

enum { KEY_BUNDLE = 1, KEY_NAME, KEY_RECEIVED, KEY_OUTPUTS, KEY_INPUTS, KEY_SENT, KEY_OPERATORS, KEY_RESULT };

static uint32_t padded(uint32_t bytes) {
    return (bytes + TS_IMAGE_ALIGN - 1) & ~(uint32_t)(TS_IMAGE_ALIGN - 1);
}

/* ---- CBOR, as much of it as section 3 allows ---- */

enum { C_UNSIGNED = 0, C_NEGATIVE = 1, C_BYTES = 2, C_TEXT = 3, C_ARRAY = 4, C_MAP = 5 };

/* Once something is wrong, every further read gives 0. */
struct reader {
    const uint8_t *at, *end;
    bool bad;
};

static uint32_t left(const struct reader *r) {
    return (uint32_t)(r->end - r->at);
}

static uint32_t fail(struct reader *r) {
    r->bad = true;
    r->at = r->end;
    return 0;
}

/* The next item's major type and value; shortest heads only. */
static uint32_t any_head(struct reader *r, uint32_t *major) {
    *major = C_UNSIGNED;
    if (left(r) == 0) {
        return fail(r);
    }
    uint32_t first = *r->at++, value = first & 31u;
    *major = first >> 5;
    if (value >= 24) {
        uint32_t bytes = 1u << ((value - 24u) & 3u);
        if (value > 26 || left(r) < bytes) {
            return fail(r);
        }
        value = 0;
        for (uint32_t i = 0; i < bytes; i++) {
            value = value << 8 | *r->at++;
        }
        if (value < 24 || (bytes > 1 && value >> 4 * bytes == 0)) {
            return fail(r);
        }
    }
    /* What holds others cannot hold more than there are bytes left. */
    if (*major > C_MAP || (*major >= C_BYTES && value > left(r))) {
        return fail(r);
    }
    return value;
}

static uint32_t head(struct reader *r, uint32_t wanted) {
    uint32_t major, value = any_head(r, &major);
    return major == wanted ? value : fail(r);
}

static uint32_t head_within(struct reader *r, uint32_t wanted, uint32_t least, uint32_t most) {
    uint32_t value = head(r, wanted);
    return value >= least && value <= most ? value : fail(r);
}

static int32_t integer(struct reader *r) {
    uint32_t major, value = any_head(r, &major);
    if (major > C_NEGATIVE || value > INT32_MAX) {
        return (int32_t)fail(r);
    }
    return major == C_NEGATIVE ? -1 - (int32_t)value : (int32_t)value;
}

/* One item with all that is in it. */
static void skip(struct reader *r) {
    uint32_t open[MAX_DEPTH + 1] = {1};
    for (uint32_t depth = 0; !r->bad;) {
        if (open[depth] == 0) {
            if (depth == 0) {
                return;
            }
            depth--;
            continue;
        }
        open[depth]--;
        uint32_t major, value = any_head(r, &major);
        if (major == C_BYTES || major == C_TEXT) {
            r->at += value;
        } else if (major >= C_ARRAY) {
            if (++depth > MAX_DEPTH) {
                fail(r);
                return;
            }
            open[depth] = major == C_MAP ? 2 * value : value;
        }
    }
}

/* ---- The manifest ---- */

/* Bytes of a value by TensorType; 0 where a tensor cannot be of it. */
static uint32_t value_bytes(uint32_t dtype) {
    static const uint8_t size[] = {[2] = 4, [3] = 1, [4] = 8, [6] = 1, [7] = 2, [9] = 1, [15] = 4, [16] = 2};
    return dtype < sizeof size ? size[dtype] : 0;
}

static void read_tensor(struct reader *r, struct ts_image_tensor *t) {
    memset(t, 0, sizeof *t);
    head_within(r, C_ARRAY, 4, 4);
    t->dtype = (uint8_t)head_within(r, C_UNSIGNED, 0, 255);
    t->dims = (uint8_t)head_within(r, C_ARRAY, 0, TS_IMAGE_DIMS);
    t->bytes = value_bytes(t->dtype);
    for (uint32_t i = 0; i < t->dims; i++) {
        uint32_t n = head(r, C_UNSIGNED);
        if (n == 0 || t->bytes > UINT32_MAX / n) {
            fail(r);
            break;
        }
        t->shape[i] = n;
        t->bytes *= n;
    }
    t->scale_bits = head(r, C_UNSIGNED);
    t->zero_point = integer(r);
    if (t->bytes == 0) {
        fail(r);
    }
}

static void read_operator(struct reader *r, struct ts_image_operator *op) {
    memset(op, 0, sizeof *op);
    op->outputs = (uint8_t)(head_within(r, C_ARRAY, 1, TS_IMAGE_CRCS + 1) - 1u);
    op->code = head(r, C_UNSIGNED);
    for (uint32_t i = 0; !r->bad && i < op->outputs; i++) {
        op->crc32[i] = head(r, C_UNSIGNED);
    }
}

static uint8_t read_tensors(struct reader *r, uint32_t bytes[MAX_TENSORS]) {
    uint32_t n = head_within(r, C_ARRAY, 1, MAX_TENSORS);
    for (uint32_t i = 0; i < n; i++) {
        struct ts_image_tensor t;
        read_tensor(r, &t);
        bytes[i] = t.bytes;
    }
    return (uint8_t)n;
}

/* Takes `bytes` off what is still to be accounted for. */
static void take(struct reader *r, uint32_t *rest, uint32_t bytes) {
    if (bytes > *rest) {
        fail(r);
    } else {
        *rest -= bytes;
    }
}

static bool read_manifest(struct ts_image *image, const uint8_t *manifest) {
    struct reader r = {.at = manifest, .end = manifest + image->manifest.bytes};
    uint32_t received[MAX_TENSORS], outputs[MAX_TENSORS];
    uint32_t pairs = head(&r, C_MAP), rest = image->input.bytes;
    for (uint32_t key = KEY_BUNDLE; key <= KEY_RESULT && !r.bad; key++) {
        head_within(&r, C_UNSIGNED, key, key);
        switch (key) {
        case KEY_BUNDLE:
            if (head_within(&r, C_BYTES, TS_BUNDLE_BYTES, TS_BUNDLE_BYTES) != 0) {
                memcpy(image->bundle, r.at, TS_BUNDLE_BYTES);
                r.at += TS_BUNDLE_BYTES;
            }
            break;
        case KEY_NAME:
            image->name.bytes = head_within(&r, C_TEXT, 1, MAX_NAME);
            image->name.at = (uint32_t)(r.at - manifest);
            for (uint32_t i = 0; i < image->name.bytes; i++, r.at++) {
                if (*r.at < 0x20 || *r.at > 0x7E) {
                    fail(&r);
                    break;
                }
            }
            break;
        case KEY_RECEIVED:
            image->received = read_tensors(&r, received);
            for (uint32_t i = 0; i < image->received; i++) {
                take(&r, &rest, received[i]);
            }
            break;
        case KEY_OUTPUTS:
            image->outputs = read_tensors(&r, outputs);
            break;
        case KEY_INPUTS:
            image->inputs = (uint8_t)head_within(&r, C_ARRAY, 1, MAX_TENSORS);
            for (uint32_t i = 0; i < image->inputs; i++) {
                head_within(&r, C_UNSIGNED, 0, image->received - 1u);
            }
            break;
        case KEY_SENT:
            image->sent = (uint8_t)head_within(&r, C_ARRAY, 1, MAX_TENSORS);
            if (rest != 0) {
                fail(&r);
            }
            rest = image->output.bytes;
            for (uint32_t i = 0; i < image->sent && !r.bad; i++) {
                int32_t from = integer(&r);
                if (from >= image->outputs || from < -(int32_t)image->received) {
                    fail(&r);
                } else {
                    take(&r, &rest, from >= 0 ? outputs[from] : received[-1 - from]);
                }
            }
            break;
        case KEY_RESULT:
            image->results = read_tensors(&r, received);
            break;
        default:
            image->operators = (uint16_t)head_within(&r, C_ARRAY, 1, MAX_OPERATORS);
            for (uint32_t i = 0; i < image->operators; i++) {
                struct ts_image_operator op;
                read_operator(&r, &op);
            }
            break;
        }
    }
    for (uint32_t key = KEY_RESULT; pairs > KEY_RESULT && !r.bad; pairs--) {
        key = head_within(&r, C_UNSIGNED, key + 1, UINT32_MAX - 1);
        skip(&r);
    }
    return !r.bad && pairs == KEY_RESULT && rest == 0 && left(&r) == 0;
}

/* Reads up to element `index` of the array under `key`. */
static bool seek(struct reader *r, const uint8_t *manifest, uint32_t len, uint32_t key, uint32_t index) {
    *r = (struct reader){.at = manifest, .end = manifest + len};
    head(r, C_MAP);
    while (!r->bad && head(r, C_UNSIGNED) != key) {
        skip(r);
    }
    if (index >= head(r, C_ARRAY)) {
        return false;
    }
    while (!r->bad && index-- > 0) {
        skip(r);
    }
    return !r->bad;
}

static bool tensor_at(const uint8_t *manifest, uint32_t len, uint32_t key, uint32_t index,
                      struct ts_image_tensor *tensor) {
    struct reader r;
    if (!seek(&r, manifest, len, key, index)) {
        return false;
    }
    read_tensor(&r, tensor);
    return !r.bad;
}

bool ts_image_received(const uint8_t *manifest, uint32_t len, uint32_t index, struct ts_image_tensor *tensor) {
    return tensor_at(manifest, len, KEY_RECEIVED, index, tensor);
}

bool ts_image_output(const uint8_t *manifest, uint32_t len, uint32_t index, struct ts_image_tensor *tensor) {
    return tensor_at(manifest, len, KEY_OUTPUTS, index, tensor);
}

bool ts_image_result(const uint8_t *manifest, uint32_t len, uint32_t index, struct ts_image_tensor *tensor) {
    return tensor_at(manifest, len, KEY_RESULT, index, tensor);
}

bool ts_image_input(const uint8_t *manifest, uint32_t len, uint32_t index, uint32_t *received) {
    struct reader r;
    if (!seek(&r, manifest, len, KEY_INPUTS, index)) {
        return false;
    }
    *received = head(&r, C_UNSIGNED);
    return !r.bad;
}

bool ts_image_sent(const uint8_t *manifest, uint32_t len, uint32_t index, int32_t *route) {
    struct reader r;
    if (!seek(&r, manifest, len, KEY_SENT, index)) {
        return false;
    }
    *route = integer(&r);
    return !r.bad;
}

bool ts_image_operator(const uint8_t *manifest, uint32_t len, uint32_t index, struct ts_image_operator *op) {
    struct reader r;
    if (!seek(&r, manifest, len, KEY_OPERATORS, index)) {
        return false;
    }
    read_operator(&r, op);
    return !r.bad;
}

/* ---- The image ---- */

/* The next part of the image begins at *at. False if it does not fit. */
static bool place(struct ts_part *part, uint32_t *at, uint32_t end, const uint8_t *length) {
    part->at = *at;
    part->bytes = ts_get32(length);
    if (part->bytes > end - *at) { /* both are multiples of 16, so the padding fits too */
        return false;
    }
    *at += padded(part->bytes);
    return true;
}

static bool well_formed(const struct ts_crc *crc, const uint8_t *h, struct ts_image *i) {
    static const uint8_t zeros[12];
    if (ts_get32(h + 60) != crc->crc32(crc->ctx, 0, h, 60) || memcmp(h + 48, zeros, sizeof zeros) != 0) {
        return false;
    }
    i->kind = h[6];
    i->flags = h[7];
    i->bytes = ts_get32(h + 8);
    i->version = ts_get32(h + 12);
    i->downgrade_from = ts_get32(h + 16);
    i->firmware = ts_get32(h + 20);
    i->chip = ts_get16(h + 24);
    i->stage = h[26];
    i->stage_count = h[27];
    i->arena_bytes = ts_get32(h + 28);
    if (i->flags > TS_IMAGE_SIGNED || i->version == 0 || i->bytes % TS_IMAGE_ALIGN != 0 ||
        i->bytes < TS_IMAGE_HEADER + TS_IMAGE_SIGNATURE) {
        return false;
    }
    uint32_t at = TS_IMAGE_HEADER, end = i->bytes - TS_IMAGE_SIGNATURE;
    if (!place(&i->manifest, &at, end, h + 32) || !place(&i->model, &at, end, h + 36) ||
        !place(&i->input, &at, end, h + 40) || !place(&i->output, &at, end, h + 44) || at != end ||
        i->model.bytes == 0 || i->manifest.bytes > TS_IMAGE_MANIFEST) {
        return false;
    }
    if (i->kind == TS_IMAGE_FIRMWARE) {
        return i->stage == TS_NO_STAGE && i->stage_count == 0 && i->manifest.bytes == 0 && i->input.bytes == 0 &&
               i->output.bytes == 0;
    }
    return i->kind == TS_IMAGE_STAGE && i->stage < i->stage_count && i->stage_count < TS_NO_STAGE;
}

int ts_image_header(const struct ts_image_rules *rules, const uint8_t header[TS_IMAGE_HEADER], struct ts_image *image) {
    static const uint8_t magic[4] = {'t', 's', 'I', 'M'};
    memset(image, 0, sizeof *image);
    if (memcmp(header, magic, sizeof magic) != 0) {
        return TS_E_IMAGE_MALFORMED;
    }
    if (ts_get16(header + 4) != 1) {
        return TS_E_IMAGE_FORMAT;
    }
    if (!well_formed(&rules->crc, header, image)) {
        return TS_E_IMAGE_MALFORMED;
    }
    if (image->bytes > rules->max_bytes) {
        return TS_E_IMAGE_TOO_LARGE;
    }
    bool has_key = rules->crypto.verify != NULL, is_signed = (image->flags & TS_IMAGE_SIGNED) != 0;
    if (!has_key && (is_signed || !rules->allow_unsigned)) {
        return TS_E_IMAGE_NO_KEY;
    }
    if (has_key && !is_signed) {
        return TS_E_IMAGE_UNSIGNED;
    }
    if (image->chip != TS_CHIP_ANY && image->chip != rules->chip) {
        return TS_E_IMAGE_CHIP;
    }
    if (image->firmware > rules->firmware) {
        return TS_E_IMAGE_FIRMWARE;
    }
    if (image->kind == TS_IMAGE_STAGE && rules->stage != TS_NO_STAGE && rules->stage != image->stage) {
        return TS_E_IMAGE_STAGE;
    }
    return rules->max_arena != 0 && image->arena_bytes > rules->max_arena ? TS_E_IMAGE_ARENA : TS_OK;
}

/* SHA-256 over the image's first `bytes`. */
static bool hash(const struct ts_crypto *crypto, const struct ts_image_source *source, uint32_t bytes, uint8_t *work,
                 uint32_t work_bytes, uint8_t digest[TS_IMAGE_DIGEST]) {
    if (!crypto->sha256_start(crypto->ctx)) {
        return false;
    }
    bool good = true;
    for (uint32_t at = 0, n; good && at < bytes; at += n) {
        n = bytes - at < work_bytes ? bytes - at : work_bytes;
        good = source->read(source->ctx, at, work, n) && crypto->sha256_update(crypto->ctx, work, n);
    }
    return crypto->sha256_finish(crypto->ctx, digest) && good;
}

int ts_image_verify(const struct ts_image_rules *rules, const struct ts_image_source *source, const uint8_t *digest,
                    uint8_t *work, uint32_t work_bytes, struct ts_image *image) {
    static const uint8_t zeros[TS_IMAGE_SIGNATURE - TS_IMAGE_DIGEST];
    const struct ts_crypto *crypto = &rules->crypto;
    uint8_t part[TS_IMAGE_HEADER]; /* the header, then the signature */
    if (work_bytes < TS_IMAGE_MANIFEST || rules->max_bytes < TS_IMAGE_HEADER) {
        return TS_E_INVALID;
    }
    if (!source->read(source->ctx, 0, part, TS_IMAGE_HEADER)) {
        return TS_E_FLASH_FAILED;
    }
    int code = ts_image_header(rules, part, image);
    if (code != TS_OK) {
        return code;
    }
    uint32_t covered = image->bytes - TS_IMAGE_SIGNATURE;
    if (!hash(crypto, source, covered, work, work_bytes, image->digest) ||
        !source->read(source->ctx, covered, part, TS_IMAGE_SIGNATURE)) {
        return TS_E_FLASH_FAILED;
    }
    if (digest != NULL && memcmp(digest, image->digest, TS_IMAGE_DIGEST) != 0) {
        return TS_E_IMAGE_DIGEST;
    }
    bool genuine = (image->flags & TS_IMAGE_SIGNED) != 0 ? crypto->verify(crypto->ctx, image->digest, part)
                                                         : memcmp(part, image->digest, TS_IMAGE_DIGEST) == 0 &&
                                                               memcmp(part + TS_IMAGE_DIGEST, zeros, sizeof zeros) == 0;
    if (!genuine) {
        return TS_E_IMAGE_SIGNATURE;
    }
    if (image->kind == TS_IMAGE_FIRMWARE) {
        return TS_OK;
    }
    if (!source->read(source->ctx, image->manifest.at, work, image->manifest.bytes)) {
        return TS_E_FLASH_FAILED;
    }
    return read_manifest(image, work) ? TS_OK : TS_E_IMAGE_MALFORMED;
}
