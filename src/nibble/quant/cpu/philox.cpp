#include "nibble/quant/cpu/philox.h"

#include <algorithm>
#include <cstring>

// Registers of unknown length cannot stand in a struct.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nibble/quant/cpu/philox.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

// One group a 64-bit lane: each word of the counter lies in the lower half of its own vector, what is in the upper
// halves is never looked at (MulEven reads lower halves only), so a round is two multiplications and a few bitwise
// operations without any shuffle.
HWY_BEFORE_NAMESPACE();
namespace nibble::quant_cpu::HWY_NAMESPACE {

/// One group after the other.
void PhiloxScalar(const RandomStream& stream, std::uint64_t group, std::int64_t count, std::uint8_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const Philox4 words = stream.words(group + static_cast<std::uint64_t>(i));
    std::memcpy(out + 16 * i, words.v, sizeof(words));
  }
}

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128

namespace hn = hwy::HWY_NAMESPACE;

template <class V>
struct Counter {
  V c0, c1, c2, c3;
};

template <class D, class V = hn::Vec<D>>
HWY_INLINE void Round(D /*d*/, Counter<V>& c, V key0, V key1) {
  const hn::RepartitionToNarrow<D> d32;
  const auto p0 = hn::MulEven(hn::BitCast(d32, c.c0), hn::Set(d32, 0xD2511F53u));
  const auto p1 = hn::MulEven(hn::BitCast(d32, c.c2), hn::Set(d32, 0xCD9E8D57u));
  c.c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c.c1), key0);
  c.c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c.c3), key1);
  c.c1 = p1;
  c.c3 = p0;
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE Counter<V> Start(D d, const RandomStream& stream, V group) {
  return {group, hn::ShiftRight<32>(group), hn::Set(d, stream.step), hn::Set(d, stream.tensor)};
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE void Store(D d, const Counter<V>& c, std::uint64_t* out) {
  const auto low = hn::Set(d, 0xFFFF'FFFFu);
  hn::StoreInterleaved2(hn::Or(hn::And(c.c0, low), hn::ShiftLeft<32>(c.c1)),
                        hn::Or(hn::And(c.c2, low), hn::ShiftLeft<32>(c.c3)), d, out);
}

/// Two vectors at once, to hide the latency of the multiplications.
void PhiloxGroups(const RandomStream& stream, std::uint64_t group, std::int64_t count, std::uint8_t* out) {
  const hn::ScalableTag<std::uint64_t> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto first_lanes = hn::Iota(d, 0);
  const auto next_lanes = hn::Iota(d, static_cast<std::uint64_t>(lanes));
  const auto first_key0 = static_cast<std::uint32_t>(stream.seed);
  const auto first_key1 = static_cast<std::uint32_t>(stream.seed >> 32);
  if (count < 2 * lanes) return PhiloxScalar(stream, group, count, out);
  for (std::int64_t done = 0; done < count; done += 2 * lanes) {
    const std::int64_t i = std::min(done, count - 2 * lanes);  // the last step may repeat some groups
    auto* to = reinterpret_cast<std::uint64_t*>(out + 16 * i);
    const auto g = hn::Set(d, group + static_cast<std::uint64_t>(i));
    auto a = Start(d, stream, hn::Add(g, first_lanes));
    auto b = Start(d, stream, hn::Add(g, next_lanes));
    std::uint32_t key0 = first_key0;
    std::uint32_t key1 = first_key1;
    for (int round = 0; round < 10; ++round) {
      const auto k0 = hn::Set(d, key0);
      const auto k1 = hn::Set(d, key1);
      Round(d, a, k0, k1);
      Round(d, b, k0, k1);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    Store(d, a, to);
    Store(d, b, to + 2 * lanes);
  }
}

#else

void PhiloxGroups(const RandomStream& stream, std::uint64_t group, std::int64_t count, std::uint8_t* out) {
  PhiloxScalar(stream, group, count, out);
}

#endif

}  // namespace nibble::quant_cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble::quant_cpu {

HWY_EXPORT(PhiloxGroups);

void philox_groups(const RandomStream& stream, std::uint64_t group, std::int64_t count, void* out) {
  HWY_DYNAMIC_DISPATCH(PhiloxGroups)(stream, group, count, static_cast<std::uint8_t*>(out));
}

}  // namespace nibble::quant_cpu
#endif  // HWY_ONCE
