/* Control lines from any source, byte by byte. What is long in them, the tensors of `run`, never lies in
 * memory as text: base64 is decoded on the way in, straight to the buffer the engine reads from, and the line
 * keeps an empty string in its place. */
#ifndef LINE_H
#define LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tinysplit/types.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LINE_TEXT 4608 /* longest line without its tensors: `update_data` with 3,072 bytes, 4,096 digits of base64 */

struct line;

/* Where tensors go. */
struct line_sink {
    /* A buffer for a line's tensors; NULL if all are in use. */
    uint8_t *(*take)(uint32_t *cap);
    /* Gives one back that no command took over. */
    void (*give)(uint8_t *buffer);
};

enum line_problem { LINE_FINE, LINE_TOO_LONG, LINE_BAD_BASE64, LINE_NO_BUFFER, LINE_TENSORS_TOO_LARGE };

struct line {
    const struct line_sink *sink;
    char text[LINE_TEXT + 1];
    uint32_t len;
    uint32_t hash;    /* of every byte that came, tensors' too: FNV-1a, 32 bits (draft-eastlake-fnv) */
    uint8_t problem;  /* enum line_problem: why the line is not to be used */
    uint8_t *tensors; /* from the sink; whoever takes it over sets it to NULL */
    uint32_t cap, bytes[TS_MAX_TENSORS];
    uint8_t count;
    /* The scanner: */
    uint8_t place, matched;
    bool string, escaped;
    uint32_t used, group;
    uint8_t digits, padding;
};

void line_init(struct line *line, const struct line_sink *sink);

/* Takes a byte. True if it ended a line that is not empty: use it, then call line_clear. */
bool line_byte(struct line *line, uint8_t byte);
void line_clear(struct line *line);

#ifdef __cplusplus
}
#endif

#endif
