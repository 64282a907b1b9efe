// The order of the work: validate, allocate, clamp, scale, encode. Two plans by where a block's amax comes from:
//
//   row by row    blocks lie within a row (and no scale depends on the tensor): one pass over x
//   two passes    the amax of all blocks first, then the codes
#include <algorithm>
#include <atomic>
#include <memory>

#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/bf16_rows.h"
#include "nibble/quant/cpu/carrier.h"
#include "nibble/quant/cpu/clamp.h"
#include "nibble/quant/cpu/encode.h"
#include "nibble/quant/cpu/residual.h"
#include "nibble/quant/cpu/scales.h"
#include "nibble/quant/cpu/stochastic.h"
#include "nibble/tensor/parallel.h"

namespace nibble::quant_cpu {

namespace {

template <class T>
using Scratch = std::unique_ptr<T[]>;
template <class T>
Scratch<T> scratch(std::int64_t n) {
  return std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(n));
}

/// Everything that the passes share.
struct Job {
  const Source& source;
  const QuantSpec& spec;
  const QuantizeContext& context;
  QTensor& q;
  ResidualRows& residual;
  KeyBounds<std::int32_t>* row_bounds = nullptr;  ///< one a row where the clamp needs them in two passes
  KeyBounds<std::int32_t> tensor_bounds;

  std::int64_t rows() const { return q.rows; }
  std::int64_t cols() const { return q.cols; }
  /// Rows a chunk takes: whole bands of blocks where a band is not too tall to share out.
  std::int64_t grain() const {
    const std::int64_t rows = rows_per_chunk(source.row_bytes());
    const std::int64_t band = q.block_rows();
    return band > 1 && band <= 64 ? (rows + band - 1) / band * band : rows;
  }
};

/// A row's way from x to codes, with the buffers for it; each chunk of rows has one.
class RowPipeline {
 public:
  explicit RowPipeline(const Job& job)
      : job_(job),
        y_(scratch<float>(job.cols())),
        codes_(scratch<std::uint8_t>(job.cols())),
        search_(job.spec.clamp.enabled() ? job.spec.clamp.alpha : 1.0, std::max<std::int64_t>(job.cols(), 1)) {
    if (job.spec.clamp.enabled()) {
      keys_ = scratch<std::int32_t>(job.cols());
      clamped_ = scratch<float>(job.cols());
      outside_ = scratch<std::uint64_t>((job.cols() + 63) / 64);
      found_ = scratch<std::int32_t>(job.cols() + 1);
    }
    if (job.spec.rounding == Rounding::Stochastic) words_ = scratch<std::uint32_t>(job.cols());
    if (job.spec.rounding == Rounding::Stochastic8) bytes_ = scratch<std::uint8_t>(job.cols());
  }

  /// y_c of row r, with the bounds taken from job.row_bounds if `bounds_known`, and noted there if not.
  const float* clamped(std::int64_t r, bool bounds_known) {
    const float* y = job_.source.row(r, y_.get());
    if (!job_.spec.clamp.enabled()) return y;
    KeyBounds<std::int32_t> bounds = job_.tensor_bounds;
    if (job_.spec.clamp.per_row) {
      if (bounds_known) {
        bounds = job_.row_bounds[r];
      } else {
        to_keys(y, job_.cols(), keys_.get());
        bounds = search_(keys_.get());
        if (job_.row_bounds != nullptr) job_.row_bounds[r] = bounds;
      }
    }
    clamp_row(y, bounds, job_.cols(), clamped_.get());
    unclamped_ = y;
    bounds_ = bounds;
    return clamped_.get();
  }

  /// Keeps what clamped(r) cut off. To be called once a row, after clamped(r).
  void keep_residual(std::int64_t r) {
    if (!job_.residual.enabled()) return;
    mark_outside(unclamped_, bounds_, job_.cols(), outside_.get());
    job_.residual.write(r, unclamped_, clamped_.get(), outside_.get(), found_.get());
  }

  void encode(std::int64_t r, const float* y, Multiplier multiplier) {
    const std::int64_t n = job_.cols();
    const QTensor& q = job_.q;
    switch (q.element) {
      case ElementFormat::F32: std::copy_n(y, n, q.codes.data<float>() + r * n); break;
      case ElementFormat::BF16: encode_bf16(y, n, q.codes.data<bf16>() + r * n); break;
      case ElementFormat::E4M3: encode_e4m3(y, multiplier, n, q.codes.data<std::uint8_t>() + r * n); break;
      case ElementFormat::E5M2: encode_e5m2(y, multiplier, n, q.codes.data<std::uint8_t>() + r * n); break;
      case ElementFormat::E2M1: {
        const std::uint64_t first = job_.context.element_offset + static_cast<std::uint64_t>(r * n);
        if (job_.spec.rounding == Rounding::Stochastic) {
          random_words(job_.context.random, first, n, words_.get());
          encode_e2m1_stochastic(y, multiplier, words_.get(), n, codes_.get());
        } else if (job_.spec.rounding == Rounding::Stochastic8) {
          random_bytes(job_.context.random, first, n, bytes_.get());
          encode_e2m1_stochastic8(y, multiplier, bytes_.get(), n, codes_.get());
        } else {
          encode_e2m1(y, multiplier, job_.spec.rounding, n, codes_.get());
        }
        pack_nibbles(codes_.get(), n, q.codes.data<std::uint8_t>() + r * q.code_row_bytes());
        break;
      }
    }
  }

