#include "tinysplit/types.h"

const char *ts_error_name(unsigned code) {
    static const char *const names[] = {"ok",
                                        "no_peer",
                                        "peer_lost",
                                        "version_older",
                                        "version_newer",
                                        "bundle_mismatch",
                                        "stage_mismatch",
                                        "busy",
                                        "codec_mismatch",
                                        "mtu_too_small",
                                        "too_large",
                                        "deadline",
                                        "integrity",
                                        "replaced",
                                        "reset",
                                        "closed",
                                        "unsupported",
                                        "malformed",
                                        "no_slot",
                                        "invoke_failed",
                                        "refused",
                                        "cancelled",
                                        "send_failed",
                                        "duplicate",
                                        "invalid",
                                        "would_block",
                                        "no_memory"};
    static const char *const image_names[] = {"image_malformed", "image_format",  "image_too_large", "image_unsigned",
                                              "image_no_key",    "image_chip",    "image_firmware",  "image_stage",
                                              "image_arena",     "image_version", "image_digest",    "image_signature",
                                              "slot_busy",       "slot_order",    "slot_not_ready",  "slot_empty",
                                              "slot_restarts",   "flash_failed",  "self_test"};
    if (code - TS_E_IMAGE_MALFORMED < sizeof image_names / sizeof image_names[0]) {
        return image_names[code - TS_E_IMAGE_MALFORMED];
    }
    return code < sizeof names / sizeof names[0] ? names[code] : "unknown";
}
