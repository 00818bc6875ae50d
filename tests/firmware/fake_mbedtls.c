/* mbedTLS is real here; this stands between idf.h, which says what 3.x declares, and Debian 12's 2.28, whose functions
 * of these names return nothing. Its types must fit into idf.h's. */
#define MBEDTLS_DEPRECATED_REMOVED
#include <mbedtls/ecp.h>
#include <mbedtls/sha256.h>
#include <mbedtls/version.h>

_Static_assert(sizeof(mbedtls_sha256_context) <= 64 * sizeof(void *), "idf.h gives it too little room");
_Static_assert(sizeof(mbedtls_mpi) <= 4 * sizeof(void *), "idf.h gives it too little room");
_Static_assert(sizeof(mbedtls_ecp_point) <= 16 * sizeof(void *), "idf.h gives it too little room");
_Static_assert(sizeof(mbedtls_ecp_group) <= 64 * sizeof(void *), "idf.h gives it too little room");

#if MBEDTLS_VERSION_MAJOR < 3
int mbedtls_sha256_starts(mbedtls_sha256_context *context, int is224);
int mbedtls_sha256_update(mbedtls_sha256_context *context, const unsigned char *data, size_t len);
int mbedtls_sha256_finish(mbedtls_sha256_context *context, unsigned char *digest);

int mbedtls_sha256_starts(mbedtls_sha256_context *context, int is224) {
    return mbedtls_sha256_starts_ret(context, is224);
}
int mbedtls_sha256_update(mbedtls_sha256_context *context, const unsigned char *data, size_t len) {
    return mbedtls_sha256_update_ret(context, data, len);
}
int mbedtls_sha256_finish(mbedtls_sha256_context *context, unsigned char *digest) {
    return mbedtls_sha256_finish_ret(context, digest);
}
#endif
