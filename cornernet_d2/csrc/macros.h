// Function attributes.
#pragma once

// Compiled for the instruction set of its caller (cpu/dispatch.h), hence never on its own.
#define CORNERNET_INLINE inline __attribute__((always_inline))
