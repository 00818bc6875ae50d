/* Updates of the stage (ts_slots) and of the firmware (esp_ota), whatever way their bytes come: commands,
 * BLOB messages, or a download. One at a time. The image is that of IMAGE.md in both cases. */
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

/* Before anything else here, once. */
void update_start(void);

/* Begins or resumes: *offset is where the sender goes on. TS_OK or a code of IMAGE.md section 9. */
int update_begin(const uint8_t header[TS_IMAGE_HEADER], const uint8_t digest[TS_IMAGE_DIGEST], uint32_t *offset);

/* Bytes from offset on; *next is where the sender goes on. */
int update_write(uint32_t offset, const uint8_t *bytes, uint32_t len, uint32_t *next);

/* All bytes are there: verifies. */
int update_finish(void);

/* The next start runs it, on trial. */
int update_activate(const uint8_t digest[TS_IMAGE_DIGEST]);

int update_abort(void);

struct update_state update_state(void);

/* After the start-up: a firmware on trial is kept if it works, else the one before comes back by a restart. Does
 * nothing for one that was kept before. */
void update_judge_firmware(bool works);

/* Downloads an image by HTTP or HTTPS on a task of its own, with range requests from where it stopped, and finishes it.
 * Events `update` tell how it goes. TS_OK: it has begun. */
int update_fetch(const char *url, const uint8_t digest[TS_IMAGE_DIGEST]);

/* How the last one went: "busy", "ok" or an error's name; NULL: there was none. */
const char *update_fetch_state(void);

#ifdef __cplusplus
}
#endif

#endif
