#include "nibble/io/ggml_type.h"

#include <algorithm>
#include <array>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

using enum GgmlType;

// ggml-common.h gives the structs whose sizes these are; the gguf package has the same table (constants.py).
constexpr std::array kTypes = {GgmlTypeInfo{F32, "F32", 1, 4},
                               GgmlTypeInfo{F16, "F16", 1, 2},
                               GgmlTypeInfo{Q4_0, "Q4_0", 32, 18},
                               GgmlTypeInfo{Q4_1, "Q4_1", 32, 20},
                               GgmlTypeInfo{Q5_0, "Q5_0", 32, 22},
                               GgmlTypeInfo{Q5_1, "Q5_1", 32, 24},
                               GgmlTypeInfo{Q8_0, "Q8_0", 32, 34},
                               GgmlTypeInfo{Q8_1, "Q8_1", 32, 40},
                               GgmlTypeInfo{Q2_K, "Q2_K", 256, 84},
                               GgmlTypeInfo{Q3_K, "Q3_K", 256, 110},
                               GgmlTypeInfo{Q4_K, "Q4_K", 256, 144},
                               GgmlTypeInfo{Q5_K, "Q5_K", 256, 176},
                               GgmlTypeInfo{Q6_K, "Q6_K", 256, 210},
                               GgmlTypeInfo{Q8_K, "Q8_K", 256, 292},
                               GgmlTypeInfo{IQ2_XXS, "IQ2_XXS", 256, 66},
                               GgmlTypeInfo{IQ2_XS, "IQ2_XS", 256, 74},
                               GgmlTypeInfo{IQ3_XXS, "IQ3_XXS", 256, 98},
                               GgmlTypeInfo{IQ1_S, "IQ1_S", 256, 50},
                               GgmlTypeInfo{IQ4_NL, "IQ4_NL", 32, 18},
                               GgmlTypeInfo{IQ3_S, "IQ3_S", 256, 110},
                               GgmlTypeInfo{IQ2_S, "IQ2_S", 256, 82},
                               GgmlTypeInfo{IQ4_XS, "IQ4_XS", 256, 136},
                               GgmlTypeInfo{I8, "I8", 1, 1},
                               GgmlTypeInfo{I16, "I16", 1, 2},
                               GgmlTypeInfo{I32, "I32", 1, 4},
                               GgmlTypeInfo{I64, "I64", 1, 8},
                               GgmlTypeInfo{F64, "F64", 1, 8},
                               GgmlTypeInfo{IQ1_M, "IQ1_M", 256, 56},
                               GgmlTypeInfo{BF16, "BF16", 1, 2},
                               GgmlTypeInfo{TQ1_0, "TQ1_0", 256, 54},
                               GgmlTypeInfo{TQ2_0, "TQ2_0", 256, 66},
                               GgmlTypeInfo{MXFP4, "MXFP4", 32, 17},
                               GgmlTypeInfo{NVFP4, "NVFP4", 64, 36}};

}  // namespace

const GgmlTypeInfo* find_ggml_type(std::uint32_t number) {
  const auto* it = std::find_if(kTypes.begin(), kTypes.end(), [&](const GgmlTypeInfo& info) {
    return static_cast<std::uint32_t>(info.type) == number;
  });
  return it == kTypes.end() ? nullptr : it;
}

const GgmlTypeInfo& ggml_type_info(GgmlType type) {
  const GgmlTypeInfo* info = find_ggml_type(static_cast<std::uint32_t>(type));
  require(info != nullptr, "there is no ggml type {}", static_cast<std::uint32_t>(type));
  return *info;
}

std::span<const GgmlTypeInfo> ggml_types() { return kTypes; }

}  // namespace nibble
