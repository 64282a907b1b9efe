// What is quantised already, quantised anew: operands of a backward product from those of fprop.
#pragma once

#include "nibble/quant/quantize.h"

namespace nibble {

/// The values that q stores, F32 [q.rows, q.cols], without the residual of its clamp.
Tensor stored_values(const QTensor& q, Arena& arena);

/// quantize(stored_values(q), spec, context, arena), bit for bit. The values are written out, to `scratch`, unless
/// requantizes_codes: `scratch` may be `arena`, and they stay there until it is rewound.
QTensor requantize(const QTensor& q, const QuantSpec& spec, const QuantizeContext& context, Arena& arena,
                   Arena& scratch);

/// Whether `requantize` on that device reads the codes of q and writes no values out. A GPU does for E2M1 codes whose
/// scales cover whole sixteens of columns, with blocks of 16 to 128 columns in the result, which is transposed. Of q
/// its form counts, not its memory.
bool requantizes_codes(const QTensor& q, const QuantSpec& spec, Device device);

}  // namespace nibble
