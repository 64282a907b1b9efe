// The function that libFuzzer, or replay.cpp, calls for every input.
#include <cstddef>
#include <cstdint>

#include "fuzz/harness/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    nibble::fuzz::read_input(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const nibble::UserError& error) {
    nibble::fuzz::check(*error.what() != '\0', "an error says what is wrong");
  }
  return 0;
}
