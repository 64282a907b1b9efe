// Native FP4 products: which operands qualify, the form that they take, and both kernels played on the CPU from the
// bytes and the layouts that the GPU's read.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "nibble/ops/code_transpose.h"
#include "nibble/ops/cuda/native_mma_layout.h"
#include "nibble/ops/native_check.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/ops/self_test.h"
#include "nibble/tensor/device.h"
#include "tests/ops/operands.h"

namespace nibble {
namespace {

using testing::make_operand;
using testing::Operand;
using testing::OperandSpec;

constexpr NativeFormat kFormats[] = {NativeFormat::Nvfp4, NativeFormat::Mxfp4};

OperandSpec blocks(ScaleFormat scales, Granularity granularity) {
  OperandSpec spec;
  spec.scale_format = scales;
  spec.granularity = granularity;
  return spec;
}

// --- Who qualifies. ---

TEST(NativeFormatOf, BlocksAlongTheContractionStoredEitherWayRound) {
  const auto of = [](ScaleFormat scales, Granularity g, bool transposed) {
    const Operand x = make_operand(blocks(scales, g), 64, 96, 1);
    return native_format(GemmOperand{x.q, transposed});
  };
  EXPECT_EQ(of(ScaleFormat::UE4M3, Granularity::block(1, 16), false), NativeFormat::Nvfp4);
  EXPECT_EQ(of(ScaleFormat::UE4M3, Granularity::block(16, 16), false), NativeFormat::Nvfp4);
  EXPECT_EQ(of(ScaleFormat::UE4M3, Granularity::block(16, 16), true), NativeFormat::Nvfp4);
  EXPECT_EQ(of(ScaleFormat::UE4M3, Granularity::block(16, 1), true), NativeFormat::Nvfp4);
  EXPECT_EQ(of(ScaleFormat::E8M0, Granularity::block(1, 32), false), NativeFormat::Mxfp4);
  EXPECT_EQ(of(ScaleFormat::E8M0, Granularity::block(32, 32), true), NativeFormat::Mxfp4);
  // Blocks of the wrong direction or length, and scales that no tensor core reads.
  EXPECT_EQ(of(ScaleFormat::UE4M3, Granularity::block(1, 16), true), NativeFormat::None);
  EXPECT_EQ(of(ScaleFormat::UE4M3, Granularity::block(1, 8), false), NativeFormat::None);
  EXPECT_EQ(of(ScaleFormat::E8M0, Granularity::block(1, 16), false), NativeFormat::None);
  EXPECT_EQ(of(ScaleFormat::F32, Granularity::block(1, 16), false), NativeFormat::None);
  EXPECT_EQ(of(ScaleFormat::UE4M3, Granularity::per_row(), false), NativeFormat::None);
}

TEST(NativeFormatOf, ElementsFoldsAndSecondLevels) {
  const OperandSpec nvfp4 = blocks(ScaleFormat::UE4M3, Granularity::block(1, 16));
  const Operand x = make_operand(nvfp4, 64, 96, 1);
  EXPECT_EQ(native_format(GemmOperand{x.q, false, true}), NativeFormat::None);
  OperandSpec other = nvfp4;
  other.outer = 32;
  EXPECT_EQ(native_format(GemmOperand{make_operand(other, 64, 96, 1).q}), NativeFormat::None);
  other = nvfp4;
  other.element = ElementFormat::Int4;
  EXPECT_EQ(native_format(GemmOperand{make_operand(other, 64, 96, 1).q}), NativeFormat::None);
  other.element = ElementFormat::E4M3;
  EXPECT_EQ(native_format(GemmOperand{make_operand(other, 64, 96, 1).q}), NativeFormat::None);
}

TEST(NativeFormatOf, ProductsOfOneFormatWithWholeBytesEverywhere) {
  const OperandSpec nvfp4 = blocks(ScaleFormat::UE4M3, Granularity::block(1, 16));
  const auto of = [&](std::int64_t m, std::int64_t n, std::int64_t k) {
    const Operand a = make_operand(nvfp4, m, k, 1);
    const Operand b = make_operand(nvfp4, n, k, 2);
    return native_format({a.q}, {b.q});
  };
  EXPECT_EQ(of(5, 16, 64), NativeFormat::Nvfp4);
  EXPECT_EQ(of(5, 16, 32), NativeFormat::Nvfp4);
  EXPECT_EQ(of(5, 16, 48), NativeFormat::None);
  EXPECT_EQ(of(5, 16, 70), NativeFormat::None);
  EXPECT_EQ(of(5, 24, 64), NativeFormat::None);
  EXPECT_EQ(of(0, 16, 64), NativeFormat::None);
  const Operand a = make_operand(nvfp4, 16, 64, 1);
  const Operand b = make_operand(blocks(ScaleFormat::E8M0, Granularity::block(1, 32)), 16, 64, 1);
  EXPECT_EQ(native_format({a.q}, {b.q}), NativeFormat::None);
  EXPECT_EQ(native_format({b.q}, {b.q}), NativeFormat::Mxfp4);
  // Stored transposed, rows are whole words.
  const OperandSpec down = blocks(ScaleFormat::UE4M3, Granularity::block(16, 1));
  EXPECT_EQ(native_format(GemmOperand{make_operand(down, 64, 24, 1).q, true}), NativeFormat::Nvfp4);
  EXPECT_EQ(native_format(GemmOperand{make_operand(down, 64, 20, 1).q, true}), NativeFormat::None);
}

TEST(NativeFormatOf, CodesAtAnOddAddress) {
  const Operand x = make_operand(blocks(ScaleFormat::UE4M3, Granularity::block(1, 16)), 65, 64, 1);
  QTensor q = x.q;
  q.rows = 64;
  q.codes = Tensor(x.q.codes.data<std::uint8_t>() + 8, DType::U8, {64, 32});
  EXPECT_EQ(native_format(GemmOperand{q}), NativeFormat::None);
}

// --- The form of the operands. ---

TEST(NativeCodes, EightWordsTransposedHoldEveryCodeInItsNewPlace) {
  std::mt19937 random(1);
  std::uint32_t words[8];
  for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random());
  std::uint32_t turned[8];
  std::copy_n(words, 8, turned);
  transpose_codes(turned);
  for (int r = 0; r < 8; ++r) {
    for (int c = 0; c < 8; ++c) EXPECT_EQ(turned[c] >> 4 * r & 15u, words[r] >> 4 * c & 15u) << r << ", " << c;
  }
  transpose_codes(turned);
  EXPECT_TRUE(std::equal(words, words + 8, turned));
}

std::uint8_t code_at(const std::uint8_t* codes, std::int64_t row_bytes, std::int64_t r, std::int64_t c) {
  return codes[r * row_bytes + c / 2] >> (c % 2 == 0 ? 0 : 4) & 15;
}

TEST(NativeCodes, ATransposedMatrixHasTheCodesOfTheStoredOne) {
  const Operand x = make_operand(blocks(ScaleFormat::UE4M3, Granularity::block(16, 16)), 160, 72, 3);
  std::vector<std::uint8_t> out(160 * 72 / 2);
  transpose_packed_codes(x.q, out.data());
  for (std::int64_t r = 0; r < 160; ++r) {
    for (std::int64_t c = 0; c < 72; ++c) {
      ASSERT_EQ(code_at(out.data(), 80, c, r), code_at(x.q.codes.data<std::uint8_t>(), 36, r, c)) << r << ", " << c;
    }
  }
}

/// An operand as the kernels read it.
struct Packed {
  std::int64_t outer = 0;
  std::int64_t k = 0;
  std::int64_t across = 0;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;

