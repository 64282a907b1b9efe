// What a fuzz target is: bytes from outside, handed to one reader of the library. The reader may take them or refuse
// them by a UserError. Everything else is a finding: another exception, a sanitizer's report, a hang, memory that has
// nothing to do with the input's size.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "nibble/tensor/error.h"

namespace nibble::fuzz {

/// Each fuzz/TARGET.cpp defines it.
void read_input(std::string_view bytes);

/// Ends the program, which libFuzzer reports as a finding, when `holds` is false.
inline void check(bool holds, const char* rule) {
  if (holds) return;
  std::fprintf(stderr, "broken rule: %s\n", rule);
  std::abort();
}

/// f(), which may refuse by a UserError: a value of another kind, say. The rest of the input is still read.
template <class F>
void attempt(F&& f) {
  try {
    std::forward<F>(f)();
  } catch (const UserError&) {  // one of its two answers
  }
}

/// f(), where a UserError is a finding: what the library wrote it must read.
template <class F>
auto must_succeed(F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const UserError& error) {
    std::fprintf(stderr, "refused what the library wrote: %s\n", error.what());
    std::abort();
  }
}

}  // namespace nibble::fuzz
