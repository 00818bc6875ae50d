/* Commands that come twice are carried out once: what a board remembers of those it has taken. Bound to no operating
 * system; host/mqtt/once.py is the same in Python and says why it is enough. */
#ifndef ONCE_H
#define ONCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ONCE_IDS 32u
#define ONCE_ANSWERS 4u
#define ONCE_ID_BYTES 72u

enum once_verdict {
    ONCE_NEW,      /* to be carried out; it counts as taken now */
    ONCE_PENDING,  /* being carried out; its answer is still to come */
    ONCE_DONE,     /* carried out; its answer is kept or gone */
    ONCE_REUSED,   /* another command had this id */
    ONCE_FORGOTTEN /* perhaps carried out: so much has come since that nobody knows */
};

/* One boot's memory. Zero, then once_init. */
struct once {
    uint32_t count; /* commands taken */
    struct once_taken {
        char id[ONCE_ID_BYTES];
        uint32_t number; /* which it was, from 1; 0: this entry is free */
        uint32_t hash;   /* of the command, as its sender wrote it */
        bool over;
    } taken[ONCE_IDS];
    char *answers; /* ONCE_ANSWERS of `room` bytes */
    size_t room;
    uint32_t answer_of[ONCE_ANSWERS]; /* the number of the command, 0: of none */
    uint32_t next_answer;
};

/* memory: where answers are kept, ONCE_ANSWERS of bytes / ONCE_ANSWERS each. */
void once_init(struct once *once, char *memory, size_t bytes);

/* What a command is that has this id and hash, without taking it: anything but ONCE_FORGOTTEN. */
enum once_verdict once_look(const struct once *once, const char *id, uint32_t hash);

/* Likewise; one that is ONCE_NEW is taken. after: `count` as whoever sent it knew it; NULL: they did not say. */
enum once_verdict once_admit(struct once *once, const char *id, uint32_t hash, const uint32_t *after);

/* The kept answer of a command; NULL: none is. */
const char *once_answer(const struct once *once, const char *id);

/* The command of this id that was being carried out was answered so. What is too long is not kept; older answers give
 * way. */
void once_keep(struct once *once, const char *id, const char *answer);

#ifdef __cplusplus
}
#endif

#endif
