// A quantised operand against its source, in one pass: a warp takes a row, a lane eight columns of it at a time, of the
// source as the quantiser reads it and of the values. Some thirty operations in double an element, which hide behind
// memory. A fixed number of blocks adds in a fixed order, their sums are added on the CPU; what is counted is integers.
#include <memory>

#include "nibble/quant/backend.h"
#include "nibble/quant/cuda/block_scales.cuh"
#include "nibble/quant/cuda/decode_eight.cuh"
#include "nibble/quant/cuda/job.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlocks = 1024;
constexpr std::uint32_t kStep = 256;  // columns of a warp at a time

enum Sum { kSignal, kNoise, kDot, kQuantised, kError, kMagnitude, kSums };
using Count = unsigned long long;
enum Counted { kUnderflow, kClamped, kClipped, kCounted };

/// What the blocks leave for the CPU.
struct Result {
  double sums[kBlocks][kSums];
  Count counts[kBlocks][kCounted];
  Count scale_saturated;
  Count scale_underflow;
};

/// The blocks that the elements were scaled by, and how far their elements reach.
struct Limits {
  BlockScales scales;
  float max;            ///< largest element; 0: elements take no scale
  bool between_eights;  ///< blocks end only between eights of columns

  Limits(const QTensor& q, const QuantSpec& spec)
      : scales(q),
        max(element_max(spec.element)),
        between_eights(scales.cols.divisor() % 8 == 0 || scales.cols.divisor() >= q.cols) {}
  __device__ float factor() const { return scales.factor() * max * (1.0f + 0x1p-20f); }
  /// The largest magnitude within the block of (r, c); `all` is factor(). What is above it by rounding alone, as amax
  /// is above max * (amax / max), is not beyond.
  __device__ float limit(std::uint32_t r, std::uint32_t c, float all) const { return scales.scale(r, c) * all; }
};

/// amax[block] = max(amax[block], magnitude) for the eight columns of every lane; null: not wanted.
__device__ void add_amax(const Limits& limits, std::uint32_t r, std::uint32_t c, std::uint32_t cols,
                         const float (&y)[8], std::int32_t* amax) {
  const auto bits = [&](int i) { return static_cast<std::int32_t>(float_bits(y[i]) & 0x7FFF'FFFFu); };
  if (!limits.between_eights) {
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      if (c + i < cols) atomicMax(amax + limits.scales.index(r, c + i), bits(i));
    }
    return;
  }
  std::int32_t top = 0;
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) top = max(top, c + i < cols ? bits(i) : 0);
  // The lanes of one block, neighbours, speak with one voice.
  const std::uint32_t block = c < cols ? limits.scales.cols.quotient(c) : ~0u;
  const unsigned peers = __match_any_sync(0xFFFF'FFFFu, block);
  top = __reduce_max_sync(peers, top);
  const bool leads = (peers & ((1u << (threadIdx.x % 32)) - 1)) == 0;
  if (leads && c < cols) atomicMax(amax + limits.scales.index(r, c), top);
}

/// The sum over the threads of a block, in thread 0.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T lane[kThreads];
  lane[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) lane[threadIdx.x] += lane[threadIdx.x + half];
    __syncthreads();
  }
  const T sum = lane[0];
  __syncthreads();
  return sum;
}

struct Arguments {
  SourceView exact;
  SourceView quantised;
  bool again;          ///< the quantiser saw other values than those that are measured against
  bool quantised_f32;  ///< they are F32, whatever x is
  DecodeView q;
  ResidualView residual;
  Limits limits;
  std::int32_t* amax;  ///< one a block of scales of eight bits; null where there are none
  Result* result;
};

