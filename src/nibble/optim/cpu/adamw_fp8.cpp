#include <algorithm>
#include <cmath>
#include <vector>

#include "nibble/numerics/fp16.h"
#include "nibble/numerics/fp8.h"
#include "nibble/optim/adamw_element.h"
#include "nibble/optim/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kGrain = 1 << 15;

// The bits of |x|. As integers they order like the magnitudes with infinity and then NaN at the top, so their
// maximum is an amax that no NaN escapes, and one that may be taken in any order.
[[gnu::always_inline]] inline std::int32_t magnitude_bits(float x) {
  return static_cast<std::int32_t>(float_bits(x) & 0x7FFF'FFFFu);
}

NIBBLE_SIMD std::int32_t amax_bits(const float* x, std::int64_t n) {
  std::int32_t top = 0;
  for (std::int64_t i = 0; i < n; ++i) top = std::max(top, magnitude_bits(x[i]));
  return top;
}

NIBBLE_SIMD void store(const float* x, float sf, std::uint8_t* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = e4m3_encode(x[i] * sf);
}
NIBBLE_SIMD void store(const float* x, float sf, std::uint16_t* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = fp16_encode_saturate(x[i] * sf);
}
NIBBLE_SIMD void load(const std::uint8_t* from, float inv, float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = e4m3_decode(from[i]) * inv;
}
NIBBLE_SIMD void load(const std::uint16_t* from, float inv, float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = fp16_decode(from[i]) * inv;
}

struct ScalePair {
  float sf;
  float inv;
};

// sf = 2^floor(log2(fp_max / amax)). The quotient of two floats that is not a power of two differs from one by more
// than double rounding, so ilogb of the double quotient is exact. |exponent| <= 126 keeps sf and 1/sf normal.
ScalePair choose_scale(float fp_max, std::int32_t amax_bits, float previous_inv) {
  const float amax = bits_float(static_cast<std::uint32_t>(amax_bits));
  if (amax > 0 && float_is_finite(amax)) {
    const int e = std::clamp(std::ilogb(static_cast<double>(fp_max) / static_cast<double>(amax)), -126, 126);
    return {exp2_int(e), exp2_int(-e)};
  }
  // No previous scale (zero-filled state): 1.
  const bool usable = previous_inv > 0 && float_is_finite(previous_inv);
  return usable ? ScalePair{1.0f / previous_inv, previous_inv} : ScalePair{1.0f, 1.0f};
}

template <class F>
decltype(auto) dispatch_scaled(const ScaledTensor& s, F&& f) {
  if (s.data.dtype() == DType::U8) return f(s.data.data<std::uint8_t>(), kE4M3Max);
  return f(s.data.data<std::uint16_t>(), kFp16Max);
}

struct State {
  std::uint16_t* __restrict master;
  std::uint8_t* __restrict m;
  std::uint16_t* __restrict v;
  float master_inv, m_inv, v_inv;
};

struct Amax {
  std::int32_t master = 0;
  std::int32_t m = 0;
  std::int32_t v = 0;
};

// The updated values of element i, in float. Both passes compute them: to decode and divide again costs less than
// 24 bytes a parameter to and from memory.
[[gnu::always_inline]] inline void updated(const State& s, const AdamWFactors& f, float grad, std::int64_t i, float& p,
                                           float& m, float& v) {
  p = fp16_decode(s.master[i]) * s.master_inv;
  m = e4m3_decode(s.m[i]) * s.m_inv;
  v = fp16_decode(s.v[i]) * s.v_inv;
  adamw_element(f, grad, p, m, v);
}

NIBBLE_SIMD Amax measure(State s, const float* grad, AdamWFactors f, std::int64_t begin, std::int64_t end) {
  Amax top;
  for (std::int64_t i = begin; i < end; ++i) {
    float p = 0;
    float m = 0;
    float v = 0;
    updated(s, f, grad[i], i, p, m, v);
    top.master = std::max(top.master, magnitude_bits(p));
    top.m = std::max(top.m, magnitude_bits(m));
    top.v = std::max(top.v, magnitude_bits(v));
  }
  return top;
}

NIBBLE_SIMD void requantise(State s, const float* grad, AdamWFactors f, ScalePair master, ScalePair first,
                            ScalePair second, float* __restrict param, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    float p = 0;
    float m = 0;
    float v = 0;
    updated(s, f, grad[i], i, p, m, v);
    const std::uint16_t code = fp16_encode_saturate(p * master.sf);
    s.master[i] = code;
    param[i] = fp16_decode(code) * master.inv;
    s.m[i] = e4m3_encode(m * first.sf);
    s.v[i] = fp16_encode_saturate(v * second.sf);
  }
}

}  // namespace

