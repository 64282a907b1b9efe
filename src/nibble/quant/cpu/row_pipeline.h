// A row's way from x to codes.
#pragma once

#include "nibble/quant/cpu/job.h"
#include "nibble/quant/cpu/multiplier.h"

namespace nibble::quant_cpu {

/// The buffers of one thread for rows of one job.
class RowPipeline {
 public:
  explicit RowPipeline(const Job& job);

  /// y_c of row r: x itself where nothing is to be computed, else `out` [cols], filled. The bounds of the clamp are
  /// taken from job.row_bounds if `bounds_known`, else found, and noted there.
  const float* clamped(std::int64_t r, bool bounds_known, float* out);
  /// Keeps what the last call of clamped(), for row r, cut off; to be called once a row.
  void keep_residual(std::int64_t r);
  /// y - y_c of row r in `out`, the bounds being known.
  const float* cut_off(std::int64_t r, float* out);

  /// Row r of the codes from y_c.
  void encode(std::int64_t r, const float* y, Multiplier multiplier);
  /// Row r of the trust mask.
  void mark_trusted(std::int64_t r, const float* y, Multiplier multiplier);
  /// Row r of the scales under MS-EDEN's correction, from y_c and its factors, one a block; after encode().
  void correct_scales(std::int64_t r, const float* y, const float* multiplier);

 private:
  void encode_four_bit(std::int64_t r, const float* y, Multiplier multiplier);

  const Job& job_;
  RowReader reader_;
  std::optional<RowReader> reference_;
  QuantileSearch<std::int32_t> search_;
  Scratch<std::uint8_t> codes_;
  Scratch<float> y_;  ///< the row before the clamp
  Scratch<std::int32_t> keys_;
  Scratch<std::uint64_t> outside_;
  Scratch<std::int32_t> found_;
  Scratch<std::uint32_t> words_;
  Scratch<std::uint8_t> bytes_;
  Scratch<float> towards_;
  const float* unclamped_ = nullptr;
  const float* clamped_ = nullptr;
  KeyBounds<std::int32_t> bounds_;
};

}  // namespace nibble::quant_cpu
