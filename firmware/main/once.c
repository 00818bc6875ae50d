#include "once.h"

#include <string.h>

void once_init(struct once *once, char *memory, size_t bytes) {
    memset(once, 0, sizeof *once);
    once->answers = memory;
    once->room = bytes / ONCE_ANSWERS;
}

static const struct once_taken *find(const struct once *once, const char *id) {
    for (size_t i = 0; i < ONCE_IDS; i++) {
        if (once->taken[i].number != 0 && strcmp(once->taken[i].id, id) == 0) {
            return &once->taken[i];
        }
    }
    return NULL;
}

enum once_verdict once_look(const struct once *once, const char *id, uint32_t hash) {
    const struct once_taken *known = find(once, id);
    if (known == NULL) {
        return ONCE_NEW;
    }
    if (known->hash != hash) {
        return ONCE_REUSED;
    }
    return known->over ? ONCE_DONE : ONCE_PENDING;
}

/* A free entry, or else the oldest command's that is over; NULL: all are being carried out. */
static struct once_taken *room(struct once *once) {
    struct once_taken *oldest = NULL;
    for (size_t i = 0; i < ONCE_IDS; i++) {
        struct once_taken *entry = &once->taken[i];
        if (entry->number == 0) {
            return entry;
        }
        if (entry->over && (oldest == NULL || entry->number < oldest->number)) {
            oldest = entry;
        }
    }
    return oldest;
}

enum once_verdict once_admit(struct once *once, const char *id, uint32_t hash, const uint32_t *after) {
    enum once_verdict verdict = once_look(once, id, hash);
    if (verdict != ONCE_NEW) {
        return verdict;
    }
    if (after != NULL && (*after > once->count || once->count - *after > ONCE_IDS)) {
        return ONCE_FORGOTTEN;
    }
    struct once_taken *entry = room(once);
    if (entry == NULL || strlen(id) >= ONCE_ID_BYTES) {
        return ONCE_FORGOTTEN; /* what cannot be remembered is not begun */
    }
    strcpy(entry->id, id);
    entry->number = ++once->count;
    entry->hash = hash;
    entry->over = false;
    return ONCE_NEW;
}

const char *once_answer(const struct once *once, const char *id) {
    const struct once_taken *known = find(once, id);
    for (size_t i = 0; known != NULL && i < ONCE_ANSWERS; i++) {
        if (once->answer_of[i] == known->number) {
            return once->answers + i * once->room;
        }
    }
    return NULL;
}

void once_keep(struct once *once, const char *id, const char *answer) {
    struct once_taken *known = (struct once_taken *)find(once, id);
    if (known == NULL || known->over) {
        return;
    }
    known->over = true;
    size_t bytes = strlen(answer) + 1;
    if (once->answers == NULL || bytes > once->room) {
        return;
    }
    size_t at = once->next_answer++ % ONCE_ANSWERS;
    memcpy(once->answers + at * once->room, answer, bytes);
    once->answer_of[at] = known->number;
}