 private:
  const Job& job_;
  Scratch<float> y_;
  Scratch<std::uint8_t> codes_;
  Scratch<std::int32_t> keys_;
  Scratch<float> clamped_;
  Scratch<std::uint64_t> outside_;
  Scratch<std::int32_t> found_;
  Scratch<std::uint32_t> words_;
  Scratch<std::uint8_t> bytes_;
  const float* unclamped_ = nullptr;
  KeyBounds<std::int32_t> bounds_;
  QuantileSearch<std::int32_t> search_;
};

/// The multipliers of one row of blocks, for a row's elements.
class RowMultiplier {
 public:
  explicit RowMultiplier(const QTensor& q) : block_(q.block_cols()), cols_(q.cols) {
    if (block_ > 1 && block_ < cols_) expanded_ = scratch<float>(cols_);
  }
  Multiplier operator()(const float* blocks) {
    if (block_ >= cols_) return {blocks[0], nullptr};
    if (block_ == 1) return {1.0f, blocks};
    expand_blocks(blocks, block_, cols_, expanded_.get());
    return {1.0f, expanded_.get()};
  }

 private:
  std::int64_t block_;
  std::int64_t cols_;
  Scratch<float> expanded_;
};

/// Elements without a scale.
void encode_unscaled(const Job& job) {
  if (!job.spec.clamp.enabled() && !job.source.folded() &&
      (!job.spec.bf16_input || job.q.element == ElementFormat::BF16)) {
    return convert(job.source.x(), job.q.codes);
  }
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = pipeline.clamped(r, false);
      pipeline.keep_residual(r);
      pipeline.encode(r, y, {});
    }
  });
}

void encode_row_by_row(const Job& job) {
  const std::int64_t blocks = job.q.scale_cols();
  const Scaler scaler(job.spec.scale, job.q.element, 0);
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    RowMultiplier row_multiplier(job.q);
    const Scratch<AmaxBits> amax = scratch<AmaxBits>(blocks);
    const Scratch<float> multiplier = scratch<float>(blocks);
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = pipeline.clamped(r, false);
      pipeline.keep_residual(r);
      std::fill_n(amax.get(), blocks, 0);
      amax_of_blocks(y, job.cols(), job.q.block_cols(), amax.get());
      scaler(amax.get(), blocks, job.q.scales, r * blocks, multiplier.get());
      pipeline.encode(r, y, row_multiplier(multiplier.get()));
    }
  });
}

/// amax of every block, and of the tensor.
AmaxBits amax_pass(const Job& job, AmaxBits* amax) {
  const std::int64_t blocks = job.q.scale_cols();
  const std::int64_t band = job.q.block_rows();
  std::atomic<AmaxBits> tensor_amax{0};
  const auto raise = [](auto&& target, AmaxBits value) {
    AmaxBits seen = target.load(std::memory_order_relaxed);
    while (seen < value && !target.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
    }
  };
  std::fill_n(amax, job.q.scale_rows() * blocks, 0);
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    const Scratch<AmaxBits> local = scratch<AmaxBits>(blocks);
    AmaxBits largest = 0;
    for (std::int64_t r = begin; r < end;) {
      const std::int64_t band_end = std::min(end, (r / band + 1) * band);
      const bool whole = r % band == 0 && (band_end % band == 0 || band_end == job.rows());
      AmaxBits* shared = amax + r / band * blocks;
      AmaxBits* mine = whole ? shared : local.get();
      if (!whole) std::fill_n(mine, blocks, 0);
      for (; r < band_end; ++r) amax_of_blocks(pipeline.clamped(r, false), job.cols(), job.q.block_cols(), mine);
      for (std::int64_t j = 0; j < blocks; ++j) {
        if (!whole) raise(std::atomic_ref<AmaxBits>(shared[j]), mine[j]);  // another chunk has the band's other rows
        largest = std::max(largest, mine[j]);
      }
    }
    raise(tensor_amax, largest);
  });
  return tensor_amax.load();
}

