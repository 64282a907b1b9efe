#include "nibble/quant/cpu/eden.h"

#include <algorithm>
#include <cstring>

// Registers of unknown length cannot stand in an array.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nibble/quant/cpu/eden.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/decode.h"
#include "nibble/quant/cpu/lane_sums-inl.h"
#include "nibble/tensor/simd.h"

HWY_BEFORE_NAMESPACE();
namespace nibble::quant_cpu::HWY_NAMESPACE {
namespace {

/// The value of E2M1 codes.
HWY_INLINE V Decode(hn::Vec<hn::Rebind<std::uint8_t, Floats>> codes) {
  const Floats d;
  const hn::RebindToSigned<Floats> di;
  const auto code = hn::PromoteTo(di, codes);
  const auto m = hn::And(code, hn::Set(di, 7));
  const V small = hn::Mul(hn::ConvertTo(d, m), hn::Set(d, 0.5f));
  // One mantissa bit under the exponent, whose bias of 1 becomes 127.
  const V normal = hn::BitCast(d, hn::ShiftLeft<22>(hn::Add(m, hn::Set(di, 2 * 126))));
  const V magnitude = hn::IfThenElse(hn::RebindMask(d, hn::Lt(m, hn::Set(di, 2))), small, normal);
  return hn::Or(magnitude, hn::BitCast(d, hn::ShiftLeft<31>(hn::ShiftRight<3>(code))));
}

HWY_INLINE void AddBlock(const float* HWY_RESTRICT y, float multiplier, const std::uint8_t* HWY_RESTRICT codes,
                         Sixteen& square, Sixteen& product) {
  const Floats d;
  const hn::Rebind<std::uint8_t, Floats> d8;
  for (int i = 0; i < kVectors; ++i) {
    const V z = hn::Mul(hn::LoadU(d, y + i * kVectorLanes), hn::Set(d, multiplier));
    const V q = Decode(hn::LoadU(d8, codes + i * kVectorLanes));
    square[i] = hn::Add(square[i], hn::Mul(z, z));
    product[i] = hn::Add(product[i], hn::Mul(z, q));
  }
}

/// corrections[g] = S of group g; not finite where there is none.
void Corrections(const float* HWY_RESTRICT y, const float* HWY_RESTRICT multiplier,
                 const std::uint8_t* HWY_RESTRICT codes, std::int64_t n, std::int64_t group,
                 float* HWY_RESTRICT corrections) {
  for (std::int64_t begin = 0; begin < n; begin += group) {
    const std::int64_t end = std::min(n, begin + group);
    Sixteen square;
    Sixteen product;
    for (V& v : square) v = hn::Zero(Floats());
    for (V& v : product) v = hn::Zero(Floats());
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) AddBlock(y + i, multiplier[i / kLanes], codes + i, square, product);
    if (i < end) {
      float rest[kLanes] = {};
      std::uint8_t rest_codes[kLanes] = {};
      std::memcpy(rest, y + i, static_cast<std::size_t>(end - i) * sizeof(float));
      std::memcpy(rest_codes, codes + i, static_cast<std::size_t>(end - i));
      AddBlock(rest, multiplier[i / kLanes], rest_codes, square, product);
    }
    const Folded sum = FoldPair(Add(), square, product);
    *corrections++ = sum.a / sum.b;
  }
}

}  // namespace
}  // namespace nibble::quant_cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble::quant_cpu {

HWY_EXPORT(Corrections);

namespace {

constexpr std::int64_t kBlock = 16;
constexpr std::int64_t kHeld = 256;  ///< blocks worked on at a time, so that the corrections stay in the L1 cache

NIBBLE_SIMD void round_scales(const float* __restrict scales, const float* __restrict correction,
                              const std::uint32_t* __restrict words, std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t j = 0; j < n; ++j) {
    const float s = correction[j];
    codes[j] = e4m3_encode_stochastic(scales[j] * (float_is_finite(s) ? s : 1.0f), words[j] >> 8);
  }
}

}  // namespace

void eden_scales(const float* y, const float* multiplier, const std::uint8_t* codes, std::int64_t n, std::int64_t group,
                 const std::uint8_t* scale_in, const std::uint32_t* words, std::uint8_t* scale_out) {
  float of_group[kHeld];
  float of_block[kHeld];
  float scales[kHeld];
  const std::int64_t blocks_in_group = group / kBlock;
  const std::int64_t groups = std::max<std::int64_t>(1, kHeld / blocks_in_group);
  for (std::int64_t begin = 0; begin < n; begin += groups * group) {
    const std::int64_t part = std::min(n - begin, groups * group);
    const std::int64_t first = begin / kBlock;
    HWY_DYNAMIC_DISPATCH(Corrections)(y + begin, multiplier + first, codes + begin, part, group, of_group);
    const std::int64_t blocks = (part + kBlock - 1) / kBlock;
    for (std::int64_t done = 0; done < blocks; done += kHeld) {
      const std::int64_t count = std::min(kHeld, blocks - done);
      for (std::int64_t j = 0; j < count; ++j) of_block[j] = of_group[(done + j) / blocks_in_group];
      const std::int64_t at = first + done;
      decode_e4m3(scale_in + at, count, scales);
      round_scales(scales, of_block, words + at, count, scale_out + at);
    }
  }
}

}  // namespace nibble::quant_cpu
#endif  // HWY_ONCE
