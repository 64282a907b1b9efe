// The elements in another form: the carrier cast, and the dense residual. Bound by memory.
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    element_scales_kernel(const __grid_constant__ DecodeView elements, FastDivide blocks_of_band, std::uint32_t items,
                          float* __restrict__ scales) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const std::uint32_t band = blocks_of_band.quotient(item);
  float s = elements.stored_scale(item);
  if (elements.outer_scales != nullptr) {  // only where a band is a row
    s *= elements.outer_scale(band, (item - band * blocks_of_band.divisor()) * elements.block_cols.divisor());
  }
  scales[item] = s * elements.factor();
}

/// Eight values; zeros beyond the end of the row.
__device__ __forceinline__ void decode_eight(const DecodeView& q, std::uint32_t r, std::uint32_t c, float factor,
                                             float (&v)[8]) {
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) v[i] = c + i < q.cols ? q.value(r, c + i, factor) : 0.0f;
}

__global__ void __launch_bounds__(kThreads)
    decoded_amax_kernel(const __grid_constant__ DecodeView elements, FastDivide chunks, std::uint32_t items,
                        std::int32_t* amax) {
  const float factor = elements.factor();
  std::int32_t most = 0;
  for (std::uint32_t item = blockIdx.x * kThreads + threadIdx.x; item < items; item += gridDim.x * kThreads) {
    const std::uint32_t r = chunks.quotient(item);
    float v[8];
    decode_eight(elements, r, 8 * (item - r * chunks.divisor()), factor, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) most = max(most, magnitude_bits(v[i]));
  }
  most = __reduce_max_sync(0xFFFF'FFFFu, most);
  if (threadIdx.x % 32 == 0) atomicMax(amax, most);
}

__global__ void __launch_bounds__(kThreads)
    carry_kernel(const __grid_constant__ DecodeView elements, const __grid_constant__ CodesView carried,
                 const __grid_constant__ ScaleView view, FastDivide chunks, std::uint32_t items,
                 const std::int32_t* __restrict__ amax, float* __restrict__ stored) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const BlockScale scale = block_scale(view, *amax, 0.0f, 0.0f, 1.0f);
  if (item == 0) *stored = scale.stored;
  const std::uint32_t r = chunks.quotient(item);
  const std::uint32_t c = 8 * (item - r * chunks.divisor());
  float v[8];
  decode_eight(elements, r, c, elements.factor(), v);
  float z[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) z[i] = v[i] * scale.multiplier;
  std::uint32_t words[2];
  encode_fp8(carried.element, z, v, false, words);
  store_codes(carried, r, c, words);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    add_dense_residual_kernel(const __grid_constant__ SourceView source, const __grid_constant__ DecodeView elements,
                              const __grid_constant__ CodesView sum, FastDivide chunks, std::uint32_t items) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const std::uint32_t r = chunks.quotient(item);
  const std::uint32_t c = 8 * (item - r * chunks.divisor());
  float y[8];
  float clamped[8];
  float v[8];
  read_unclamped<T>(source, r, c, y);
#pragma unroll
  for (int i = 0; i < 8; ++i) clamped[i] = y[i];
  clamp_to(clamped, source.bounds[source.bounds_of_rows ? r : 0]);
  decode_eight(elements, r, c, elements.factor(), v);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] += y[i] - clamped[i];
  store_values(sum, r, c, v);
}

}  // namespace

void copy_element_scales(const QTensor& elements, const QTensor& form) {
  const std::int64_t items = elements.scale_rows() * elements.scale_cols();
  element_scales_kernel<<<blocks_for(items, kThreads), kThreads, 0, cuda::stream()>>>(
      DecodeView(elements), FastDivide(elements.scale_cols()), static_cast<std::uint32_t>(items),
      form.element_scales.data<float>());
  cuda::launched("element_scales_kernel");
}

void carry(const Job& job, const QTensor& elements, const QTensor& carried) {
  auto* amax = job.scratch<std::int32_t>(1);
  fill_zero_async(amax, sizeof(std::int32_t));
  const std::int64_t chunks = chunks_of_row(elements.cols);
  const std::int64_t items = elements.rows * chunks;
  const unsigned blocks = blocks_for(items, kThreads);
  const DecodeView view(elements);
  decoded_amax_kernel<<<cuda::grid_for(items, kThreads, 1), kThreads, 0, cuda::stream()>>>(
      view, FastDivide(chunks), static_cast<std::uint32_t>(items), amax);
  cuda::launched("decoded_amax_kernel");
  carry_kernel<<<blocks, kThreads, 0, cuda::stream()>>>(
      view, CodesView(carried), ScaleView(ScaleRule::AbsmaxPow2, carried.element), FastDivide(chunks),
      static_cast<std::uint32_t>(items), amax, carried.scales.data<float>());
  cuda::launched("carry_kernel");
}

void add_dense_residual(const Job& job, const QTensor& sum) {
  dispatch_float(job.dtype, [&]<class T>(T*) {
    const std::int64_t chunks = chunks_of_row(job.cols());
    const std::int64_t items = job.rows() * chunks;
    add_dense_residual_kernel<T><<<blocks_for(items, kThreads), kThreads, 0, cuda::stream()>>>(
        job.source, DecodeView(job.q), CodesView(sum), FastDivide(chunks), static_cast<std::uint32_t>(items));
    cuda::launched("add_dense_residual_kernel");
  });
}

}  // namespace nibble::quant_cuda
