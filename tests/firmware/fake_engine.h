/* An engine without kernels: the golden input gives the golden output, any other input bytes that depend on all of it.
 */
#ifndef FAKE_ENGINE_H
#define FAKE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

/* The self-tests of images from this version on fail; 0: none does. */
extern uint32_t fake_engine_wrong_from;
extern bool fake_engine_fails;  /* invocations fail */
extern uint32_t fake_engine_us; /* how long an invocation takes */

#endif
