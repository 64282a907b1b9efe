#include "nibble/quant/cpu/four_bit.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/int4.h"
#include "nibble/quant/cpu/encode.h"
#include "nibble/quant/cpu/stochastic.h"

namespace nibble {
namespace {

using quant_cpu::Multiplier;
using Codes = std::vector<std::uint8_t>;

constexpr Rounding kRoundings[] = {Rounding::NearestEven, Rounding::NearestUp, Rounding::NearestZero,
                                   Rounding::NearestAway};
constexpr std::uint32_t kSeed = 31;

struct Row {
  std::vector<float> y;
  std::vector<float> each;
  std::vector<float> reference;
  std::vector<std::uint32_t> words;
};

/// Values that need rounding, values on grids and midpoints, and everything that is not a plain number.
Row random_row(std::int64_t n, std::mt19937& generator) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const float odd_ones[] = {0.0f, -0.0f, kInf, -kInf, kNaN, -kNaN, 1e-40f, -1e-40f, 3e38f, -3e38f};
  std::normal_distribution<float> normal;
  Row row;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t kind = generator() % 8;
    const bool on_grid = kind >= 1 && kind <= 4;
    row.y.push_back(kind == 0 ? odd_ones[generator() % 10]
                    : on_grid ? static_cast<float>(static_cast<int>(generator() % 257) - 128) / 8
                              : 5 * normal(generator));
    row.each.push_back(on_grid ? 1.0f : std::exp(normal(generator)));
    row.reference.push_back(kind == 5 ? odd_ones[generator() % 10] : row.y.back() + normal(generator));
    row.words.push_back(static_cast<std::uint32_t>(generator()));
  }
  return row;
}

std::uint8_t int4(float z, Rounding rounding) {
  switch (rounding) {
    case Rounding::NearestUp: return int4_encode<Tie::Up>(z);
    case Rounding::NearestZero: return int4_encode<Tie::Zero>(z);
    case Rounding::NearestAway: return int4_encode<Tie::Away>(z);
    default: return int4_encode<Tie::Even>(z);
  }
}
std::uint8_t e3m0(float z, Rounding rounding, int log_steps) {
  switch (rounding) {
    case Rounding::NearestUp: return e3m0_encode<Tie::Up>(z, log_steps);
    case Rounding::NearestZero: return e3m0_encode<Tie::Zero>(z, log_steps);
    case Rounding::NearestAway: return e3m0_encode<Tie::Away>(z, log_steps);
    default: return e3m0_encode<Tie::Even>(z, log_steps);
  }
}

/// Runs `kernel(row, multiplier, codes)` over rows of 0 to 70 columns and long ones, with one multiplier and with one a
/// column, against `scalar(row, i, multiplier of i)`.
template <class Kernel, class Scalar>
void expect_same_codes(Kernel kernel, Scalar scalar) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 generator(kSeed);
  for (std::int64_t n = 0; n <= 72; ++n) {
    const Row row = random_row(n <= 70 ? n : 1000 + n, generator);
    for (const bool by_column : {false, true}) {
      Multiplier multiplier{0.5f + static_cast<float>(generator() % 4) / 2};
      if (by_column) multiplier.each = row.each.data();
      Codes codes(row.y.size() + 1, 0xAA);
      kernel(row, multiplier, codes.data());
      for (std::size_t i = 0; i < row.y.size(); ++i) {
        const float m = by_column ? row.each[i] : multiplier.scalar;
        ASSERT_EQ(codes[i], scalar(row, i, m)) << "column " << i << " of " << n << ": " << row.y[i] << " x " << m;
      }
      ASSERT_EQ(codes.back(), 0xAA) << "wrote beyond the row of " << n;
    }
  }
}

std::int64_t size(const Row& row) { return static_cast<std::int64_t>(row.y.size()); }

TEST(FourBit, Int4RowsHaveTheCodesOfTheScalarDefinition) {
  for (const Rounding rounding : kRoundings) {
    expect_same_codes([&](const Row& row, Multiplier m,
                          std::uint8_t* codes) { quant_cpu::encode_int4(row.y.data(), m, rounding, size(row), codes); },
                      [&](const Row& row, std::size_t i, float m) { return int4(row.y[i] * m, rounding); });
  }
}

TEST(FourBit, E3M0RowsHaveTheCodesOfTheScalarDefinition) {
  for (const Rounding rounding : kRoundings) {
    for (int steps = 1; steps <= 6; ++steps) {
      expect_same_codes(
          [&](const Row& row, Multiplier m, std::uint8_t* codes) {
            quant_cpu::encode_e3m0(row.y.data(), m, rounding, steps, size(row), codes);
          },
          [&](const Row& row, std::size_t i, float m) { return e3m0(row.y[i] * m, rounding, steps); });
    }
  }
}

TEST(FourBit, RowsRoundedTowardAReferenceHaveTheCodesOfTheScalarDefinition) {
  expect_same_codes(
      [](const Row& row, Multiplier m, std::uint8_t* codes) {
        quant_cpu::encode_e2m1_reference(row.y.data(), row.reference.data(), m, size(row), codes);
      },
      [](const Row& row, std::size_t i, float m) { return e2m1_encode_reference(row.y[i] * m, row.reference[i] * m); });
}

TEST(FourBit, StochasticInt4RowsHaveTheCodesOfTheScalarDefinition) {
  expect_same_codes(
      [](const Row& row, Multiplier m, std::uint8_t* codes) {
        quant_cpu::encode_int4_stochastic(row.y.data(), m, row.words.data(), size(row), codes);
      },
      [](const Row& row, std::size_t i, float m) { return int4_encode_stochastic(row.y[i] * m, row.words[i] >> 8); });
}

TEST(FourBit, StochasticE3M0RowsHaveTheCodesOfTheScalarDefinition) {
  for (int steps = 1; steps <= 6; ++steps) {
    expect_same_codes(
        [&](const Row& row, Multiplier m, std::uint8_t* codes) {
          quant_cpu::encode_e3m0_stochastic(row.y.data(), m, steps, row.words.data(), size(row), codes);
        },
        [&](const Row& row, std::size_t i, float m) {
          return e3m0_encode_stochastic(row.y[i] * m, row.words[i] >> 8, steps);
        });
  }
}

TEST(FourBit, PackedCodesDecodeToTheirValues) {
  for (std::int64_t n = 0; n <= 70; ++n) {
    Codes codes;
    for (std::int64_t i = 0; i < n; ++i) codes.push_back(static_cast<std::uint8_t>(i * 7 % 16));
    Codes packed(static_cast<std::size_t>((n + 1) / 2));
    quant_cpu::pack_nibbles(codes.data(), n, packed.data());
    std::vector<float> integers(codes.size());
    std::vector<float> powers(codes.size());
    quant_cpu::decode_int4(packed.data(), n, integers.data());
    quant_cpu::decode_e3m0(packed.data(), n, powers.data());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      ASSERT_EQ(float_bits(integers[i]), float_bits(int4_decode(codes[i]))) << i << " of " << n;
      ASSERT_EQ(float_bits(powers[i]), float_bits(e3m0_decode(codes[i]))) << i << " of " << n;
    }
  }
}

}  // namespace
}  // namespace nibble