/// The residual's entries of columns [first, first + kStep), added to the values; `entry` moves past them.
__device__ void add_residual(const ResidualView& residual, std::int32_t& entry, std::int32_t end, std::uint32_t first,
                             float (&v)[8]) {
  __shared__ float extra[kWarps][kStep];
  float* row = extra[threadIdx.x / 32];
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 8; ++i) row[lane + 32 * i] = 0.0f;
  __syncwarp();
  while (true) {
    const std::int32_t e = entry + static_cast<std::int32_t>(lane);
    const std::uint32_t c = e < end ? static_cast<std::uint32_t>(residual.col[e]) : ~0u;
    const bool here = e < end && c < first + kStep;
    if (here) row[c - first] = residual.value[e];
    const int count = __popc(__ballot_sync(0xFFFF'FFFFu, here));
    entry += count;
    if (count < 32) break;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float add = row[lane * 8 + i];
    if (add != 0.0f) v[i] += add;
  }
  __syncwarp();
}

template <Columns kColumns, class T>
__global__ void __launch_bounds__(kThreads, 2) measure_kernel(const __grid_constant__ Arguments a) {
  const std::uint32_t cols = a.q.cols;
  const unsigned lane = threadIdx.x % 32;
  const float all = a.q.factor();
  const float limit_factor = a.limits.factor();
  double sums[kSums] = {};
  Count counts[kCounted] = {};
  for (std::uint32_t r = blockIdx.x * kWarps + threadIdx.x / 32; r < a.q.rows; r += kBlocks * kWarps) {
    std::int32_t entry = a.residual.row_begin == nullptr ? 0 : a.residual.row_begin[r];
    const std::int32_t end = a.residual.row_begin == nullptr ? 0 : a.residual.row_begin[r + 1];
    for (std::uint32_t first = 0; first < cols; first += kStep) {  // all lanes together: a transform shuffles
      const std::uint32_t c = first + lane * 8;
      float y[8];
      float v[8] = {};
      read_unclamped<T>(a.exact, r, c, y);
      if (c < cols) decode_eight<kColumns>(a.q, r, c, all, v);
      if (a.residual.row_begin != nullptr) add_residual(a.residual, entry, end, first, v);
#pragma unroll
      for (std::uint32_t i = 0; i < 8; ++i) {
        if (c + i >= cols) continue;
        const double x = y[i];
        const double z = v[i];
        sums[kSignal] += x * x;
        sums[kNoise] += (x - z) * (x - z);
        sums[kDot] += x * z;
        sums[kQuantised] += z * z;
        sums[kError] += z - x;
        sums[kMagnitude] += static_cast<double>(float_abs(y[i]));
        counts[kUnderflow] += y[i] != 0 && v[i] == 0 ? 1 : 0;
      }
      if (a.again) {
        if (a.quantised_f32) {
          read_unclamped<float>(a.quantised, r, c, y);
        } else {
          read_unclamped<T>(a.quantised, r, c, y);
        }
        if (a.quantised.bounds != nullptr) {
          const Bounds bounds = a.quantised.bounds[a.quantised.bounds_of_rows ? r : 0];
#pragma unroll
          for (int i = 0; i < 8; ++i) v[i] = y[i];
          clamp_to(y, bounds);
#pragma unroll
          for (std::uint32_t i = 0; i < 8; ++i) counts[kClamped] += c + i < cols && v[i] - y[i] != 0 ? 1 : 0;
        }
      }
      if (a.limits.max == 0) continue;
      float limit = a.limits.between_eights && c < cols ? a.limits.limit(r, c, limit_factor) : 0.0f;
#pragma unroll
      for (std::uint32_t i = 0; i < 8; ++i) {
        if (c + i >= cols) continue;
        if (!a.limits.between_eights) limit = a.limits.limit(r, c + i, limit_factor);
        counts[kClipped] += float_abs(y[i]) > limit ? 1 : 0;
      }
      if (a.amax != nullptr) add_amax(a.limits, r, c, cols, y, a.amax);
    }
  }
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    const double sum = block_sum(sums[s]);
    if (threadIdx.x == 0) a.result->sums[blockIdx.x][s] = sum;
  }
#pragma unroll
  for (int s = 0; s < kCounted; ++s) {
    const Count count = block_sum(counts[s]);
    if (threadIdx.x == 0) a.result->counts[blockIdx.x][s] = count;
  }
}

