/* Updates of the stage (ts_slots) and of the firmware (esp_ota), whatever way their bytes come: commands,
 * BLOB messages, or a download. One at a time. The image is that of IMAGE.md in both cases.
 *
 * `owner` is the number that the sender has chosen for this update, 0: none. While one is under way and was heard
 * within the last 20 s, all others get TS_E_BUSY (IMAGE.md section 8.2). */
#ifndef UPDATE_H
#define UPDATE_H

#include "tinysplit/image.h"

#ifdef __cplusplus
extern "C" {
#endif

struct update_state {
    bool active;     /* begun and not finished */
    uint8_t kind;    /* enum ts_image_kind */
    uint32_t offset; /* bytes taken so far */
    uint32_t bytes;  /* of the image */
    uint32_t version;
};

struct update_sender {
    uint32_t owner;
    bool take_over;   /* whoever's update is under way */
    const char *name; /* for people; NULL: as before */
};

/* Before anything else here, once. */
void update_start(void);

/* Begins or resumes: *offset is where the sender goes on. TS_OK or a code of IMAGE.md section 9. */
int update_begin(const struct update_sender *sender, const uint8_t header[TS_IMAGE_HEADER],
                 const uint8_t digest[TS_IMAGE_DIGEST], uint32_t *offset);

/* Bytes from offset on; *next is where the sender goes on. */
int update_write(uint32_t owner, uint32_t offset, const uint8_t *bytes, uint32_t len, uint32_t *next);

/* All bytes are there: verifies. */
int update_finish(uint32_t owner);

/* The next start runs it, on trial. */
int update_activate(uint32_t owner, const uint8_t digest[TS_IMAGE_DIGEST]);

int update_abort(uint32_t owner);

/* Whether an update of this owner may go on. TS_OK or TS_E_BUSY. */
int update_check(uint32_t owner);

/* Others may begin at once; what is there stays. */
int update_release(uint32_t owner);

#define UPDATE_HOLDER 64

/* Who holds it, and how long ago he was heard, for people. */
void update_holder(char out[UPDATE_HOLDER]);

struct update_state update_state(void);

/* After the start-up: a firmware on trial is kept if it works, else the one before comes back by a restart. Does
 * nothing for one that was kept before. */
void update_judge_firmware(bool works);

/* Downloads an image by HTTP or HTTPS on a task of its own, with range requests from where it stopped, and finishes it.
 * Events `update` tell how it goes. TS_OK: it has begun. */
int update_fetch(uint32_t owner, const char *url, const uint8_t digest[TS_IMAGE_DIGEST]);

/* How the last one went: "busy", "ok" or an error's name; NULL: there was none. */
const char *update_fetch_state(void);

#ifdef __cplusplus
}
#endif

#endif
