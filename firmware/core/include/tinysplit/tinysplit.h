/* The link library of tinysplit. SPEC.md says what travels, DESIGN.md why, node.h
 * shows the life of a node in thirty lines. */
#ifndef TINYSPLIT_TINYSPLIT_H
#define TINYSPLIT_TINYSPLIT_H

#include "tinysplit/bridge.h"
#include "tinysplit/stream.h"

#endif
