/* What a libc and a compiler's library would bring. */
#include "bare.h"

#include <string.h>

int simcall(int number, int a, const void *b, size_t c) {
    register int a2 __asm__("a2") = number;
    register int a3 __asm__("a3") = a;
    register const void *a4 __asm__("a4") = b;
    register size_t a5 __asm__("a5") = c;
    __asm__ volatile(".byte 0x00, 0x51, 0x00" : "+r"(a2), "+r"(a3) : "r"(a4), "r"(a5) : "memory");
    return a2;
}

void *memcpy(void *to, const void *from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ((volatile char *)to)[i] = ((const char *)from)[i];
    }
    return to;
}

void *memmove(void *to, const void *from, size_t n) {
    uint8_t *d = to;
    const uint8_t *f = from;
    if (d <= f) {
        return memcpy(to, from, n);
    }
    while (n > 0) {
        n--;
        d[n] = f[n];
    }
    return to;
}

void *memset(void *to, int byte, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ((volatile char *)to)[i] = (char)byte;
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int d = ((const unsigned char *)a)[i] - ((const unsigned char *)b)[i];
        if (d != 0) {
            return d;
        }
    }
    return 0;
}

size_t strlen(const char *s) {
    size_t n = 0;
    while (((const volatile char *)s)[n] != '\0') {
        n++;
    }
    return n;
}

uint64_t __muldi3(uint64_t a, uint64_t b);

uint64_t __muldi3(uint64_t a, uint64_t b) {
    uint32_t lo[2] = {(uint32_t)a, (uint32_t)(a >> 32)};
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 64 && b != 0; i++) {
        if ((b & 1u) != 0) {
            sum += (uint64_t)lo[1] << 32 | lo[0];
        }
        lo[1] = lo[1] << 1 | lo[0] >> 31;
        lo[0] <<= 1;
        b >>= 1;
    }
    return sum;
}

uint32_t __udivsi3(uint32_t a, uint32_t b);
uint32_t __umodsi3(uint32_t a, uint32_t b);

static uint32_t divide(uint32_t a, uint32_t b, uint32_t *rest) {
    uint32_t quotient = 0;
    *rest = 0;
    for (uint32_t i = 32; i > 0; i--) {
        *rest = *rest << 1 | (a >> (i - 1) & 1u);
        if (*rest >= b) {
            *rest -= b;
            quotient |= 1u << (i - 1);
        }
    }
    return quotient;
}

uint32_t __udivsi3(uint32_t a, uint32_t b) {
    uint32_t rest;
    return divide(a, b, &rest);
}

uint32_t __umodsi3(uint32_t a, uint32_t b) {
    uint32_t rest;
    divide(a, b, &rest);
    return rest;
}