void scaled_measure(const Tensor& x, const Tensor& amax) {
  const std::int64_t n = x.numel();
  const float* from = x.data<float>();
  std::vector<std::int32_t> top(static_cast<std::size_t>((n + kGrain - 1) / kGrain));
  parallel_for(n, kGrain, [&](std::int64_t b, std::int64_t e) {
    top[static_cast<std::size_t>(b / kGrain)] = amax_bits(from + b, e - b);
  });
  auto* largest = amax.data<std::int32_t>();
  for (const std::int32_t bits : top) *largest = std::max(*largest, bits);
}

void scaled_store(const Tensor& x, const Tensor& amax, const ScaledTensor& to) {
  const float* from = x.data<float>();
  float* inv = to.scale_inv.data<float>();
  dispatch_scaled(to, [&](auto* data, float fp_max) {
    const ScalePair scale = choose_scale(fp_max, *amax.data<std::int32_t>(), *inv);
    parallel_for(x.numel(), kGrain,
                 [&](std::int64_t b, std::int64_t e) { store(from + b, scale.sf, data + b, e - b); });
    *inv = scale.inv;
  });
}

void scaled_store(const Tensor& x, const ScaledTensor& to) {
  std::int32_t top = 0;
  const Tensor amax = Tensor::of(&top, {1});
  cpu::scaled_measure(x, amax);
  cpu::scaled_store(x, amax, to);
}

void scaled_load(const ScaledTensor& from, const Tensor& x) {
  float* to = x.data<float>();
  const float inv = *from.scale_inv.data<float>();
  dispatch_scaled(from, [&](const auto* data, float) {
    parallel_for(x.numel(), kGrain, [&](std::int64_t b, std::int64_t e) { load(data + b, inv, to + b, e - b); });
  });
}

namespace {

State state_of(const ScaledTensor& master, const ScaledTensor& m, const ScaledTensor& v) {
  return {master.data.data<std::uint16_t>(), m.data.data<std::uint8_t>(), v.data.data<std::uint16_t>(),
          *master.scale_inv.data<float>(),   *m.scale_inv.data<float>(),  *v.scale_inv.data<float>()};
}

}  // namespace

void adamw_fp8_measure(const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m, const ScaledTensor& v,
                       const AdamWStep& step, const Tensor& amax) {
  const std::int64_t n = grad.numel();
  const AdamWFactors factors = adamw_factors(step);
  const float* g = grad.data<float>();
  const State state = state_of(master, m, v);
  std::vector<Amax> tops(static_cast<std::size_t>((n + kGrain - 1) / kGrain));
  parallel_for(n, kGrain, [&](std::int64_t b, std::int64_t e) {
    tops[static_cast<std::size_t>(b / kGrain)] = measure(state, g, factors, b, e);
  });
  auto* all = amax.data<std::int32_t>();
  for (const Amax& top : tops) {
    all[0] = std::max(all[0], top.master);
    all[1] = std::max(all[1], top.m);
    all[2] = std::max(all[2], top.v);
  }
}

void adamw_fp8_store(const Tensor& param, const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m,
                     const ScaledTensor& v, const AdamWStep& step, const Tensor& amax, Arena&) {
  const AdamWFactors factors = adamw_factors(step);
  const float* g = grad.data<float>();
  float* out = param.data<float>();
  const State state = state_of(master, m, v);
  const auto* top = amax.data<std::int32_t>();
  const ScalePair master_scale = choose_scale(kFp16Max, top[0], state.master_inv);
  const ScalePair m_scale = choose_scale(kE4M3Max, top[1], state.m_inv);
  const ScalePair v_scale = choose_scale(kFp16Max, top[2], state.v_inv);
  parallel_for(param.numel(), kGrain, [&](std::int64_t b, std::int64_t e) {
    requantise(state, g, factors, master_scale, m_scale, v_scale, out, b, e);
  });
  *master.scale_inv.data<float>() = master_scale.inv;
  *m.scale_inv.data<float>() = m_scale.inv;
  *v.scale_inv.data<float>() = v_scale.inv;
}

}  // namespace nibble::cpu
