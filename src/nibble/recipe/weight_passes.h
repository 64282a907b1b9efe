// Passes over a weight matrix and what is kept of it from step to step: its moving average, its way, and the resets of
// elements that oscillate. All tensors are F32 [rows, cols] on one device, unless said otherwise.
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

/// average = decay * average + (1 - decay) * w.
void update_average(const Tensor& average, const Tensor& w, double decay);

/// way += |now - last|; last = now.
void add_way(const Tensor& now, const Tensor& last, const Tensor& way);

/// w = quantised where quantised_way > 0 and quantised_way >= threshold * weight_way; flagged (I32 [rows]) receives how
/// many elements of a row that were.
void reset_by_ratio(const Tensor& w, const Tensor& quantised, const Tensor& weight_way, const Tensor& quantised_way,
                    float threshold, const Tensor& flagged);

/// w = quantised where |w / s - q| > threshold * (width of q's bin), q = quantised / s an E2M1 value, s the decode
/// scale of the element (where it is 0 nothing is reset). The width of the set of values that round to q is .5 for |q|
/// <= 1.5 and .75, 1, 1.5, 2 for 2, 3, 4, 6. `flagged` as above.
void reset_at_edge(const Tensor& w, const Tensor& quantised, const Tensor& scales, float threshold,
                   const Tensor& flagged);

/// to[r] = from[r] for the rows with flagged[r] > 0.
void copy_flagged_rows(const Tensor& from, const Tensor& flagged, const Tensor& to);

/// Every byte of a U8 tensor = value.
void fill_bytes(const Tensor& bytes, std::uint8_t value);

}  // namespace nibble
