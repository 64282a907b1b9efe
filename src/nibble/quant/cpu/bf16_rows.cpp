#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nibble/quant/cpu/bf16_rows.cpp"
#include "nibble/quant/cpu/bf16_rows.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "nibble/numerics/bf16.h"
#include "nibble/quant/cpu/clamp.h"
#include "nibble/tensor/simd.h"

HWY_BEFORE_NAMESPACE();
namespace nibble::quant_cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Code of one element; the tail of a row.
std::uint8_t code_of(std::uint16_t x, const Bf16Limits& limits) {
  const auto key = static_cast<std::uint16_t>((x << 1 | x >> 15) ^ 1);
  int m = 0;
  for (const std::uint16_t limit : limits.limit) m += key >= limit ? 1 : 0;
  const bool negative = x >= 0x8000u && x <= 0xFF80u && !(limits.drop_sign_of_zero && m == 0);
  return static_cast<std::uint8_t>(m | (negative ? 8 : 0));
}

void EncodePacked(const std::uint16_t* HWY_RESTRICT x, const Bf16Limits& limits, std::int64_t n,
                  std::uint8_t* HWY_RESTRICT packed) {
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<std::uint16_t> du;
  const hn::RebindToSigned<decltype(du)> di;
  const hn::RepartitionToWide<decltype(du)> dw;
  const hn::Rebind<std::uint8_t, decltype(dw)> db;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(du));
  // Signed "greater" is the comparison that every target has: keys and limits are shifted by 2^15, and a limit is
  // held as the number before it (no limit is 0, for zero has code 0).
  const auto flip = hn::Set(di, static_cast<std::int16_t>(0x8001));
  const auto limit = [&](std::size_t i) {
    return hn::Set(di, static_cast<std::int16_t>((limits.limit[i] - 1u) ^ 0x8000u));
  };
  const auto t0 = limit(0), t1 = limit(1), t2 = limit(2), t3 = limit(3), t4 = limit(4), t5 = limit(5), t6 = limit(6);
  const auto one = hn::Set(di, 1), two = hn::Set(di, 2), four = hn::Set(di, 4), eight = hn::Set(di, 8);
  const auto after_infinity = hn::Set(di, -127);  // -NaN is [-127, -1], negative numbers are below
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(du, x + i);
    const auto key = hn::Xor(hn::BitCast(di, hn::Or(hn::ShiftLeft<1>(v), hn::ShiftRight<15>(v))), flip);
    // The code's bits from the top, each by one comparison with the middle of what is left.
    const auto b2 = hn::Gt(key, t3);
    const auto b1 = hn::Gt(key, hn::IfThenElse(b2, t5, t1));
    const auto b0 = hn::Gt(key, hn::IfThenElse(b1, hn::IfThenElse(b2, t6, t2), hn::IfThenElse(b2, t4, t0)));
    auto code = hn::Or(hn::IfThenElseZero(b2, four), hn::IfThenElseZero(b1, two));
    code = hn::Or(code, hn::IfThenElseZero(b0, one));
    auto sign = hn::IfThenElseZero(hn::Lt(hn::BitCast(di, v), after_infinity), eight);
    if (limits.drop_sign_of_zero) sign = hn::IfThenElseZero(hn::Gt(key, t0), sign);
    const auto pair = hn::BitCast(dw, hn::Or(code, sign));
    const auto byte = hn::And(hn::Or(pair, hn::ShiftRight<12>(pair)), hn::Set(dw, 0xFFu));
    hn::StoreU(hn::TruncateTo(db, byte), db, packed + i / 2);
  }
#endif
  for (; i + 1 < n; i += 2) {
    packed[i / 2] = static_cast<std::uint8_t>(code_of(x[i], limits) | code_of(x[i + 1], limits) << 4);
  }
  if (i < n) packed[i / 2] = code_of(x[i], limits);
}

