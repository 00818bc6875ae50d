/* What programs on bare metal call of qemu's semihosting, and where they begin. */
#ifndef BARE_H
#define BARE_H

#include <stddef.h>
#include <stdint.h>

#define SYS_EXIT 1
#define SYS_WRITE 4

int simcall(int number, int a, const void *b, size_t c);

/* The program; the start code calls it. */
void run(void);

#endif
