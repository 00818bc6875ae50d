/* A world of nodes in simulated time: each runs firmware/core itself, none has a socket or a clock of
 * its own. One seed gives one history, to the byte, on any machine: whole numbers only, no time of day,
 * no addresses in the result. */
#ifndef TINYSPLIT_SIM_H
#define TINYSPLIT_SIM_H

#include <stddef.h>
#include <stdint.h>

#include "tinysplit/image.h"

#define SIM_NODES 32
#define SIM_STAGES 16
#define SIM_CUTS 2
#define SIM_MAX_FRAME 16384
#define SIM_NO_STAGE 255
#define SIM_CODES 32

/* SIM_WIRE: a link with a rate and a delay. SIM_WIFI: the same, where all senders share the rate. SIM_STREAM: and
 * where nothing is lost or overtaken, only late (TCP). */
enum sim_medium { SIM_WIRE = 0, SIM_ESPNOW = 1, SIM_BLE = 2, SIM_WIFI = 3, SIM_STREAM = 4 };

/* What happened, in a trace. */
enum sim_kind {
    SIM_SENT = 0,     /* a frame to node `other`; value: its first byte << 16 | length */
    SIM_ARRIVED = 1,  /* likewise, at its receiver, from node `other` */
    SIM_LOST = 2,     /* likewise: nobody gets it */
    SIM_COLLIDED = 3, /* two or more stations began in one slot */
    SIM_INVOKE = 4,   /* the engine begins; value: how long, us */
    SIM_BEGUN = 5,    /* an inference at a head; value: its number */
    SIM_RESULT = 6,   /* its end; value: number; other: error code */
    SIM_REBOOT = 7,   /* value: how long the node is down, us */
    SIM_AIR = 8,      /* a transmission begins; value: how long the medium is taken, us */
    SIM_CUT = 9,      /* the power goes in the middle of a flash operation; value: how long the node is down, us */
    SIM_BOOT = 10,    /* from a slot; value: the image's version; other: error code */
    SIM_FLASH = 11    /* an update's step; value: how long the flash is busy, us; other: see sim_step */
};

/* Steps of an update at a board, for SIM_FLASH. */
enum sim_step { SIM_BEGIN = 0, SIM_PIECE = 1, SIM_FINISH = 2, SIM_ACTIVATE = 3, SIM_RESTART = 4 };

struct sim_event {
    uint64_t at_us;
    uint8_t node, kind;
    uint16_t other;
    uint32_t value;
};

struct sim_node_config {
    uint8_t stage;            /* role follows from it; SIM_NO_STAGE: sends updates to all others */
    uint8_t next;             /* node of the next stage; 255: none */
    uint8_t bundle;           /* nodes of different bundles must never exchange a tensor */
    int32_t drift_ppm;        /* of its clock */
    uint64_t clock_offset_us; /* of its clock at the start */
    uint32_t invoke_us;       /* one run of its stage */
    uint32_t period_us;       /* heads: from one inference to the next, if the last is over */
    uint32_t reboot_every_us; /* mean time between reboots, 0: never */
    uint32_t down_us;         /* how long a reboot takes */
};

struct sim_image {
    const uint8_t *bytes;
    uint32_t len;
    uint32_t word; /* CRC-32 of the model: what its stage computes with */
    uint8_t digest[TS_IMAGE_DIGEST];
};

struct sim_config {
    uint64_t seed;
    uint8_t nodes, stages;
    struct sim_node_config node[SIM_NODES];
    uint32_t input_bytes; /* of stage 0 */
    /* Output of each stage. With updates, that of odd bundles in the second row: they are cut elsewhere. */
    uint32_t stage_bytes[SIM_CUTS][SIM_STAGES];
    uint32_t timeout_ms; /* of an inference */
    uint16_t mtu, window;
    uint8_t reorder;
    uint32_t rto_initial_us, rto_min_us, pace_ns_per_byte, pace_burst_us;

    uint8_t medium;
    /* Chances in millionths. On SIM_ESPNOW `loss` is that of a transmission or its acknowledgement. */
    uint32_t loss, duplicate, reorder_chance, corrupt;
    uint32_t delay_us, jitter_us; /* of each way, but on SIM_ESPNOW and SIM_BLE */
    uint32_t rate_bps;            /* SIM_WIRE: of each sender; SIM_WIFI, SIM_STREAM: of all together; 0: no limit */
    /* A frame of n bytes at air_us[n]. SIM_ESPNOW: from preamble to end; SIM_BLE: all its packets, answers included. */
    uint32_t air_us[SIM_MAX_FRAME + 1];
    uint32_t packets[SIM_MAX_FRAME + 1]; /* SIM_BLE, SIM_STREAM: of which each can be lost on its own */
    uint32_t interval_us, gap_us;        /* SIM_BLE: from event to event, and what is kept free before the next */
    /* SIM_ESPNOW: times of the medium, us. */
    uint32_t ack_us, sifs_us, difs_us, slot_us;
    uint16_t cw_min, cw_max;
    uint8_t tries, queue;

    /* Updates: image[(v - 1) * stages + s] is version v of stage s, of bundle v % SIM_CUTS; nodes begin with version 1.
     * No versions: nodes run without flash. */
    const struct sim_image *image;
    uint32_t versions;
    uint32_t power_cut;       /* the power goes in one of so many flash operations, in millionths */
    uint32_t update_pause_us; /* from the end of one update of all nodes to the next */
    uint32_t piece_bytes;     /* of an image in one message */
    struct ts_crypto crypto;

    uint64_t run_us;    /* with everything above going wrong */
    uint64_t settle_us; /* then, without loss, corruption or reboots */
    int trace;          /* keep events */
};

struct sim_report {
    uint64_t begun, exact, failed; /* inferences; those that ended with a named error are `failed` */
    uint64_t wrong;                /* results that are not the bytes they must be, or came twice */
    uint64_t mixed;                /* results that crossed two bundles */
    uint64_t stuck;                /* inferences without an end, or heads that got none done when all was well */
    uint64_t unverified; /* boots after which not exactly one of the images ran, or flash used as flash cannot be */
    uint64_t outdated;   /* nodes that did not run the newest bundle after all was well */
    uint64_t refused;    /* that were not begun: no job free */
    uint64_t frames, bytes, lost, collisions, reboots, air_us;
    uint64_t cuts, updates;         /* power cuts; boots into a new version */
    uint64_t under_way, lost_heads; /* inferences: without an end yet; that went down with their head */
    uint64_t latency_sum_us, latency_max_us;
    uint32_t digest; /* over every frame and result, and when */
    uint64_t events;
    uint32_t failures[SIM_CODES]; /* by error code, the last for those above */
};

typedef struct sim sim;

/* What a stage makes of its input; `word` stands for the model's weights. */
void sim_compute(uint32_t word, uint8_t stage, const uint8_t *input, uint32_t in_len, uint8_t *output,
                 uint32_t out_len);

/* NULL: the core refuses the settings, or there is no memory. */
sim *sim_new(const struct sim_config *config);
void sim_run(sim *world, struct sim_report *report);
/* Events kept, in the order in which they were decided. */
const struct sim_event *sim_trace(const sim *world, size_t *count);
void sim_free(sim *world);

#endif
