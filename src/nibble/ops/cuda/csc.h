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

CscMatrix by_column(const CsrMatrix& m, Arena& scratch);

}  // namespace nibble::cuda
