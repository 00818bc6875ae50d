#include "line.h"

#include <string.h>

/* Where in the line the scanner is, as far as it matters for tensors. */
enum place { BEFORE, AFTER_KEY, AFTER_COLON, IN_LIST };

static const char key[] = "tensors";

#define FNV_BASIS 2166136261u
#define FNV_PRIME 16777619u

void line_init(struct line *line, const struct line_sink *sink) {
    memset(line, 0, sizeof *line);
    line->sink = sink;
    line->hash = FNV_BASIS;
}

void line_clear(struct line *line) {
    if (line->tensors != NULL) {
        line->sink->give(line->tensors);
    }
    const struct line_sink *sink = line->sink;
    /* All but the text. */
    line->len = 0;
    memset((char *)line + offsetof(struct line, len), 0, sizeof *line - offsetof(struct line, len));
    line->sink = sink;
    line->hash = FNV_BASIS;
}

static void fail(struct line *line, enum line_problem problem) {
    if (line->problem == LINE_FINE) {
        line->problem = (uint8_t)problem;
    }
}

static void keep(struct line *line, uint8_t byte) {
    if (line->len < LINE_TEXT) {
        line->text[line->len++] = (char)byte;
    } else {
        fail(line, LINE_TOO_LONG);
    }
}

static int digit_of(uint8_t byte) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = byte == 0 ? NULL : strchr(digits, byte);
    return at == NULL ? -1 : (int)(at - digits);
}

static void tensor_byte(struct line *line, uint32_t value) {
    if (line->problem != LINE_FINE) {
        return;
    }
    if (line->used >= line->cap) {
        fail(line, LINE_TENSORS_TOO_LARGE);
        return;
    }
    line->tensors[line->used++] = (uint8_t)value;
    line->bytes[line->count - 1u]++;
}

static void tensor_begin(struct line *line) {
    if (line->tensors == NULL && line->problem == LINE_FINE) {
        line->tensors = line->sink->take(&line->cap);
        if (line->tensors == NULL) {
            fail(line, LINE_NO_BUFFER);
        }
    }
    if (line->count == TS_MAX_TENSORS) {
        fail(line, LINE_TENSORS_TOO_LARGE);
    } else {
        line->count++;
    }
    line->group = 0;
    line->digits = 0;
    line->padding = 0;
}

static void tensor_end(struct line *line) {
    if (line->digits != 0) {
        fail(line, LINE_BAD_BASE64);
    }
}

static void tensor_digit(struct line *line, uint8_t byte) {
    int digit = digit_of(byte);
    bool pad = byte == '=' && line->digits >= 2;
    if ((digit < 0 && !pad) || (line->padding > 0 && (!pad || line->digits == 0))) {
        fail(line, LINE_BAD_BASE64);
        return;
    }
    line->padding = (uint8_t)(line->padding + (pad ? 1 : 0));
    line->group = line->group << 6 | (pad ? 0u : (uint32_t)digit);
    if (++line->digits < 4) {
        return;
    }
    for (uint32_t i = 0; i < 3u - line->padding; i++) {
        tensor_byte(line, line->group >> (16u - 8u * i) & 0xFFu);
    }
    line->group = 0;
    line->digits = 0;
}

/* A byte within a string, the closing quote included. */
static void string_byte(struct line *line, uint8_t byte) {
    bool closes = byte == '"' && !line->escaped;
    line->escaped = byte == '\\' && !line->escaped;
    if (line->place == IN_LIST) {
        if (closes) {
            tensor_end(line);
            keep(line, byte);
        } else {
            tensor_digit(line, byte);
        }
    } else {
        keep(line, byte);
        if (closes) {
            line->place = line->matched == sizeof key - 1 ? AFTER_KEY : BEFORE;
        } else if (line->matched < sizeof key - 1 && byte == (uint8_t)key[line->matched]) {
            line->matched++;
        } else {
            line->matched = sizeof key; /* cannot become a match any more */
        }
    }
    line->string = !closes;
}

static void outside_byte(struct line *line, uint8_t byte) {
    keep(line, byte);
    if (byte == ' ' || byte == '\t') {
        return;
    }
    if (byte == '"') {
        line->string = true;
        line->escaped = false;
        line->matched = 0;
        if (line->place == IN_LIST) {
            tensor_begin(line);
        } else {
            line->place = BEFORE;
        }
    } else if (line->place == AFTER_KEY && byte == ':') {
        line->place = AFTER_COLON;
    } else if (line->place == AFTER_COLON && byte == '[' && line->count == 0) {
        line->place = IN_LIST;
    } else if (line->place != IN_LIST || byte == ']') {
        line->place = BEFORE;
    }
}

bool line_byte(struct line *line, uint8_t byte) {
    if (byte == '\r') {
        return false;
    }
    if (byte == '\n') {
        if (line->len == 0 && line->problem == LINE_FINE) {
            return false;
        }
        if (line->string && line->place == IN_LIST) {
            fail(line, LINE_BAD_BASE64);
        }
        line->text[line->len] = '\0';
        return true;
    }
    line->hash = (line->hash ^ byte) * FNV_PRIME;
    if (line->string) {
        string_byte(line, byte);
    } else {
        outside_byte(line, byte);
    }
    return false;
}
