#include "nibble/quant/cpu/band_scaler.h"

#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/bf16_blocks.h"
#include "nibble/quant/cpu/four_over_six.h"

namespace nibble::quant_cpu {

RowMultiplier::RowMultiplier(const QTensor& q) : block_(q.block_cols()), cols_(q.cols) {
  if (block_ > 1 && block_ < cols_) expanded_ = scratch<float>(cols_);
}

Multiplier RowMultiplier::operator()(const float* blocks) {
  if (block_ >= cols_) return {blocks[0], nullptr};
  if (block_ == 1) return {1.0f, blocks};
  expand_blocks(blocks, block_, cols_, expanded_.get());
  return {1.0f, expanded_.get()};
}

BandScaler::BandScaler(const Job& job) : job_(job), blocks_(job.q.scale_cols()), moments_(moments_of(job.spec.scale)) {
  amax_ = scratch<AmaxBits>(blocks_);
  multiplier_ = scratch<float>(blocks_);
  if (moments_ != Moments::None) {
    sum_ = scratch<float>(blocks_);
    squares_ = scratch<float>(blocks_);
  }
  if (job.spec.scale != ScaleRule::Nvfp4) return;
  decode_ = scratch<float>(blocks_);
  if (job.spec.nvfp4.selection == Selection::None) return;
  code4_ = scratch<std::uint8_t>(blocks_);
  for (Scratch<float>* values : {&multiplier4_, &decode4_, &error6_, &error4_}) *values = scratch<float>(blocks_);
}

void BandScaler::clear() {
  std::fill_n(amax_.get(), blocks_, 0);
  if (moments_ == Moments::None) return;
  std::fill_n(sum_.get(), blocks_, 0.0f);
  std::fill_n(squares_.get(), blocks_, 0.0f);
}

void BandScaler::add_row(const float* y) {
  amax_of_blocks(y, job_.cols(), job_.q.block_cols(), amax_.get());
  add_moments(y, job_.cols(), job_.q.block_cols(), moments_, sum_.get(), squares_.get());
}

void BandScaler::add_bf16_row(const std::uint16_t* x) {
  amax_of_bf16_blocks(x, job_.cols(), job_.q.block_cols(), amax_.get());
}

void BandScaler::add_moments_of_row(const float* sum, const float* squares) {
  for (std::int64_t j = 0; j < blocks_; ++j) {
    sum_[j] += sum[j];
    squares_[j] += squares[j];
  }
}

BlockStatistics BandScaler::statistics(std::int64_t band) const {
  const std::int64_t block = job_.q.block_cols();
  const std::int64_t rows = std::min(job_.q.block_rows(), job_.rows() - band * job_.q.block_rows());
  const auto count = [&](std::int64_t cols) { return static_cast<float>(rows * cols); };
  return {amax_.get(), sum_.get(), squares_.get(), count(std::min(block, job_.cols())),
          count(job_.cols() - (blocks_ - 1) * block)};
}

const float* BandScaler::scale(std::int64_t band, const BlockStatistics& statistics, const float* const* rows) {
  if (job_.spec.scale == ScaleRule::Nvfp4) {
    scale_nvfp4(band, statistics.amax, rows);
  } else {
    block_scales(job_.spec.scale, job_.q.element, statistics, blocks_, job_.q.scales, band * blocks_,
                 multiplier_.get());
  }
  return multiplier_.get();
}

void BandScaler::nvfp4_candidate(std::int64_t band, const AmaxBits* amax, float stretch, std::uint8_t* code,
                                 float* decode, float* multiplier) {
  const QTensor& q = job_.q;
  const std::uint8_t zero_code = e4m3_encode(static_cast<float>(job_.spec.nvfp4.zero_scale));
  if (q.outer == 0) return nvfp4_scales(amax, blocks_, job_.outer, stretch, zero_code, code, decode, multiplier);
  float* outer_scales = q.outer_scales.data<float>() + band * q.outer_scales.cols();
  const std::int64_t step = q.outer / q.block_cols();
  for (std::int64_t j = 0; j < blocks_; j += step) {
    const std::int64_t count = std::min(step, blocks_ - j);
    const OuterScale outer = outer_scale(job_.spec.nvfp4, *std::max_element(amax + j, amax + j + count));
    outer_scales[j / step] = outer.decode;
    nvfp4_scales(amax + j, count, outer, stretch, zero_code, code + j, decode + j, multiplier + j);
  }
}

void BandScaler::scale_nvfp4(std::int64_t band, const AmaxBits* amax, const float* const* rows) {
  std::uint8_t* code = job_.q.scales.data<std::uint8_t>() + band * blocks_;
  nvfp4_candidate(band, amax, 1.0f, code, decode_.get(), multiplier_.get());
  const Selection selection = job_.spec.nvfp4.selection;
  if (selection == Selection::None) return;
  nvfp4_candidate(band, amax, 1.5f, code4_.get(), decode4_.get(), multiplier4_.get());
  std::fill_n(error6_.get(), blocks_, 0.0f);
  std::fill_n(error4_.get(), blocks_, 0.0f);
  const std::int64_t height = std::min(job_.q.block_rows(), job_.rows() - band * job_.q.block_rows());
  for (std::int64_t i = 0; i < height; ++i) {
    four_over_six_errors(rows[i], job_.cols(), job_.q.block_cols(), job_.spec.rounding, selection, multiplier_.get(),
                         decode_.get(), multiplier4_.get(), decode4_.get(), error6_.get(), error4_.get());
  }
  for (std::int64_t j = 0; j < blocks_; ++j) {
    if (!(error4_[j] < error6_[j])) continue;
    code[j] = code4_[j];
    multiplier_[j] = multiplier4_[j];
  }
}

}  // namespace nibble::quant_cpu
