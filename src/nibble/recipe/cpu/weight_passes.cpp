#include "nibble/recipe/weight_passes.h"

#include <algorithm>
#include <cmath>

#include "nibble/recipe/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {

namespace {

constexpr std::int64_t kGrain = 1 << 14;

NIBBLE_SIMD void average_row(float* average, const float* w, float decay, float rest, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) average[i] = decay * average[i] + rest * w[i];
}

NIBBLE_SIMD void add_way(const float* now, float* last, float* way, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    way[i] += std::abs(now[i] - last[i]);
    last[i] = now[i];
  }
}

NIBBLE_SIMD std::int32_t reset_by_ratio(float* w, const float* quantised, const float* weight_way,
                                        const float* quantised_way, float threshold, std::int64_t n) {
  std::int32_t flagged = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool flag = (quantised_way[i] > 0) & (quantised_way[i] >= threshold * weight_way[i]);
    w[i] = flag ? quantised[i] : w[i];
    flagged += flag ? 1 : 0;
  }
  return flagged;
}

/// Half of the steps from an E2M1 value to its neighbours on either side.
[[gnu::always_inline]] inline float bin_width(float magnitude) {
  return magnitude < 1.75f ? 0.5f : magnitude < 2.5f ? 0.75f : magnitude < 3.5f ? 1.0f : magnitude < 5.0f ? 1.5f : 2.0f;
}

NIBBLE_SIMD std::int32_t reset_at_edge(float* w, const float* quantised, const float* scale, float threshold,
                                       std::int64_t n) {
  std::int32_t flagged = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    // A scale of zero decodes to zero whatever the code: there is no bin to be at the edge of.
    const float inverse = scale[i] > 0 ? 1.0f / scale[i] : 0.0f;
    const float q = quantised[i] * inverse;
    const bool flag = std::abs(w[i] * inverse - q) > threshold * bin_width(std::abs(q));
    w[i] = flag ? quantised[i] : w[i];
    flagged += flag ? 1 : 0;
  }
  return flagged;
}

/// Calls f(first element of the row, r) for the rows of x in parallel.
template <class F>
void for_each_row(const Tensor& x, F&& f) {
  parallel_for(x.rows(), rows_per_chunk(x.cols() * static_cast<std::int64_t>(sizeof(float))),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t r = begin; r < end; ++r) f(r * x.cols(), r);
               });
}

}  // namespace

void update_average(const Tensor& average, const Tensor& w, double decay) {
  float* a = average.data<float>();
  const float* from = w.data<float>();
  parallel_for(w.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    average_row(a + begin, from + begin, static_cast<float>(decay), static_cast<float>(1 - decay), end - begin);
  });
}

void add_way(const Tensor& now, const Tensor& last, const Tensor& way) {
  const float* at = now.data<float>();
  float* from = last.data<float>();
  float* sum = way.data<float>();
  parallel_for(now.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    add_way(at + begin, from + begin, sum + begin, end - begin);
  });
}

void reset_by_ratio(const Tensor& w, const Tensor& quantised, const Tensor& weight_way, const Tensor& quantised_way,
                    float threshold, const Tensor& flagged) {
  float* values = w.data<float>();
  const float* q = quantised.data<float>();
  const float* way = weight_way.data<float>();
  const float* way_of_q = quantised_way.data<float>();
  std::int32_t* counts = flagged.data<std::int32_t>();
  for_each_row(w, [&](std::int64_t at, std::int64_t r) {
    counts[r] = reset_by_ratio(values + at, q + at, way + at, way_of_q + at, threshold, w.cols());
  });
}

void reset_at_edge(const Tensor& w, const Tensor& quantised, const Tensor& scales, float threshold,
                   const Tensor& flagged) {
  float* values = w.data<float>();
  const float* q = quantised.data<float>();
  const float* scale = scales.data<float>();
  std::int32_t* counts = flagged.data<std::int32_t>();
  for_each_row(w, [&](std::int64_t at, std::int64_t r) {
    counts[r] = reset_at_edge(values + at, q + at, scale + at, threshold, w.cols());
  });
}

void copy_flagged_rows(const Tensor& from, const Tensor& flagged, const Tensor& to) {
  const float* source = from.data<float>();
  float* target = to.data<float>();
  const std::int32_t* counts = flagged.data<std::int32_t>();
  for_each_row(from, [&](std::int64_t at, std::int64_t r) {
    if (counts[r] > 0) std::copy_n(source + at, from.cols(), target + at);
  });
}

void fill_bytes(const Tensor& bytes, std::uint8_t value) {
  std::fill_n(bytes.data<std::uint8_t>(), bytes.numel(), value);
}

}  // namespace nibble::cpu