void encode_in_two_passes(const Job& job, Arena& arena) {
  const std::int64_t blocks = job.q.scale_cols();
  const std::int64_t count = job.q.scale_rows() * blocks;
  AmaxBits* amax = arena.allocate(DType::I32, {count}).data<AmaxBits>();
  float* multiplier = arena.allocate(DType::F32, {count}).data<float>();
  const Scaler scaler(job.spec.scale, job.q.element, amax_pass(job, amax));
  job.q.tensor_scale = scaler.tensor_scale();
  parallel_for(count, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    scaler(amax + begin, end - begin, job.q.scales, begin, multiplier + begin);
  });
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    RowMultiplier row_multiplier(job.q);
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = pipeline.clamped(r, true);
      pipeline.keep_residual(r);
      pipeline.encode(r, y, row_multiplier(multiplier + r / job.q.block_rows() * blocks));
    }
  });
}

/// Whether the 16-bit path applies: BF16 rows as they stand, a scale a row, round to nearest.
bool fits_bf16_rows(const Job& job) {
  const QuantSpec& spec = job.spec;
  return job.source.is_plain_bf16() && job.q.element == ElementFormat::E2M1 && spec.scale != ScaleRule::Nvfp4 &&
         job.q.block_rows() == 1 && job.q.block_cols() >= job.cols() && !is_stochastic(spec.rounding) &&
         (!spec.clamp.enabled() || spec.clamp.per_row);
}

void encode_bf16_rows(const Job& job) {
  const std::int64_t n = job.cols();
  const Scaler scaler(job.spec.scale, job.q.element, 0);
  const bool clamp = job.spec.clamp.enabled();
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    QuantileSearch<std::int16_t> search(clamp ? job.spec.clamp.alpha : 1.0, n);
    const Scratch<std::int16_t> keys = scratch<std::int16_t>(clamp ? n : 0);
    const Scratch<std::uint16_t> clamped = scratch<std::uint16_t>(clamp ? n : 0);
    const Scratch<std::uint64_t> outside = scratch<std::uint64_t>(clamp ? (n + 63) / 64 + 1 : 0);
    const Scratch<std::int32_t> found = scratch<std::int32_t>(clamp ? n + 1 : 0);
    for (std::int64_t r = begin; r < end; ++r) {
      const std::uint16_t* x = job.source.bf16_row(r);
      AmaxBits amax = 0;
      if (clamp) {
        to_keys(x, n, keys.get());
        const KeyBounds<std::int16_t> bounds = search(keys.get());
        clamp_bf16_keys(keys.get(), bounds.low, bounds.high, n, clamped.get(), outside.get());
        if (job.residual.enabled()) job.residual.write(r, x, clamped.get(), outside.get(), found.get());
        x = clamped.get();
        // Both bounds are entries of the clamped row, and everything else lies between them.
        for (const std::int16_t key : {bounds.low, bounds.high}) {
          amax = std::max(amax, static_cast<AmaxBits>(ordered_key(key) & 0x7FFF) << 16);
        }
      } else {
        amax = amax_of_bf16(x, n);
      }
      float multiplier = 0;
      scaler(&amax, 1, job.q.scales, r, &multiplier);
      const Bf16Limits limits = bf16_limits(multiplier, job.spec.rounding);
      encode_e2m1_packed(x, limits, n, job.q.codes.data<std::uint8_t>() + r * job.q.code_row_bytes());
    }
  });
}

/// The most entries that a row has outside the bounds.
std::int64_t most_outside(const Source& source, KeyBounds<std::int32_t> bounds) {
  std::atomic<std::int64_t> most{0};
  parallel_for(source.rows(), rows_per_chunk(source.row_bytes()), [&](std::int64_t begin, std::int64_t end) {
    const Scratch<float> buffer = scratch<float>(source.cols());
    std::int64_t here = 0;
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = source.row(r, buffer.get());
      here = std::max<std::int64_t>(here, std::count_if(y, y + source.cols(), [&](float v) {
                                      return float_key(v) < bounds.low || float_key(v) > bounds.high;
                                    }));
    }
    std::int64_t seen = most.load();
    while (seen < here && !most.compare_exchange_weak(seen, here)) {
    }
  });
  return most.load();
}

void validate(const QuantSpec& spec) {
  const bool e2m1 = spec.element == ElementFormat::E2M1;
  require(has_scale(spec.element) == (spec.scale != ScaleRule::None),
          "a scale rule is for elements that take a scale (E2M1, E4M3, E5M2), and those need one");
  require(e2m1 || scale_format(spec.scale) == ScaleFormat::F32 || spec.scale == ScaleRule::None,
          "OcpFloor, Ceil6 and Nvfp4 scales are for E2M1 elements");
  require(e2m1 || spec.rounding == Rounding::NearestEven, "elements other than E2M1 round to nearest even");
  require(spec.carrier == ElementFormat::BF16 ||
              (e2m1 && (spec.carrier == ElementFormat::E4M3 || spec.carrier == ElementFormat::E5M2)),
          "a carrier is E4M3 or E5M2 and carries E2M1 elements");
  require(spec.granularity.rows >= 0 && spec.granularity.cols >= 0, "a block of {} x {} elements",
          spec.granularity.rows, spec.granularity.cols);
}

