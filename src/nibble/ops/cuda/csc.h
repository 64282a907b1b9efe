// The entries of a sparse matrix by column, built on the GPU.
#pragma once

#include "nibble/quant/qtensor.h"

namespace nibble::cuda {

/// The entries of column c are [begin[c], begin[c + 1]), rows ascending.
struct CscMatrix {
  const std::int32_t* begin = nullptr;  ///< [cols + 1]
  const std::int32_t* row = nullptr;
  const float* value = nullptr;
};

/// The values as they are, or what their BF16 parts leave of them (spmm_parts.h), without the entries where that is 0.
enum class CscValues : std::uint8_t { Whole, Low };

CscMatrix by_column(const CsrMatrix& m, CscValues values, Arena& scratch);

}  // namespace nibble::cuda
