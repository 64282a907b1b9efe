#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nibble/quant/cpu/hadamard.cpp"
#include "nibble/quant/cpu/hadamard.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/encode.h"
#include "nibble/tensor/parallel.h"

// The levels run over strides 1, 2, 4, ..., group / 2, each a sum and a difference of two numbers, so every instruction
// set computes the same bits. Strides 1 to 8 stay within a tile of 16 columns, the others pair whole tiles.
//
//   stride      1  2  4  8       16 32        64 128
//   pass        tiles of 16      four tiles   four tiles      (two, where one level is left)
HWY_BEFORE_NAMESPACE();
namespace nibble::quant_cpu::HWY_NAMESPACE {

constexpr std::int64_t kTile = 16;

/// A group of up to eight columns, or the groups that are left at the end of a row.
void TransformShort(float* y, std::int64_t n, std::int64_t group, const float* before, const float* after) {
  for (std::int64_t i = 0; i < n; ++i) y[i] *= before[i];
  for (std::int64_t stride = 1; stride < group; stride *= 2) {
    for (std::int64_t i = 0; i < n; ++i) {
      if ((i & stride) != 0) continue;
      const float a = y[i];
      const float b = y[i + stride];
      y[i] = a + b;
      y[i + stride] = a - b;
    }
  }
  for (std::int64_t i = 0; i < n; ++i) y[i] *= after[i];
}

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128

namespace hn = hwy::HWY_NAMESPACE;

// Lane i of the result is swapped[i] + y[i] or, where the sign of `flip` is set, swapped[i] - y[i].
template <class V>
HWY_INLINE V Butterfly(V y, V swapped, V flip) {
  return hn::Add(swapped, hn::Xor(y, flip));
}

alignas(32) constexpr float kFlip1[8] = {0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f};
alignas(32) constexpr float kFlip2[8] = {0.0f, 0.0f, -0.0f, -0.0f, 0.0f, 0.0f, -0.0f, -0.0f};

/// Levels 1, 2, 4, 8 as far as the group reaches, of one tile.
#if !HWY_HAVE_SCALABLE && HWY_MAX_BYTES >= 32
alignas(32) constexpr float kFlip4[8] = {0.0f, 0.0f, 0.0f, 0.0f, -0.0f, -0.0f, -0.0f, -0.0f};

template <int kGroup, bool kScaled>
HWY_INLINE void TransformTile(float* HWY_RESTRICT y, const float* HWY_RESTRICT before,
                              const float* HWY_RESTRICT after) {
  const hn::FixedTag<float, 8> d;
  auto a = hn::Mul(hn::LoadU(d, y), hn::LoadU(d, before));
  auto b = hn::Mul(hn::LoadU(d, y + 8), hn::LoadU(d, before + 8));
  const auto flip1 = hn::Load(d, kFlip1);
  a = Butterfly(a, hn::Shuffle2301(a), flip1);
  b = Butterfly(b, hn::Shuffle2301(b), flip1);
  if constexpr (kGroup >= 4) {
    const auto flip2 = hn::Load(d, kFlip2);
    a = Butterfly(a, hn::Shuffle1032(a), flip2);
    b = Butterfly(b, hn::Shuffle1032(b), flip2);
  }
  if constexpr (kGroup >= 8) {
    const auto flip4 = hn::Load(d, kFlip4);
    a = Butterfly(a, hn::SwapAdjacentBlocks(a), flip4);
    b = Butterfly(b, hn::SwapAdjacentBlocks(b), flip4);
  }
  if constexpr (kGroup >= 16) {
    const auto sum = hn::Add(a, b);
    b = hn::Sub(a, b);
    a = sum;
  }
  if constexpr (kScaled) {
    a = hn::Mul(a, hn::LoadU(d, after));
    b = hn::Mul(b, hn::LoadU(d, after + 8));
  }
  hn::StoreU(a, d, y);
  hn::StoreU(b, d, y + 8);
}
#else
template <int kGroup, bool kScaled>
HWY_INLINE void TransformTile(float* HWY_RESTRICT y, const float* HWY_RESTRICT before,
                              const float* HWY_RESTRICT after) {
  const hn::FixedTag<float, 4> d;
  auto v0 = hn::Mul(hn::LoadU(d, y), hn::LoadU(d, before));
  auto v1 = hn::Mul(hn::LoadU(d, y + 4), hn::LoadU(d, before + 4));
  auto v2 = hn::Mul(hn::LoadU(d, y + 8), hn::LoadU(d, before + 8));
  auto v3 = hn::Mul(hn::LoadU(d, y + 12), hn::LoadU(d, before + 12));
  const auto pair = [](auto& a, auto& b) HWY_ATTR {
    const auto sum = hn::Add(a, b);
    b = hn::Sub(a, b);
    a = sum;
  };
  const auto flip1 = hn::Load(d, kFlip1);
  v0 = Butterfly(v0, hn::Shuffle2301(v0), flip1);
  v1 = Butterfly(v1, hn::Shuffle2301(v1), flip1);
  v2 = Butterfly(v2, hn::Shuffle2301(v2), flip1);
  v3 = Butterfly(v3, hn::Shuffle2301(v3), flip1);
  if constexpr (kGroup >= 4) {
    const auto flip2 = hn::Load(d, kFlip2);
    v0 = Butterfly(v0, hn::Shuffle1032(v0), flip2);
    v1 = Butterfly(v1, hn::Shuffle1032(v1), flip2);
    v2 = Butterfly(v2, hn::Shuffle1032(v2), flip2);
    v3 = Butterfly(v3, hn::Shuffle1032(v3), flip2);
  }
  if constexpr (kGroup >= 8) {
    pair(v0, v1);
    pair(v2, v3);
  }
  if constexpr (kGroup >= 16) {
    pair(v0, v2);
    pair(v1, v3);
  }
  if constexpr (kScaled) {
    v0 = hn::Mul(v0, hn::LoadU(d, after));
    v1 = hn::Mul(v1, hn::LoadU(d, after + 4));
    v2 = hn::Mul(v2, hn::LoadU(d, after + 8));
    v3 = hn::Mul(v3, hn::LoadU(d, after + 12));
  }
  hn::StoreU(v0, d, y);
  hn::StoreU(v1, d, y + 4);
  hn::StoreU(v2, d, y + 8);
  hn::StoreU(v3, d, y + 12);
}
#endif

/// The level of one stride >= 16 in a group: y[i], y[i + stride].
template <bool kScaled>
HWY_INLINE void OneLevel(float* HWY_RESTRICT y, std::int64_t stride, std::int64_t group,
                         const float* HWY_RESTRICT after) {
  const hn::CappedTag<float, kTile> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t begin = 0; begin < group; begin += 2 * stride) {
    for (std::int64_t i = begin; i < begin + stride; i += lanes) {
      const auto a = hn::LoadU(d, y + i);
      const auto b = hn::LoadU(d, y + i + stride);
      auto sum = hn::Add(a, b);
      auto difference = hn::Sub(a, b);
      if constexpr (kScaled) {
        sum = hn::Mul(sum, hn::LoadU(d, after + i));
        difference = hn::Mul(difference, hn::LoadU(d, after + i + stride));
      }
      hn::StoreU(sum, d, y + i);
      hn::StoreU(difference, d, y + i + stride);
    }
  }
}