void ClampKeys(const std::int16_t* HWY_RESTRICT keys, std::int16_t low, std::int16_t high, std::int64_t n,
               std::uint16_t* HWY_RESTRICT out, std::uint64_t* HWY_RESTRICT outside) {
  auto* bits = reinterpret_cast<std::uint8_t*>(outside);  // little-endian: bit i of the words is bit i of the bytes
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<std::int16_t> di;
  const hn::RebindToUnsigned<decltype(di)> du;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(di));
  const auto lowest = hn::Set(di, low), highest = hn::Set(di, high), magnitude = hn::Set(di, 0x7FFF);
  for (; i + lanes <= n; i += lanes) {  // eight lanes or more: whole bytes of bits
    const auto key = hn::LoadU(di, keys + i);
    const auto bounded = hn::Min(hn::Max(key, lowest), highest);
    const auto value = hn::Xor(bounded, hn::And(hn::ShiftRight<15>(bounded), magnitude));
    hn::StoreU(hn::BitCast(du, value), du, out + i);
    hn::StoreMaskBits(di, hn::Ne(key, bounded), bits + i / 8);
  }
#endif
  for (std::int64_t byte = i / 8; byte < (n + 63) / 64 * 8; ++byte) bits[byte] = 0;
  for (; i < n; ++i) {
    const std::int16_t bounded = std::min(std::max(keys[i], low), high);
    out[i] = static_cast<std::uint16_t>(ordered_key(bounded));
    if (keys[i] != bounded) outside[i / 64] |= std::uint64_t{1} << (i % 64);
  }
}

}  // namespace nibble::quant_cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble::quant_cpu {

HWY_EXPORT(EncodePacked);
HWY_EXPORT(ClampKeys);

namespace {

constexpr int kLimits = 8;  // seven, and one to fill a vector
constexpr float kMidpoints[kLimits] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 5.0f};

/// magnitude[i]: the least BF16 magnitude x with RN(x * multiplier) >= midpoint i; hit[i]: 1 where it is equal.
NIBBLE_SIMD void find_limits(float multiplier, std::int32_t* __restrict magnitude, std::int32_t* __restrict hit) {
  for (int i = 0; i < kLimits; ++i) {
    const float middle = kMidpoints[i];
    // The quotient, rounded down to BF16, is at most one value off on either side.
    std::int32_t near = static_cast<std::int32_t>(float_bits(middle / multiplier) >> 16);
    near = near < 1 ? 1 : near;
    std::int32_t least = near - 1;
    for (int step = -1; step <= 1; ++step) {
      const float product = bits_float(static_cast<std::uint32_t>(near + step) << 16) * multiplier;
      least += product < middle ? 1 : 0;
    }
    magnitude[i] = least;
    hit[i] = bits_float(static_cast<std::uint32_t>(least) << 16) * multiplier == middle ? 1 : 0;
  }
}

}  // namespace

Bf16Limits bf16_limits(float multiplier, Rounding rounding) {
  Bf16Limits limits;
  limits.drop_sign_of_zero = rounding == Rounding::NearestUp;
  if (multiplier == 0) {
    limits.limit.fill(0xFFFF);
    return limits;
  }
  std::int32_t magnitude[kLimits];
  std::int32_t hit[kLimits];
  find_limits(multiplier, magnitude, hit);
  for (std::size_t i = 0; i < limits.limit.size(); ++i) {
    // Interleaved units that a value exactly on the midpoint is held back by: two keep both signs down, one keeps
    // the negative value (which goes up in value, down in magnitude), none lets both go up in magnitude.
    int held_back = 0;
    if (rounding == Rounding::NearestZero || (rounding == Rounding::NearestEven && i % 2 == 0)) held_back = 2;
    if (rounding == Rounding::NearestUp) held_back = 1;
    limits.limit[i] = static_cast<std::uint16_t>(2 * magnitude[i] + held_back * hit[i]);
  }
  return limits;
}

void encode_e2m1_packed(const std::uint16_t* x, const Bf16Limits& limits, std::int64_t n, std::uint8_t* packed) {
  HWY_DYNAMIC_DISPATCH(EncodePacked)(x, limits, n, packed);
}

void clamp_bf16_keys(const std::int16_t* keys, std::int16_t low, std::int16_t high, std::int64_t n, std::uint16_t* out,
                     std::uint64_t* outside) {
  HWY_DYNAMIC_DISPATCH(ClampKeys)(keys, low, high, n, out, outside);
}

}  // namespace nibble::quant_cpu
#endif  // HWY_ONCE
