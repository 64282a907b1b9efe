// Sixteen floats in vector registers, and their sum or maximum in an order that every instruction set can follow, so
// that all give the same bits: lane l takes lane l + 8, then l + 4, l + 2, l + 1.
//
// Included once for each instruction set (Highway's foreach_target).
#if defined(NIBBLE_QUANT_CPU_LANE_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NIBBLE_QUANT_CPU_LANE_SUMS_INL_H_
#undef NIBBLE_QUANT_CPU_LANE_SUMS_INL_H_
#else
#define NIBBLE_QUANT_CPU_LANE_SUMS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace nibble::quant_cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int kLanes = 16;
using Floats = hn::CappedTag<float, kLanes>;
using V = hn::Vec<Floats>;
inline constexpr int kVectorLanes = static_cast<int>(hn::MaxLanes(Floats()));
inline constexpr int kVectors = kLanes / kVectorLanes;

/// (No struct: its implicit constructor would not be compiled for the instruction set.)
using Sixteen = V[kVectors];

struct Add {
  template <class T>
  HWY_INLINE T operator()(T a, T b) const {
    return hn::Add(a, b);
  }
};
struct Larger {
  template <class T>
  HWY_INLINE T operator()(T a, T b) const {
    return hn::Max(a, b);
  }
};

struct Folded {
  float a;
  float b;
};

/// Folds a and b, and leaves them overwritten. Two at once, which halves the shuffles: the first puts a into the lower
/// half of a vector and b into the upper.
template <class Op>
HWY_INLINE Folded FoldPair(Op op, Sixteen& a, Sixteen& b) {
  for (int half = kVectors / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      a[i] = op(a[i], a[i + half]);
      b[i] = op(b[i], b[i + half]);
    }
  }
#if HWY_TARGET == HWY_SCALAR
  return {hn::GetLane(a[0]), hn::GetLane(b[0])};
#else
  const Floats d;
  V x = op(hn::ConcatLowerLower(d, b[0], a[0]), hn::ConcatUpperUpper(d, b[0], a[0]));
  if constexpr (kVectorLanes == 16) x = op(x, hn::SwapAdjacentBlocks(x));
  if constexpr (kVectorLanes >= 8) x = op(x, hn::Shuffle1032(x));
  x = op(x, hn::Shuffle2301(x));
  return {hn::GetLane(x), hn::GetLane(hn::UpperHalf(hn::Half<Floats>(), x))};
#endif
}

}  // namespace nibble::quant_cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // NIBBLE_QUANT_CPU_LANE_SUMS_INL_H_