/// Counts the scales of eight bits that did not fit their block.
__global__ void __launch_bounds__(kThreads)
    count_scales_kernel(const __grid_constant__ Limits limits, const std::uint8_t* codes, const std::int32_t* amax,
                        std::int64_t blocks, Result* result) {
  const bool e8m0 = limits.scales.q.scale_format == ScaleFormat::E8M0;
  const int largest = e8m0 ? 254 : 0x7E;
  const int smallest = e8m0 ? 0 : 1;
  const float all = limits.factor();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < blocks; i += stride) {
    const auto band = static_cast<std::uint32_t>(i / limits.scales.count);
    const auto j = static_cast<std::uint32_t>(i % limits.scales.count);
    const float limit = limits.limit(band * limits.scales.rows.divisor(), j * limits.scales.cols.divisor(), all);
    const float value = bits_float(static_cast<std::uint32_t>(min(amax[i], 0x7F7F'FFFF)));
    // A scale that stands in for zero (Nvfp4Scale::zero_scale) is far above its block.
    const bool stands_in = !e8m0 && value < limit / 16;
    if (codes[i] == largest && value > limit) atomicAdd(&result->scale_saturated, Count{1});
    if (value != 0 && (codes[i] <= smallest || stands_in)) atomicAdd(&result->scale_underflow, Count{1});
  }
}

/// y of x by rows, x transposed already.
SourceView source_view(const Tensor& x, bool round_to_bf16, const QuantSpec& spec, const QuantizeContext& context) {
  SourceView view = plain_source(x);
  view.round_to_bf16 = round_to_bf16 && x.dtype() == DType::F32;
  view.row_fold = fold_data(context.row_fold, x.rows(), "row_fold");
  view.col_fold = fold_data(context.col_fold, x.cols(), "col_fold");
  view.hadamard = hadamard_factors(spec.hadamard, context.signs);
  return view;
}

template <class T>
void launch_measure(Columns columns, const Arguments& arguments) {
  const auto launch = [&](auto kernel) { kernel<<<kBlocks, kThreads, 0, cuda::stream()>>>(arguments); };
  switch (columns) {
    case Columns::Blocks: return launch(measure_kernel<Columns::Blocks, T>);
    case Columns::Packs: return launch(measure_kernel<Columns::Packs, T>);
    case Columns::Single: return launch(measure_kernel<Columns::Single, T>);
  }
}

QuantQuality total_of(const Result& result) {
  QuantQuality total;
  for (int b = 0; b < kBlocks; ++b) {
    const double* sums = result.sums[b];
    const Count* counts = result.counts[b];
    total.signal += sums[kSignal];
    total.noise += sums[kNoise];
    total.dot += sums[kDot];
    total.quantised += sums[kQuantised];
    total.error += sums[kError];
    total.magnitude += sums[kMagnitude];
    total.underflow += static_cast<std::int64_t>(counts[kUnderflow]);
    total.clamped += static_cast<std::int64_t>(counts[kClamped]);
    total.clipped += static_cast<std::int64_t>(counts[kClipped]);
  }
  total.scale_saturated = static_cast<std::int64_t>(result.scale_saturated);
  total.scale_underflow = static_cast<std::int64_t>(result.scale_underflow);
  return total;
}

QuantQuality measure(const Tensor& given, const QTensor& q, const QuantSpec& spec, const QuantizeContext& context,
                     Arena& scratch) {
  Tensor x = given;
  if (spec.transposed) {
    x = scratch.allocate(given.dtype(), {given.cols(), given.rows()});
    transpose(given, false, x);
  }
  QTensor shape = q;  // a job has a result to write, of which nothing is written here
  Job job{spec, context, shape, scratch, x.dtype(), source_view(x, spec.bf16_input, spec, context)};
  if (spec.clamp.enabled()) {
    if (job.rotated()) materialise(job);
    find_bounds(job, false);
  }
  const Limits limits(q, spec);
  const bool eight_bits = limits.max > 0 && limits.scales.element_scales == nullptr &&
                          (q.scale_format == ScaleFormat::E8M0 || q.scale_format == ScaleFormat::UE4M3);
  const std::int64_t blocks = q.scale_rows() * q.scale_cols();
  std::int32_t* amax = nullptr;
  if (eight_bits) {
    amax = job.scratch<std::int32_t>(blocks);
    fill_zero_async(amax, static_cast<std::size_t>(blocks) * sizeof(std::int32_t));
  }
  auto* result = job.scratch<Result>(1);
  fill_zero_async(result, sizeof(Result));
  const Arguments arguments{.exact = source_view(x, false, spec, context),
                            .quantised = job.source,
                            .again = spec.bf16_input || spec.clamp.enabled(),
                            .quantised_f32 = job.dtype == DType::F32,
                            .q = DecodeView(q),
                            .residual = ResidualView(q.residual),
                            .limits = limits,
                            .amax = amax,
                            .result = result};
  dispatch_float(x.dtype(), [&]<class T>(T*) { launch_measure<T>(columns_of(q), arguments); });
  cuda::launched("measure_quality");
  if (eight_bits) {
    count_scales_kernel<<<cuda::grid_for(blocks, kThreads), kThreads, 0, cuda::stream()>>>(
        limits, q.scales.data<std::uint8_t>(), amax, blocks, result);
    cuda::launched("measure_quality");
  }
  const auto on_host = std::make_unique<Result>();
  cuda::to_host(on_host.get(), result, sizeof(Result));
  QuantQuality total = total_of(*on_host);
  total.count = q.rows * q.cols;
  if (q.residual.defined()) total.clamped = cuda::fetch(q.residual.row_begin.data<std::int32_t>() + q.rows);
  if (limits.max > 0) {
    const std::int64_t rows = limits.scales.rows.divisor();
    total.blocks = (q.rows + rows - 1) / rows * limits.scales.count;
  }
  return total;
}

}  // namespace

}  // namespace nibble::quant_cuda

namespace nibble::cuda {

QuantQuality measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec, const QuantizeContext& context,
                             Arena& scratch) {
  const std::int64_t rows = spec.transposed ? x.cols() : x.rows();
  const std::int64_t cols = spec.transposed ? x.rows() : x.cols();
  require(rows == q.rows && cols == q.cols, "measure_quality of {} against a [{}, {}] QTensor", to_string(x), q.rows,
          q.cols);
  require(x.device() == Device::Cuda && scratch.device() == Device::Cuda,
          "measure_quality of {} with scratch memory of {}", to_string(x), device_name(scratch.device()));
  if (rows * cols == 0) return {};
  const ArenaScope scope(scratch);
  return quant_cuda::measure(x, q, spec, context, scratch);
}

}  // namespace nibble::cuda
