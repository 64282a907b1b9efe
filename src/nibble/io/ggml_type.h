// Element types of ggml (github.com/ggml-org/ggml, ggml.h), in which GGUF files keep tensors: plain numbers, and blocks
// of some elements along a row that share scales. ggml_blocks.h has the layouts of the blocks that nibble reads.
#pragma once

#include <cstdint>
#include <span>

namespace nibble {

/// The number is the one in a file.
enum class GgmlType : std::uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q8_1 = 9,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  Q8_K = 15,
  IQ2_XXS = 16,
  IQ2_XS = 17,
  IQ3_XXS = 18,
  IQ1_S = 19,
  IQ4_NL = 20,
  IQ3_S = 21,
  IQ2_S = 22,
  IQ4_XS = 23,
  I8 = 24,
  I16 = 25,
  I32 = 26,
  I64 = 27,
  F64 = 28,
  IQ1_M = 29,
  BF16 = 30,
  TQ1_0 = 34,
  TQ2_0 = 35,
  MXFP4 = 39,
  NVFP4 = 40,
};

struct GgmlTypeInfo {
  GgmlType type;
  const char* name;          ///< "Q4_1"
  std::int64_t block_size;   ///< elements of a block; divides a row
  std::int64_t block_bytes;  ///< bytes of a block
};

/// Of every type above; nullptr for another number, such as that of a type that ggml has given up.
const GgmlTypeInfo* find_ggml_type(std::uint32_t number);
const GgmlTypeInfo& ggml_type_info(GgmlType type);
std::span<const GgmlTypeInfo> ggml_types();
/// Whether its elements are E2M1, as nibble trains with them.
constexpr bool ggml_is_fp4(GgmlType type) { return type == GgmlType::MXFP4 || type == GgmlType::NVFP4; }

}  // namespace nibble