  Packed(const GemmOperand& x, NativeFormat format) : outer(outer_extent(x)), k(inner_extent(x)) {
    const StoredScales stored = native_scales(x, format);
    across = scale_tiles_across(stored.cols);
    scales.resize(static_cast<std::size_t>(scale_layout_bytes(stored.rows, stored.cols)));
    tile_scales(stored, scales.data());
    codes.resize(static_cast<std::size_t>(outer * k / 2));
    if (x.transposed) {
      transpose_packed_codes(x.matrix, codes.data());
    } else {
      std::copy_n(x.matrix.codes.data<std::uint8_t>(), codes.size(), codes.data());
    }
  }
};

float scale_value(NativeFormat format, std::uint8_t code) {
  return format == NativeFormat::Nvfp4 ? e4m3_decode(code) : e8m0_decode(code);
}

void store(const std::vector<float>& sums, float alpha, const Tensor& addend, const Tensor& c) {
  OwnedTensor out(DType::F32, {c.numel()});
  if (addend.defined()) convert(addend, out);
  for (std::int64_t i = 0; i < c.numel(); ++i) {
    float& x = out.view().data<float>()[i];
    x = alpha * sums[static_cast<std::size_t>(i)] + (addend.defined() ? x : 0.0f);
  }
  convert(out, c);
}

// --- The product from packed codes and tiles of scales, block by block: what cuBLASLt is documented to do. ---

/// What a kernel could get wrong.
enum class Fault {
  None,
  HighNibbleFirst,  ///< in A; in both it would change no product
  RowMajorScales,
  TilesDownFirst,
  ScalesOfTheNextRow,
  WrongBlockLength,
  NoTail,
  NoTensorScale,
  NoAddend,
  FourteenBits,
};

NativeTrial by_blocks(NativeFormat format, Fault fault) {
  return [=](const GemmOperand& a, const GemmOperand& b, const Tensor& addend, const Tensor& c, bool) {
    const Packed x(a, format);
    const Packed y(b, format);
    const std::int64_t block = native_block(format) * (fault == Fault::WrongBlockLength ? 2 : 1);
    const auto decoded = [&](const Packed& p, bool swapped) {
      std::vector<float> values(static_cast<std::size_t>(p.outer * p.k));
      for (std::int64_t r = 0; r < p.outer; ++r) {
        for (std::int64_t i = 0; i < p.k; ++i) {
          const std::int64_t at = swapped ? i ^ 1 : i;
          values[static_cast<std::size_t>(r * p.k + i)] = e2m1_decode(code_at(p.codes.data(), p.k / 2, r, at));
        }
      }
      return values;
    };
    const auto scale = [&](const Packed& p, std::int64_t r, std::int64_t i) {
      const std::int64_t col = i / block;
      std::int64_t at = scale_offset(r, col, p.across);
      if (fault == Fault::RowMajorScales) at = r * 4 * p.across + col;
      if (fault == Fault::TilesDownFirst) {
        at = (col / 4 * scale_tiles_down(p.outer) + r / 128) * 512 + scale_offset(r % 128, col % 4, 1);
      }
      if (fault == Fault::ScalesOfTheNextRow) at = scale_offset(r ^ 1, col, p.across);
      return scale_value(format, p.scales[static_cast<std::size_t>(at)]);
    };
    const std::vector<float> u = decoded(x, fault == Fault::HighNibbleFirst);
    const std::vector<float> v = decoded(y, false);
    std::vector<float> sums(static_cast<std::size_t>(x.outer * y.outer));
    const std::int64_t k = fault == Fault::NoTail ? x.k / 64 * 64 : x.k;
    for (std::int64_t m = 0; m < x.outer; ++m) {
      for (std::int64_t n = 0; n < y.outer; ++n) {
        float sum = 0;
        for (std::int64_t i = 0; i < k; i += 16) {
          float part = 0;
          for (std::int64_t j = i; j < i + 16; ++j) {
            part += u[static_cast<std::size_t>(m * x.k + j)] * v[static_cast<std::size_t>(n * x.k + j)];
          }
          sum += part * scale(x, m, i) * scale(y, n, i);
          if (fault == Fault::FourteenBits) sum = bits_float(float_bits(sum) & 0xFFFF'FC00u);
        }
        sums[static_cast<std::size_t>(m * y.outer + n)] = sum;
      }
    }
    const float alpha = fault == Fault::NoTensorScale ? 1.0f : a.matrix.tensor_scale * b.matrix.tensor_scale;
    store(sums, alpha, fault == Fault::NoAddend ? Tensor() : addend, c);
  };
}

TEST(NativeProduct, FromPackedCodesAndTilesOfScalesItIsTheCpus) {
  for (const NativeFormat format : kFormats) EXPECT_EQ(native_disagreement(format, by_blocks(format, Fault::None)), "");
}

TEST(NativeProduct, TheSelfTestFindsEveryFault) {
  for (const NativeFormat format : kFormats) {
    for (const Fault fault :
         {Fault::HighNibbleFirst, Fault::RowMajorScales, Fault::TilesDownFirst, Fault::ScalesOfTheNextRow,
          Fault::WrongBlockLength, Fault::NoTail, Fault::NoTensorScale, Fault::NoAddend}) {
      EXPECT_NE(native_disagreement(format, by_blocks(format, fault)), "")
          << native_format_name(format) << ", fault " << static_cast<int>(fault);
    }
    // Sums that keep 14 bits, as Hopper's accumulators, are right in every layout: only the long sum finds them.
    const NativeTrial short_sums = by_blocks(format, Fault::FourteenBits);
    EXPECT_NE(native_disagreement(format, short_sums).find("long sum"), std::string::npos);
  }
}

// --- The kernel for mma.sync, lane by lane, from the layout that it shares with this test. ---

using namespace native_mma;

/// Four matrices of 8 x 16 bytes from the rows that the lanes name: `ldmatrix.x4`.
template <class Address>
void load_matrices(const std::vector<std::uint8_t>& shared, const Address& address, std::uint32_t (&out)[32][4]) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      const int row = address(8 * matrix + lane / 4);
      std::memcpy(&out[lane][matrix], shared.data() + row + lane % 4 * 4, 4);
    }
  }
}