/// The levels of `stride` and 2 stride.
template <bool kScaled>
HWY_INLINE void TwoLevels(float* HWY_RESTRICT y, std::int64_t stride, std::int64_t group,
                          const float* HWY_RESTRICT after) {
  const hn::CappedTag<float, kTile> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t begin = 0; begin < group; begin += 4 * stride) {
    for (std::int64_t i = begin; i < begin + stride; i += lanes) {
      const auto v0 = hn::LoadU(d, y + i);
      const auto v1 = hn::LoadU(d, y + i + stride);
      const auto v2 = hn::LoadU(d, y + i + 2 * stride);
      const auto v3 = hn::LoadU(d, y + i + 3 * stride);
      const auto a = hn::Add(v0, v1), b = hn::Sub(v0, v1), c = hn::Add(v2, v3), e = hn::Sub(v2, v3);
      auto w0 = hn::Add(a, c), w1 = hn::Add(b, e), w2 = hn::Sub(a, c), w3 = hn::Sub(b, e);
      if constexpr (kScaled) {
        w0 = hn::Mul(w0, hn::LoadU(d, after + i));
        w1 = hn::Mul(w1, hn::LoadU(d, after + i + stride));
        w2 = hn::Mul(w2, hn::LoadU(d, after + i + 2 * stride));
        w3 = hn::Mul(w3, hn::LoadU(d, after + i + 3 * stride));
      }
      hn::StoreU(w0, d, y + i);
      hn::StoreU(w1, d, y + i + stride);
      hn::StoreU(w2, d, y + i + 2 * stride);
      hn::StoreU(w3, d, y + i + 3 * stride);
    }
  }
}

template <int kGroup>
HWY_INLINE void TransformRow(float* y, std::int64_t n, const float* before, const float* after) {
  std::int64_t begin = 0;
  if constexpr (kGroup <= kTile) {
    for (; begin + kTile <= n; begin += kTile) TransformTile<kGroup, true>(y + begin, before, after);
    TransformShort(y + begin, n - begin, kGroup, before, after);
  } else {
    for (; begin < n; begin += kGroup) {
      float* group = y + begin;
      for (std::int64_t i = 0; i < kGroup; i += kTile) {
        TransformTile<16, false>(group + i, before + i, nullptr);
      }
      if constexpr (kGroup == 32) OneLevel<true>(group, 16, kGroup, after);
      if constexpr (kGroup == 64) TwoLevels<true>(group, 16, kGroup, after);
      if constexpr (kGroup >= 128) TwoLevels<false>(group, 16, kGroup, nullptr);
      if constexpr (kGroup == 128) OneLevel<true>(group, 64, kGroup, after);
      if constexpr (kGroup == 256) TwoLevels<true>(group, 64, kGroup, after);
    }
  }
}

