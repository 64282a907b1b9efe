#include "nibble/quant/cpu/passes.h"

#include <atomic>

#include "nibble/quant/cpu/band_scaler.h"
#include "nibble/quant/cpu/bf16_blocks.h"
#include "nibble/quant/cpu/bf16_rows.h"
#include "nibble/quant/cpu/row_pipeline.h"

namespace nibble::quant_cpu {

namespace {

void raise(std::atomic_ref<AmaxBits> target, AmaxBits value) {
  AmaxBits seen = target.load(std::memory_order_relaxed);
  while (seen < value && !target.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

/// amax of x as it stands in memory; its order does not matter.
AmaxBits plain_amax(const Tensor& x) {
  constexpr std::int64_t kChunk = 1 << 15;
  AmaxBits amax = 0;
  parallel_for(x.numel(), kChunk, [&](std::int64_t begin, std::int64_t end) {
    const AmaxBits here =
        x.dtype() == DType::BF16
            ? amax_of_bf16(reinterpret_cast<const std::uint16_t*>(x.data<bf16>()) + begin, end - begin)
            : amax_of(x.data<float>() + begin, end - begin);
    raise(std::atomic_ref(amax), here);
  });
  return amax;
}

/// amax of y_c.
AmaxBits tensor_amax(const Job& job) {
  if (job.source.is_plain() && !job.spec.clamp.enabled()) return plain_amax(job.source.x());
  AmaxBits amax = 0;
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    const Scratch<float> buffer = scratch<float>(job.cols());
    AmaxBits here = 0;
    for (std::int64_t r = begin; r < end; ++r) {
      here = std::max(here, amax_of(pipeline.clamped(r, false, buffer.get()), job.cols()));
    }
    raise(std::atomic_ref(amax), here);
  });
  return amax;
}

/// Whether the scales are under one of the tensor, which then is found first.
bool set_tensor_scale(Job& job) {
  if (job.spec.scale != ScaleRule::Nvfp4 || job.q.outer != 0) return false;
  const AmaxBits* known = job.known_amax();
  job.outer = outer_scale(job.spec.nvfp4, known != nullptr ? *known : tensor_amax(job));
  job.q.tensor_scale = job.outer.decode;
  return true;
}

void encode_row(const Job& job, RowPipeline& pipeline, std::int64_t r, const float* y, Multiplier multiplier) {
  pipeline.encode(r, y, multiplier);
  if (job.spec.trust_mask) pipeline.mark_trusted(r, y, multiplier);
}

/// Statistics of all blocks: amax [blocks], and where the rule asks for them the moments of each row's part of a block
/// [rows, blocks of a row], so that they are added in the order of the rows whatever the chunks.
struct AllBlocks {
  AmaxBits* amax = nullptr;
  float* row_sum = nullptr;
  float* row_squares = nullptr;
};

void collect(const Job& job, Moments moments, const AllBlocks& all) {
  const std::int64_t blocks = job.q.scale_cols();
  const std::int64_t height = job.q.block_rows();
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    const Scratch<float> buffer = scratch<float>(job.cols());
    const Scratch<AmaxBits> amax = scratch<AmaxBits>(blocks);
    for (std::int64_t r = begin; r < end;) {
      const std::int64_t band = r / height;
      std::fill_n(amax.get(), blocks, 0);
      for (const std::int64_t stop = std::min(end, (band + 1) * height); r < stop; ++r) {
        const float* y = pipeline.clamped(r, false, buffer.get());
        amax_of_blocks(y, job.cols(), job.q.block_cols(), amax.get());
        if (moments == Moments::None) continue;
        std::fill_n(all.row_sum + r * blocks, blocks, 0.0f);
        std::fill_n(all.row_squares + r * blocks, blocks, 0.0f);
        add_moments(y, job.cols(), job.q.block_cols(), moments, all.row_sum + r * blocks, all.row_squares + r * blocks);
      }
      for (std::int64_t j = 0; j < blocks; ++j) raise(std::atomic_ref(all.amax[band * blocks + j]), amax[j]);
    }
  });
}

}  // namespace