/// An operand's part of a stage as the kernel copies it: 128 rows of 64 bytes, zeros beyond the matrix.
std::vector<std::uint8_t> staged(const Packed& x, std::int64_t first_row, std::int64_t stage) {
  std::vector<std::uint8_t> shared(kOperandBytes);
  for (int row = 0; row < kTile; ++row) {
    for (int piece = 0; piece < kPieces; ++piece) {
      const std::int64_t at = stage * kRowBytes + piece * 16;
      if (first_row + row >= x.outer || at >= x.k / 2) continue;
      std::copy_n(x.codes.data() + (first_row + row) * (x.k / 2) + at, 16, shared.data() + piece_place(row, piece));
    }
  }
  return shared;
}

std::vector<std::uint8_t> staged_scales(const Packed& x, NativeFormat format, std::int64_t first_row,
                                        std::int64_t stage) {
  const std::int64_t tiles = format == NativeFormat::Nvfp4 ? 2 : 1;
  std::vector<std::uint8_t> shared(static_cast<std::size_t>(tiles * 512));
  for (std::int64_t t = 0; t < tiles && stage * tiles + t < x.across; ++t) {
    const std::int64_t tile = first_row / 128 * x.across + stage * tiles + t;
    std::copy_n(x.scales.data() + tile * 512, 512, shared.data() + t * 512);
  }
  return shared;
}

