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
    return code < sizeof names / sizeof names[0] ? names[code] : "unknown";
}
