/* Control lines: text kept, tensors decoded on the way, any bytes harmless. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "line.h"

static uint8_t buffer[12];
static int taken;
static bool none;

static uint8_t *take(uint32_t *cap) {
    if (none) {
        return NULL;
    }
    taken++;
    *cap = sizeof buffer;
    return buffer;
}

static void give(uint8_t *given) {
    assert_ptr_equal(given, buffer);
    taken--;
}

static const struct line_sink sink = {.take = take, .give = give};
static struct line line;

static int fresh(void **state) {
    (void)state;
    taken = 0;
    none = false;
    memset(buffer, 0xEE, sizeof buffer);
    line_init(&line, &sink);
    return 0;
}

/* Feeds a text and its newline; true if that made a line. */
static bool feed(const char *text) {
    for (const char *p = text; *p != '\0'; p++) {
        assert_false(line_byte(&line, (uint8_t)*p));
    }
    return line_byte(&line, '\n');
}

/* FNV-1a's own vectors (draft-eastlake-fnv): no byte, "a", "foobar". */
static void a_line_has_the_hash_of_its_bytes(void **state) {
    (void)state;
    assert_int_equal(line.hash, 0x811c9dc5u);
    assert_true(feed("a"));
    assert_int_equal(line.hash, 0xe40c292cu);
    line_clear(&line);
    assert_true(feed("foobar\r"));
    assert_int_equal(line.hash, 0xbf9cf968u);
    line_clear(&line);
    assert_true(feed("{\"tensors\":[\"AAAA\"]}"));
    uint32_t before = line.hash;
    line_clear(&line);
    assert_true(feed("{\"tensors\":[\"AAAB\"]}")); /* the same text is kept */
    assert_int_not_equal(line.hash, before);
    line_clear(&line);
}

static void a_line_is_kept_as_it_is(void **state) {
    (void)state;
    assert_true(feed("{\"id\": 1, \"cmd\": \"info\"}"));
    assert_string_equal(line.text, "{\"id\": 1, \"cmd\": \"info\"}");
    assert_int_equal(line.problem, LINE_FINE);
    line_clear(&line);
    assert_false(feed("")); /* empty lines are none */
    assert_false(feed("\r"));
    assert_true(feed("x\r"));
    assert_string_equal(line.text, "x");
}

static void tensors_go_to_the_buffer_and_leave_empty_strings(void **state) {
    (void)state;
    assert_true(feed("{\"id\":1,\"tensors\" : [ \"AQID\", \"BAU=\",\"Bg==\"],\"input\":\"tensors\"}"));
    assert_string_equal(line.text, "{\"id\":1,\"tensors\" : [ \"\", \"\",\"\"],\"input\":\"tensors\"}");
    assert_int_equal(line.problem, LINE_FINE);
    assert_int_equal(line.count, 3);
    assert_int_equal(line.bytes[0], 3);
    assert_int_equal(line.bytes[1], 2);
    assert_int_equal(line.bytes[2], 1);
    assert_memory_equal(buffer, "\1\2\3\4\5\6\xEE", 7);
    assert_int_equal(taken, 1);
    line_clear(&line);
    assert_int_equal(taken, 0);
    assert_int_equal(line.count, 0);
}

static void a_value_named_tensors_is_no_list(void **state) {
    (void)state;
    assert_true(feed("{\"input\":\"tensors\",\"x\":[\"AQID\"],\"y\":\"\\\"tensors\",\"z\":[\"!\"]}"));
    assert_string_equal(line.text, "{\"input\":\"tensors\",\"x\":[\"AQID\"],\"y\":\"\\\"tensors\",\"z\":[\"!\"]}");
    assert_int_equal(line.problem, LINE_FINE);
    assert_int_equal(taken, 0);
}

static void expect(const char *text, enum line_problem problem) {
    assert_true(feed(text));
    assert_int_equal(line.problem, problem);
    line_clear(&line);
    assert_int_equal(taken, 0);
}

