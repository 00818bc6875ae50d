/* Runs the shared vectors. No libc beyond string.h, so that it also runs on bare metal. */
#ifndef VECTORS_H
#define VECTORS_H

#include <stddef.h>
#include <stdint.h>

/* Takes the text of tests/vectors/link.txt and prints, line by line, what each vector decodes and
 * encodes to. Returns how many failed; *count is how many there were. */
uint32_t vectors_run(const char *text, size_t len, void (*print)(const char *line), uint32_t *count);

#endif
