// The scales of one row of blocks: statistics of its rows, the rule, and with four-over-six the choice between two.
#pragma once

#include "nibble/quant/cpu/job.h"
#include "nibble/quant/cpu/multiplier.h"

namespace nibble::quant_cpu {

/// From the factors of one row of blocks to those of a row's elements.
class RowMultiplier {
 public:
  explicit RowMultiplier(const QTensor& q);
  Multiplier operator()(const float* blocks);

 private:
  std::int64_t block_;
  std::int64_t cols_;
  Scratch<float> expanded_;
};

class BandScaler {
 public:
  explicit BandScaler(const Job& job);

  /// Statistics of a band: forget, take a row in, hand out.
  void clear();
  void add_row(const float* y);
  /// The amax alone, of a row of BF16 bits.
  void add_bf16_row(const std::uint16_t* x);
  /// The moments alone, of a row of blocks.
  void add_moments_of_row(const float* sum, const float* squares);
  BlockStatistics statistics(std::int64_t band) const;

  /// Stores the scales of band `band` in job.q and returns what the elements of its blocks are multiplied by, one
  /// factor a block. `rows` are the rows y_c of the band, for four-over-six.
  const float* scale(std::int64_t band, const BlockStatistics& statistics, const float* const* rows);

 private:
  void scale_nvfp4(std::int64_t band, const AmaxBits* amax, const float* const* rows);
  void nvfp4_candidate(std::int64_t band, const AmaxBits* amax, float stretch, std::uint8_t* code, float* decode,
                       float* multiplier);

  const Job& job_;
  std::int64_t blocks_;
  Moments moments_;
  Scratch<AmaxBits> amax_;
  Scratch<float> sum_;
  Scratch<float> squares_;
  Scratch<float> multiplier_;
  Scratch<float> decode_;
  // Four-over-six: the second candidate, and the errors of both.
  Scratch<std::uint8_t> code4_;
  Scratch<float> multiplier4_;
  Scratch<float> decode4_;
  Scratch<float> error6_;
  Scratch<float> error4_;
};

}  // namespace nibble::quant_cpu
