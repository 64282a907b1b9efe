// Run-time choice of instructions for loops that a compiler vectorises well by itself: the function is
// compiled once per x86-64 level and the dynamic linker takes the best one. The build sets
// -ffp-contract=off, so every clone computes the same bits (a fused multiply-add is written std::fma).
// Loops that need shuffles or dot-product instructions use Highway instead.
#pragma once

// Sanitizers instrument ifunc resolvers that run before they are ready; they get the baseline only.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(NIBBLE_NO_CLONES)
#define NIBBLE_SIMD __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define NIBBLE_SIMD
#endif