/// The four words of 16 bytes of a tile of scales, for each lane.
template <class Row>
void load_scales(const std::vector<std::uint8_t>& shared, int tile, const Row& row, std::uint32_t (&out)[32][4]) {
  for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane], shared.data() + tile * 512 + row(lane) * 16, 16);
}

/// D += A B^T with scales, of 16 x 8 x 64: the fragments and the scales' lanes as the PTX manual describes them,
/// independent of native_mma_layout.h.
void multiply_accumulate(NativeFormat format, int byte_id, const std::uint32_t (&a)[32][4],
                         const std::uint32_t (&b)[32][2], const std::uint32_t (&scale_a)[32],
                         const std::uint32_t (&scale_b)[32], float (&d)[32][4]) {
  float rows[16][64];
  float cols[8][64];
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 32; ++i) {  // a_i of the manual
      const int row = i < 8 || (i >= 16 && i < 24) ? lane / 4 : lane / 4 + 8;
      const int k = lane % 4 * 8 + i % 8 + (i < 16 ? 0 : 32);
      rows[row][k] = e2m1_decode(a[lane][i / 8] >> 4 * (i % 8) & 15u);
    }
    for (int i = 0; i < 16; ++i) {
      const int k = lane % 4 * 8 + i % 8 + (i < 8 ? 0 : 32);
      cols[lane / 4][k] = e2m1_decode(b[lane][i / 8] >> 4 * (i % 8) & 15u);
    }
  }
  const int block = static_cast<int>(native_block(format));
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane / 4 : lane / 4 + 8;
      const int col = lane % 4 * 2 + i % 2;
      for (int s = 0; s < 64 / block; ++s) {
        float part = 0;
        for (int k = s * block; k < (s + 1) * block; ++k) part += rows[row][k] * cols[col][k];
        const auto byte = [&](std::uint32_t word) { return static_cast<std::uint8_t>(word >> 8 * (byte_id + s)); };
        const float of_a = scale_value(format, byte(scale_a[4 * (row % 8) + row / 8]));
        const float of_b = scale_value(format, byte(scale_b[4 * col]));
        d[lane][i] += part * of_a * of_b;
      }
    }
  }
}

