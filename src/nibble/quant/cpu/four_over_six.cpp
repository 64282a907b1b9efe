#include "nibble/quant/cpu/four_over_six.h"

#include <algorithm>
#include <cstring>

// Registers of unknown length cannot stand in an array.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nibble/quant/cpu/four_over_six.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "nibble/quant/cpu/lane_sums-inl.h"

#ifndef NIBBLE_FOUR_OVER_SIX_ROW
#define NIBBLE_FOUR_OVER_SIX_ROW
namespace nibble::quant_cpu {
namespace {

struct Candidates {
  const float* multiplier[2];
  const float* decode[2];
  float* err[2];
};

}  // namespace
}  // namespace nibble::quant_cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace nibble::quant_cpu::HWY_NAMESPACE {
namespace {

/// The E2M1 magnitude nearest to |z|, saturating.
template <Tie tie>
HWY_INLINE V Nearest(V z) {
  const Floats d;
  const hn::RebindToUnsigned<Floats> du;
  // With 2^e the power of two below a, not less than 1, a + 2^(e + 22) has the grid step as its last place: the FPU
  // rounds, ties to even codes.
  const V a = hn::Min(hn::Abs(z), hn::Set(d, kE2M1Max));
  const auto bits = hn::BitCast(du, hn::Max(a, hn::Set(d, 1.0f)));
  const V power = hn::BitCast(d, hn::And(bits, hn::Set(du, 0x7F80'0000u)));
  const V magic = hn::Mul(power, hn::Set(d, 0x1p22f));
  const V even = hn::Sub(hn::Add(a, magic), magic);
  if constexpr (tie == Tie::Even) return even;
  const V half = hn::Mul(power, hn::Set(d, 0.25f));
  const V rest = hn::Sub(a, even);  // exact; +-half on a tie
  const V up = hn::IfThenElse(hn::Eq(rest, half), hn::Add(even, hn::Add(half, half)), even);
  const V down = hn::IfThenElse(hn::Eq(rest, hn::Neg(half)), hn::Sub(even, hn::Add(half, half)), even);
  if constexpr (tie == Tie::Up) return hn::IfThenElse(hn::Lt(z, hn::Zero(d)), down, up);
  return tie == Tie::Away ? up : down;
}

template <Tie tie, Selection selection>
HWY_INLINE void AddErrors(const float* HWY_RESTRICT y, float multiplier, float decode, Sixteen& sums) {
  const Floats d;
  for (int i = 0; i < kVectors; ++i) {
    const V x = hn::LoadU(d, y + i * kVectorLanes);
    const V value = hn::Mul(Nearest<tie>(hn::Mul(x, hn::Set(d, multiplier))), hn::Set(d, decode));
    const V e = hn::Sub(hn::Abs(x), value);
    if constexpr (selection == Selection::Mse) sums[i] = hn::Add(sums[i], hn::Mul(e, e));
    if constexpr (selection == Selection::Mae) sums[i] = hn::Add(sums[i], hn::Abs(e));
    if constexpr (selection == Selection::MaxAbs) sums[i] = hn::Max(sums[i], hn::Abs(e));
  }
}

template <Tie tie, Selection selection>
HWY_INLINE void Errors(const float* HWY_RESTRICT y, std::int64_t n, std::int64_t block, const Candidates& c) {
  using Op = std::conditional_t<selection == Selection::MaxAbs, Larger, Add>;
  std::int64_t j = 0;
  for (std::int64_t begin = 0; begin < n; begin += block, ++j) {
    const std::int64_t end = std::min(n, begin + block);
    Sixteen sums[2];
    for (Sixteen& s : sums) {
      for (V& v : s) v = hn::Zero(Floats());
    }
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int k = 0; k < 2; ++k) AddErrors<tie, selection>(y + i, c.multiplier[k][j], c.decode[k][j], sums[k]);
    }
    if (i < end) {
      float rest[kLanes] = {};  // zeros have no error
      std::memcpy(rest, y + i, static_cast<std::size_t>(end - i) * sizeof(float));
      for (int k = 0; k < 2; ++k) AddErrors<tie, selection>(rest, c.multiplier[k][j], c.decode[k][j], sums[k]);
    }
    const Folded errors = FoldPair(Op(), sums[0], sums[1]);
    if constexpr (selection == Selection::MaxAbs) {
      c.err[0][j] = std::max(c.err[0][j], errors.a);
      c.err[1][j] = std::max(c.err[1][j], errors.b);
    } else {
      c.err[0][j] += errors.a;
      c.err[1][j] += errors.b;
    }
  }
}

template <Tie tie>
void ErrorsBySelection(const float* y, std::int64_t n, std::int64_t block, Selection selection, const Candidates& c) {
  switch (selection) {
    case Selection::None:
    case Selection::Mse: return Errors<tie, Selection::Mse>(y, n, block, c);
    case Selection::Mae: return Errors<tie, Selection::Mae>(y, n, block, c);
    case Selection::MaxAbs: return Errors<tie, Selection::MaxAbs>(y, n, block, c);
  }
}

void RowErrors(const float* y, std::int64_t n, std::int64_t block, Rounding rounding, Selection selection,
               const Candidates& c) {
  switch (rounding) {
    case Rounding::NearestUp: return ErrorsBySelection<Tie::Up>(y, n, block, selection, c);
    case Rounding::NearestZero: return ErrorsBySelection<Tie::Zero>(y, n, block, selection, c);
    case Rounding::NearestAway: return ErrorsBySelection<Tie::Away>(y, n, block, selection, c);
    default: return ErrorsBySelection<Tie::Even>(y, n, block, selection, c);
  }
}

}  // namespace
}  // namespace nibble::quant_cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble::quant_cpu {

HWY_EXPORT(RowErrors);

void four_over_six_errors(const float* y, std::int64_t n, std::int64_t block, Rounding rounding, Selection selection,
                          const float* multiplier6, const float* decode6, const float* multiplier4,
                          const float* decode4, float* err6, float* err4) {
  const Candidates candidates = {{multiplier6, multiplier4}, {decode6, decode4}, {err6, err4}};
  HWY_DYNAMIC_DISPATCH(RowErrors)(y, n, block, rounding, selection, candidates);
}

}  // namespace nibble::quant_cpu
#endif  // HWY_ONCE
