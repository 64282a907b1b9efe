#include "nibble/train/gpu_peak.h"

#include <algorithm>
#include <chrono>

#include "nibble/ops/gemm.h"
#include "nibble/quant/quantize.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

/// Operations a second of C [n, n] = A B^T.
double rate_of(const QTensor& a, const QTensor& b, const Tensor& c, Arena& scratch) {
  constexpr int kRuns = 6;  // the first chooses the library's kernel
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    synchronize(Device::Cuda);
    const auto start = std::chrono::steady_clock::now();
    gemm({a}, {b}, c, Accumulate::Overwrite, scratch);
    synchronize(Device::Cuda);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const auto n = static_cast<double>(c.rows());
    best = std::max(best, 2 * n * n * n / seconds);
  }
  return best;
}

/// Numbers in [-1/2, 1/2), since a GPU draws less power, and so keeps a higher clock, for those that do not change.
/// A strip of them, again and again.
void fill_with_noise(const Tensor& to) {
  constexpr std::int64_t kStrip = 64;
  const OwnedTensor strip(DType::F32, {kStrip, to.cols()});
  const RandomStream random{1, 0, 0};
  float* x = strip.view().data<float>();
  for (std::int64_t i = 0; i < strip.view().numel(); ++i) {
    x[i] = uniform24(random.word(static_cast<std::uint64_t>(i))) - 0.5f;
  }
  const OwnedTensor typed(to.dtype(), strip.view().shape());
  convert(strip, typed);
  for (std::int64_t r = 0; r < to.rows(); r += kStrip) copy(typed, to.row_range(r, r + kStrip));
}

double rate_of(ElementFormat element, std::int64_t n) {
  Arena arena(Device::Cuda);
  const DType dtype = element == ElementFormat::F32 ? DType::F32 : DType::BF16;
  const Tensor values = arena.allocate(dtype, {n, n});
  fill_with_noise(values);
  QuantSpec spec;
  spec.element = element;
  if (has_scale(element)) spec.scale = ScaleRule::Absmax;
  const QTensor a = has_scale(element) ? quantize(values, spec, {}, arena) : QTensor::view(values);
  if (has_scale(element) && gemm_path({a}, {a}) != GemmPath::Fp8) return 0;
  return rate_of(a, a, arena.allocate(dtype, {n, n}), arena);
}

}  // namespace

const GpuPeak& gpu_peak() {
  static const GpuPeak peak{rate_of(ElementFormat::BF16, 8192), rate_of(ElementFormat::E4M3, 8192),
                            rate_of(ElementFormat::F32, 4096)};
  return peak;
}

}  // namespace nibble