/// Codes and scales of q (its format fields are set), without a carrier.
void allocate_codes(QTensor& q, Arena& arena) {
  switch (q.element) {
    case ElementFormat::F32: q.codes = arena.allocate(DType::F32, {q.rows, q.cols}); break;
    case ElementFormat::BF16: q.codes = arena.allocate(DType::BF16, {q.rows, q.cols}); break;
    case ElementFormat::E2M1:
    case ElementFormat::E4M3:
    case ElementFormat::E5M2: q.codes = arena.allocate(DType::U8, {q.rows, q.code_row_bytes()}); break;
  }
  if (q.scale_format == ScaleFormat::None) return;
  const DType dtype = q.scale_format == ScaleFormat::F32 ? DType::F32 : DType::U8;
  q.scales = arena.allocate(dtype, {q.scale_rows(), q.scale_cols()});
}

QTensor empty_result(const Source& source, ElementFormat element, Granularity granularity, ScaleFormat format) {
  QTensor q;
  q.element = element;
  q.rows = source.rows();
  q.cols = source.cols();
  q.granularity = granularity;
  q.scale_format = format;
  return q;
}

void encode_all(Job& job, Arena& arena) {
  const ArenaScope scope(arena);
  const Clamp& clamp = job.spec.clamp;
  if (clamp.enabled() && !clamp.per_row) {
    job.tensor_bounds = tensor_bounds(job.source, clamp.alpha);
    if (job.residual.enabled()) job.residual.open(most_outside(job.source, job.tensor_bounds), arena);
  } else if (clamp.enabled()) {
    job.residual.open(quantile_index(clamp.alpha, job.cols()).outside(job.cols()), arena);
  }
  std::unique_ptr<KeyBounds<std::int32_t>[]> row_bounds;
  if (!has_scale(job.q.element)) {
    encode_unscaled(job);
  } else if (fits_bf16_rows(job)) {
    encode_bf16_rows(job);
  } else if (job.q.block_rows() == 1 && job.spec.scale != ScaleRule::Nvfp4) {
    encode_row_by_row(job);
  } else {
    if (clamp.enabled() && clamp.per_row) {
      row_bounds = scratch<KeyBounds<std::int32_t>>(job.rows());
      job.row_bounds = row_bounds.get();
    }
    encode_in_two_passes(job, arena);
  }
  job.q.residual = job.residual.finish();
}

ResidualRows residual_for(const Source& source, const Clamp& clamp, Arena& arena) {
  if (!clamp.enabled() || clamp.residual == ResidualMode::None) return {};
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::int64_t capacity = rows * cols == 0 ? 0
                                : clamp.per_row  ? rows * quantile_index(clamp.alpha, cols).outside(cols)
                                                 : quantile_index(clamp.alpha, rows * cols).outside(rows * cols);
  return ResidualRows(rows, cols, capacity, arena);
}

QTensor carry_out(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  validate(spec);
  const Source source(x, spec.bf16_input, context);
  const bool carried = spec.carrier != ElementFormat::BF16;
  QTensor result = carried ? empty_result(source, spec.carrier, Granularity::per_tensor(), ScaleFormat::F32)
                           : empty_result(source, spec.element, spec.granularity, scale_format(spec.scale));
  allocate_codes(result, arena);
  QTensor inner = empty_result(source, spec.element, spec.granularity, scale_format(spec.scale));
  if (carried) {
    result.element_granularity = spec.granularity;
    result.element_scales = arena.allocate(DType::F32, {inner.scale_rows(), inner.scale_cols()});
  }
  ResidualRows residual = residual_for(source, spec.clamp, arena);
  const ArenaScope scope(arena);
  if (carried) allocate_codes(inner, arena);
  QTensor& elements = carried ? inner : result;
  if (source.rows() * source.cols() == 0) {
    if (residual.enabled()) {
      residual.open(0, arena);
      result.residual = residual.finish();
    }
    return result;
  }
  Job job{source, spec, context, elements, residual, nullptr, {}};
  encode_all(job, arena);
  if (carried) {
    carry(inner, result);
    result.residual = inner.residual;
  }
  return result;
}

}  // namespace

}  // namespace nibble::quant_cpu

namespace nibble {

QTensor cpu::quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  return quant_cpu::carry_out(x, spec, context, arena);
}

}  // namespace nibble