void Transform(float* y, std::int64_t n, std::int64_t group, const float* before, const float* after) {
  switch (group) {
    case 2: return TransformRow<2>(y, n, before, after);
    case 4: return TransformRow<4>(y, n, before, after);
    case 8: return TransformRow<8>(y, n, before, after);
    case 16: return TransformRow<16>(y, n, before, after);
    case 32: return TransformRow<32>(y, n, before, after);
    case 64: return TransformRow<64>(y, n, before, after);
    case 128: return TransformRow<128>(y, n, before, after);
    case 256: return TransformRow<256>(y, n, before, after);
    default: return;
  }
}

#else

void Transform(float* y, std::int64_t n, std::int64_t group, const float* before, const float* after) {
  for (std::int64_t begin = 0; begin < n; begin += group) TransformShort(y + begin, group, group, before, after);
}

#endif

}  // namespace nibble::quant_cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble {

namespace {

/// The constant vector of NVIDIA's NVFP4 recipe, the same for all layers.
constexpr std::array<float, 16> kVector = {1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1};

void check(const Hadamard& transform) {
  const std::int64_t g = transform.group;
  require(g >= 2 && g <= quant_cpu::HadamardRow::kMaxGroup && (g & (g - 1)) == 0,
          "a Hadamard group of {} is no power of two from 2 to 256", g);
  require(transform.signs != Hadamard::Signs::Vector || g == 16, "NVIDIA's sign vector is for groups of 16, not {}", g);
}

/// Calls f(row, n) for every row of x, as floats, and stores what it leaves as out.
template <class F>
void for_rows(const Tensor& x, std::int64_t group, const Tensor& out, F&& f) {
  const std::int64_t cols = x.cols();
  require(out.rows() == x.rows() && out.cols() == cols, "the transform of [{}, {}] is not [{}, {}]", x.rows(), cols,
          out.rows(), out.cols());
  require(cols % group == 0, "{} columns are not divisible by a Hadamard group of {}", cols, group);
  parallel_for(x.rows(), rows_per_chunk(8 * cols), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> buffer(out.dtype() == DType::F32 ? 0 : static_cast<std::size_t>(cols));
    for (std::int64_t r = begin; r < end; ++r) {
      float* y = out.dtype() == DType::F32 ? out.data<float>() + r * cols : buffer.data();
      const Tensor row = Tensor::of(y, {1, cols});
      const Tensor source = x.row_range(r, r + 1);
      if (source.raw() != y) convert(source, row);
      f(y, cols);
      if (out.dtype() != DType::F32) quant_cpu::encode_bf16(y, cols, out.data<bf16>() + r * cols);
    }
  });
}

}  // namespace

void hadamard_signs(const Hadamard& transform, const RandomStream& stream, float* signs) {
  check(transform);
  for (std::int64_t c = 0; c < transform.group; ++c) {
    switch (transform.signs) {
      case Hadamard::Signs::Plus: signs[c] = 1; break;
      case Hadamard::Signs::Vector: signs[c] = kVector[static_cast<std::size_t>(c)]; break;
      case Hadamard::Signs::Step:
      case Hadamard::Signs::Call:
        signs[c] = (stream.word(static_cast<std::uint64_t>(c / 32)) >> (c % 32) & 1u) != 0 ? -1.0f : 1.0f;
        break;
    }
  }
}

void cpu::hadamard_forward(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  const quant_cpu::HadamardRow hadamard(transform, stream);
  for_rows(x, transform.group, out, [&](float* y, std::int64_t n) { hadamard.forward(y, n); });
}

void cpu::hadamard_inverse(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  const quant_cpu::HadamardRow hadamard(transform, stream);
  for_rows(x, transform.group, out, [&](float* y, std::int64_t n) { hadamard.inverse(y, n); });
}

namespace quant_cpu {

HWY_EXPORT(Transform);

HadamardRow::HadamardRow(const Hadamard& transform, const RandomStream& signs)
    : group_(transform.group), signs_last_(transform.signs_last) {
  std::array<float, kMaxGroup> s;
  hadamard_signs(transform, signs, s.data());
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(group_)));
  for (std::size_t i = 0; i < s.size(); ++i) {
    const float sign = s[i % static_cast<std::size_t>(group_)];
    signs_first_.before[i] = sign;
    signs_first_.after[i] = scale;
    mix_first_.before[i] = 1;
    mix_first_.after[i] = sign * scale;
  }
}

void HadamardRow::forward(float* y, std::int64_t n) const {
  const Factors& f = signs_last_ ? mix_first_ : signs_first_;
  HWY_DYNAMIC_DISPATCH(Transform)(y, n, group_, f.before.data(), f.after.data());
}

void HadamardRow::inverse(float* y, std::int64_t n) const {
  const Factors& f = signs_last_ ? signs_first_ : mix_first_;
  HWY_DYNAMIC_DISPATCH(Transform)(y, n, group_, f.before.data(), f.after.data());
}

}  // namespace quant_cpu
}  // namespace nibble
#endif  // HWY_ONCE