NativeTrial by_mma(NativeFormat format) {
  return [=](const GemmOperand& a, const GemmOperand& b, const Tensor& addend, const Tensor& c, bool) {
    const Packed x(a, format);
    const Packed y(b, format);
    const bool nvfp4 = format == NativeFormat::Nvfp4;
    const std::int64_t stages = (x.k / 2 + kRowBytes - 1) / kRowBytes;
    std::vector<float> sums(static_cast<std::size_t>(x.outer * y.outer));
    for (std::int64_t first_m = 0; first_m < x.outer; first_m += kTile) {
      for (std::int64_t first_n = 0; first_n < y.outer; first_n += kTile) {
        std::vector<std::array<float[32][4], 16>> d(kWarps);
        for (auto& of_warp : d) std::memset(&of_warp, 0, sizeof(of_warp));
        for (std::int64_t stage = 0; stage < stages; ++stage) {
          const std::vector<std::uint8_t> shared_a = staged(x, first_m, stage);
          const std::vector<std::uint8_t> shared_b = staged(y, first_n, stage);
          const std::vector<std::uint8_t> scales_of_a = staged_scales(x, format, first_m, stage);
          const std::vector<std::uint8_t> scales_of_b = staged_scales(y, format, first_n, stage);
          for (int warp = 0; warp < kWarps; ++warp) {
            for (int step = 0; step < kSteps; ++step) {
              const int tile = nvfp4 ? step : 0;
              std::uint32_t scale_a[32][4];
              std::uint32_t scale_b[32][4];
              load_scales(
                  scales_of_a, tile, [&](int lane) { return a_scale_row(warp, lane); }, scale_a);
              load_scales(
                  scales_of_b, tile, [&](int lane) { return b_scale_row(warp, lane); }, scale_b);
              for (int j = 0; j < kTilesOfWarp; ++j) {
                std::uint32_t two[32][4];
                load_matrices(
                    shared_b, [&](int lane) { return b_address(warp, lane, j / 2 * 2, step); }, two);
                std::uint32_t of_b[32][2];
                std::uint32_t words_b[32];
                for (int lane = 0; lane < 32; ++lane) {
                  of_b[lane][0] = two[lane][j % 2 * 2];
                  of_b[lane][1] = two[lane][j % 2 * 2 + 1];
                  words_b[lane] = scale_b[lane][j];
                }
                for (int i = 0; i < kTilesOfWarp; ++i) {
                  std::uint32_t of_a[32][4];
                  std::uint32_t words_a[32];
                  load_matrices(
                      shared_a, [&](int lane) { return a_address(warp, lane, i, step); }, of_a);
                  for (int lane = 0; lane < 32; ++lane) words_a[lane] = scale_a[lane][i];
                  multiply_accumulate(format, nvfp4 ? 0 : 2 * step, of_a, of_b, words_a, words_b,
                                      d[static_cast<std::size_t>(warp)][static_cast<std::size_t>(4 * i + j)]);
                }
              }
            }
          }
        }
        for (int warp = 0; warp < kWarps; ++warp) {
          for (int lane = 0; lane < 32; ++lane) {
            for (int i = 0; i < kTilesOfWarp; ++i) {
              for (int j = 0; j < kTilesOfWarp; ++j) {
                for (int e = 0; e < 4; ++e) {
                  const std::int64_t row = first_m + c_row(warp, lane, i, e / 2);
                  const std::int64_t col = first_n + c_col(warp, lane, j) + e % 2;
                  if (row >= x.outer || col >= y.outer) continue;
                  sums[static_cast<std::size_t>(row * y.outer + col)] =
                      d[static_cast<std::size_t>(warp)][static_cast<std::size_t>(4 * i + j)][lane][e];
                }
              }
            }
          }
        }
      }
    }
    store(sums, a.matrix.tensor_scale * b.matrix.tensor_scale, addend, c);
  };
}

TEST(NativeMma, LaneByLaneTheKernelsLayoutGivesTheCpusProduct) {
  for (const NativeFormat format : kFormats) EXPECT_EQ(native_disagreement(format, by_mma(format)), "");
}

TEST(NativeMma, EightRowsThatAreReadAtATimeLieInDifferentBanks) {
  for (int first = 0; first < kTile; first += 8) {
    for (int piece = 0; piece < kPieces; ++piece) {
      unsigned banks = 0;
      for (int row = first; row < first + 8; ++row) banks |= 1u << piece_place(row, piece) / 16 % 8;
      EXPECT_EQ(banks, 0xFFu) << first << ", " << piece;
    }
  }
}

// --- On the GPU that is here. ---

TEST(NativeSelfTest, KernelsOfThisGpuAgreeWithTheCpuAndOthersAreRefusedWithASentence) {
  if (cuda_devices() == 0) GTEST_SKIP() << "no GPU here";
  const int family = cuda_device().compute_capability / 10;
  const std::vector<SelfTest> tests = cuda::native_self_tests();
  ASSERT_EQ(tests.size(), 4u);
  for (const SelfTest& test : tests) {
    SCOPED_TRACE(test.name + ": " + test.reason);
    if (family != 10 && family != 12) {
      EXPECT_EQ(test.verdict, SelfTest::Verdict::Refused);
      EXPECT_NE(test.reason.find("Blackwell"), std::string::npos);
    } else {
      EXPECT_NE(test.verdict, SelfTest::Verdict::Failed);
    }
  }
  if (family == 10 || family == 12) {
    EXPECT_EQ(tests[0].verdict, SelfTest::Verdict::Passed) << tests[0].name << ": " << tests[0].reason;
  }
}

}  // namespace
}  // namespace nibble