static void what_is_wrong_is_named(void **state) {
    (void)state;
    expect("{\"tensors\":[\"AQI\"]}", LINE_BAD_BASE64);
    expect("{\"tensors\":[\"A===\"]}", LINE_BAD_BASE64);
    expect("{\"tensors\":[\"AQ=A\"]}", LINE_BAD_BASE64);
    expect("{\"tensors\":[\"AQ==AQID\"]}", LINE_BAD_BASE64);
    expect("{\"tensors\":[\"AQ*D\"]}", LINE_BAD_BASE64);
    expect("{\"tensors\":[\"AQID", LINE_BAD_BASE64);
    expect("{\"tensors\":[\"AQIDBAUGBwgJCgsM\"]}", LINE_FINE); /* all 12 */
    expect("{\"tensors\":[\"AQIDBAUGBwgJCgsMDQ==\"]}", LINE_TENSORS_TOO_LARGE);
    expect("{\"tensors\":[\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]}", LINE_TENSORS_TOO_LARGE);
    none = true;
    expect("{\"tensors\":[\"AQID\"]}", LINE_NO_BUFFER);
}

static void a_long_line_is_too_long_and_the_next_one_fine(void **state) {
    (void)state;
    for (int i = 0; i < 3 * LINE_TEXT; i++) {
        assert_false(line_byte(&line, 'x'));
    }
    assert_true(line_byte(&line, '\n'));
    assert_int_equal(line.problem, LINE_TOO_LONG);
    line_clear(&line);
    expect("{}", LINE_FINE);
}

static void any_bytes_are_harmless(void **state) {
    (void)state;
    static const char alphabet[] = "\"\"[]{}:,\\ tensorsAQID==\n\r\0x";
    srand(7);
    for (int i = 0; i < 2000000; i++) {
        uint8_t byte = (uint8_t)(rand() % 8 == 0 ? rand() : alphabet[rand() % (int)sizeof alphabet]);
        if (line_byte(&line, byte)) {
            assert_in_range(line.len, 0, LINE_TEXT);
            assert_in_range(line.count, 0, TS_MAX_TENSORS);
            line_clear(&line);
            assert_int_equal(taken, 0);
        }
    }
}

static void every_length_of_base64_decodes(void **state) {
    (void)state;
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (uint32_t len = 0; len <= sizeof buffer; len++) {
        uint8_t bytes[sizeof buffer];
        char text[64] = "{\"tensors\":[\"";
        for (uint32_t i = 0; i < len; i++) {
            bytes[i] = (uint8_t)(251 * (i + 1) + len);
        }
        size_t at = strlen(text);
        for (uint32_t i = 0; i < len; i += 3) {
            uint32_t left = len - i;
            uint32_t group = (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                             (left > 2 ? (uint32_t)bytes[i + 2] : 0);
            text[at++] = digits[group >> 18];
            text[at++] = digits[group >> 12 & 63];
            text[at++] = left > 1 ? digits[group >> 6 & 63] : '=';
            text[at++] = left > 2 ? digits[group & 63] : '=';
        }
        memcpy(text + at, "\"]}", 4);
        assert_true(feed(text));
        assert_int_equal(line.problem, LINE_FINE);
        assert_int_equal(line.bytes[0], len);
        assert_memory_equal(buffer, bytes, len);
        line_clear(&line);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_line_has_the_hash_of_its_bytes, fresh),
        cmocka_unit_test_setup(a_line_is_kept_as_it_is, fresh),
        cmocka_unit_test_setup(tensors_go_to_the_buffer_and_leave_empty_strings, fresh),
        cmocka_unit_test_setup(a_value_named_tensors_is_no_list, fresh),
        cmocka_unit_test_setup(what_is_wrong_is_named, fresh),
        cmocka_unit_test_setup(a_long_line_is_too_long_and_the_next_one_fine, fresh),
        cmocka_unit_test_setup(any_bytes_are_harmless, fresh),
        cmocka_unit_test_setup(every_length_of_base64_decodes, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