void find_shared_amax(const Job& job, AmaxBits* amax) {
  if (job.spec.scale == ScaleRule::Nvfp4) {
    *amax = tensor_amax(job);
  } else {
    collect(job, Moments::None, {amax, nullptr, nullptr});
  }
}

void encode_unscaled(const Job& job) {
  const bool rounds_anyway = job.q.element == ElementFormat::BF16 && !job.source.folded();
  if (!job.spec.clamp.enabled() && !job.source.transposed() && !job.spec.hadamard.enabled() &&
      (job.source.is_plain() || rounds_anyway)) {
    return convert(job.source.x(), job.q.codes);
  }
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    const Scratch<float> buffer = scratch<float>(job.cols());
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = pipeline.clamped(r, false, buffer.get());
      pipeline.keep_residual(r);
      pipeline.encode(r, y, {});
    }
  });
}

bool fits_bf16_rows(const Job& job) {
  const QuantSpec& spec = job.spec;
  const Clamp& clamp = spec.clamp;
  const bool nearest = !is_stochastic(spec.rounding) && spec.rounding != Rounding::Reference;
  return job.source.is_plain_bf16() && job.q.element == ElementFormat::E2M1 && nearest && !spec.trust_mask &&
         spec.scale != ScaleRule::Nvfp4 && moments_of(spec.scale) == Moments::None && job.q.block_rows() == 1 &&
         job.q.block_cols() >= job.cols() &&
         (!clamp.enabled() || (clamp.per_row && clamp.residual != ResidualMode::Dense));
}

namespace {

/// A BF16 value's key as that of the float.
std::int32_t widened_key(std::int16_t key) { return key * 65536 + (key < 0 ? 0xFFFF : 0); }

}  // namespace

void encode_bf16_rows(const Job& job) {
  const std::int64_t n = job.cols();
  const bool clamp = job.spec.clamp.enabled();
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowReader read(job.source);
    QuantileSearch<std::int16_t> search(clamp ? job.spec.clamp.alpha : 1.0, n);
    const Scratch<std::int16_t> keys = scratch<std::int16_t>(clamp ? n : 0);
    const Scratch<std::uint16_t> clamped = scratch<std::uint16_t>(clamp ? n : 0);
    const Scratch<std::uint64_t> outside = scratch<std::uint64_t>(clamp ? (n + 63) / 64 + 1 : 0);
    const Scratch<std::int32_t> found = scratch<std::int32_t>(clamp ? n + 1 : 0);
    for (std::int64_t r = begin; r < end; ++r) {
      const std::uint16_t* x = read.bf16(r);
      AmaxBits amax = 0;
      if (clamp) {
        to_keys(x, n, keys.get());
        const KeyBounds<std::int16_t> bounds = search(keys.get());
        job.row_bounds[r] = {widened_key(bounds.low), widened_key(bounds.high)};
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
      block_scales(job.spec.scale, job.q.element, {&amax}, 1, job.q.scales, r, &multiplier);
      const Bf16Limits limits = bf16_limits(multiplier, job.spec.rounding);
      encode_e2m1_packed(x, limits, n, job.q.codes.data<std::uint8_t>() + r * job.q.code_row_bytes());
    }
  });
}

bool fits_bf16_blocks(const Job& job) {
  const QuantSpec& spec = job.spec;
  return job.source.is_plain_bf16() && job.q.element == ElementFormat::E2M1 && spec.rounding == Rounding::NearestEven &&
         !spec.trust_mask && !spec.clamp.enabled() && moments_of(spec.scale) == Moments::None &&
         spec.nvfp4.selection == Selection::None && job.q.block_rows() == 1 &&
         (job.q.block_cols() == 16 || job.q.block_cols() == 32);
}

void encode_bf16_blocks(Job& job) {
  set_tensor_scale(job);
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowReader read(job.source);
    BandScaler scaler(job);
    for (std::int64_t r = begin; r < end; ++r) {
      const std::uint16_t* x = read.bf16(r);
      scaler.clear();
      scaler.add_bf16_row(x);
      const float* multiplier = scaler.scale(r, scaler.statistics(r), nullptr);
      encode_e2m1_blocks(x, multiplier, job.q.block_cols(), job.cols(),
                         job.q.codes.data<std::uint8_t>() + r * job.q.code_row_bytes());
    }
  });
}

void encode_bands(Job& job) {
  const std::int64_t n = job.cols();
  const std::int64_t tallest = std::min(job.q.block_rows(), job.rows());
  const bool bounds_known = set_tensor_scale(job) && job.row_bounds != nullptr;
  const AmaxBits* known = job.known_block_amax();
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    BandScaler scaler(job);
    RowMultiplier row_multiplier(job.q);
    const Scratch<float> buffer = scratch<float>(tallest * n);
    const float* rows[kTallestBand];
    for (std::int64_t r = begin; r < end; r += tallest) {
      const std::int64_t height = std::min(tallest, end - r);
      const std::int64_t band = r / job.q.block_rows();
      scaler.clear();
      for (std::int64_t i = 0; i < height; ++i) {
        rows[i] = pipeline.clamped(r + i, bounds_known, buffer.get() + i * n);
        pipeline.keep_residual(r + i);
        scaler.add_row(rows[i]);
      }
      BlockStatistics statistics = scaler.statistics(band);
      if (known != nullptr) statistics.amax = known + band * job.q.scale_cols();
      const float* blocks = scaler.scale(band, statistics, rows);
      const Multiplier multiplier = row_multiplier(blocks);
      for (std::int64_t i = 0; i < height; ++i) {
        encode_row(job, pipeline, r + i, rows[i], multiplier);
        if (job.spec.rounding == Rounding::Eden) pipeline.correct_scales(r + i, rows[i], blocks);
      }
    }
  });
}

void encode_tall(Job& job, Arena& arena) {
  const std::int64_t blocks = job.q.scale_cols();
  const std::int64_t bands = job.q.scale_rows();
  const Moments moments = moments_of(job.spec.scale);
  AllBlocks all;
  const AmaxBits* known = job.known_block_amax();
  const AmaxBits* amax = known;
  if (known == nullptr) {
    all.amax = arena.allocate(DType::I32, {bands * blocks}).data<AmaxBits>();
    std::fill_n(all.amax, bands * blocks, 0);
    amax = all.amax;
  }
  if (moments != Moments::None) {
    all.row_sum = arena.allocate(DType::F32, {job.rows() * blocks}).data<float>();
    all.row_squares = arena.allocate(DType::F32, {job.rows() * blocks}).data<float>();
  }
  if (known == nullptr) collect(job, moments, all);
  if (job.spec.scale == ScaleRule::Nvfp4) {
    const AmaxBits* of_tensor = job.known_amax();
    job.outer =
        outer_scale(job.spec.nvfp4, of_tensor != nullptr ? *of_tensor : *std::max_element(amax, amax + bands * blocks));
    job.q.tensor_scale = job.outer.decode;
  }

  float* multiplier = arena.allocate(DType::F32, {bands * blocks}).data<float>();
  const std::int64_t height = job.q.block_rows();
  BandScaler scaler(job);
  for (std::int64_t band = 0; band < bands; ++band) {
    scaler.clear();
    BlockStatistics statistics = scaler.statistics(band);
    statistics.amax = amax + band * blocks;
    if (moments != Moments::None) {
      for (std::int64_t r = band * height; r < std::min(job.rows(), (band + 1) * height); ++r) {
        scaler.add_moments_of_row(all.row_sum + r * blocks, all.row_squares + r * blocks);
      }
    }
    std::copy_n(scaler.scale(band, statistics, nullptr), blocks, multiplier + band * blocks);
  }
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    RowMultiplier row_multiplier(job.q);
    const Scratch<float> buffer = scratch<float>(job.cols());
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = pipeline.clamped(r, true, buffer.get());
      pipeline.keep_residual(r);
      encode_row(job, pipeline, r, y, row_multiplier(multiplier + r / height * blocks));
    }
  });
}

}  // namespace nibble::quant_cpu
