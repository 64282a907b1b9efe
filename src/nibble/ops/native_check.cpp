#include "nibble/ops/native_check.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/numerics/philox.h"

namespace nibble {
namespace {

constexpr double kTolerance = 0x1p-9;
constexpr double kLongTolerance = 0x1p-11;

/// An FP4 matrix [rows, cols] with its memory.
struct Matrix {
  OwnedTensor codes;
  OwnedTensor scales;
  QTensor q;

  Matrix(NativeFormat format, std::int64_t rows, std::int64_t cols, Granularity blocks)
      : codes(DType::U8, {rows, (cols + 1) / 2}) {
    q.element = ElementFormat::E2M1;
    q.rows = rows;
    q.cols = cols;
    q.granularity = blocks;
    q.scale_format = format == NativeFormat::Nvfp4 ? ScaleFormat::UE4M3 : ScaleFormat::E8M0;
    q.codes = codes;
    scales = OwnedTensor(DType::U8, {q.scale_rows(), q.scale_cols()});
    q.scales = scales;
  }

  void set_code(std::int64_t r, std::int64_t c, unsigned code) const {
    std::uint8_t& byte = q.codes.data<std::uint8_t>()[r * q.code_row_bytes() + c / 2];
    byte = static_cast<std::uint8_t>(c % 2 == 0 ? (byte & 0xF0u) | code : (byte & 0x0Fu) | code << 4);
  }
  template <class Code>
  void set_codes(const Code& code) const {
    for (std::int64_t r = 0; r < q.rows; ++r) {
      for (std::int64_t c = 0; c < q.cols; ++c) set_code(r, c, code(r, c));
    }
  }
  template <class Scale>
  void set_scales(const Scale& scale) const {
    for (std::int64_t r = 0; r < q.scale_rows(); ++r) {
      for (std::int64_t c = 0; c < q.scale_cols(); ++c) {
        q.scales.data<std::uint8_t>()[r * q.scale_cols() + c] = static_cast<std::uint8_t>(scale(r, c));
      }
    }
  }
  /// Codes without their signs.
  Matrix magnitudes() const {
    Matrix m(q.scale_format == ScaleFormat::UE4M3 ? NativeFormat::Nvfp4 : NativeFormat::Mxfp4, q.rows, q.cols,
             q.granularity);
    m.q.tensor_scale = std::fabs(q.tensor_scale);
    const auto* from = static_cast<const std::uint8_t*>(q.codes.raw());
    auto* to = m.q.codes.data<std::uint8_t>();
    for (std::int64_t i = 0; i < q.codes.numel(); ++i) to[i] = from[i] & 0x77u;
    std::copy_n(q.scales.data<std::uint8_t>(), q.scales.numel(), m.q.scales.data<std::uint8_t>());
    return m;
  }
};

OwnedTensor cpu_product(const GemmOperand& a, const GemmOperand& b, std::int64_t m, std::int64_t n) {
  OwnedTensor c(DType::F32, {m, n});
  Arena scratch;
  gemm(a, b, c, Accumulate::Overwrite, scratch);
  return c;
}

OwnedTensor filled(DType dtype, std::int64_t m, std::int64_t n, float value) {
  OwnedTensor f32(DType::F32, {m, n});
  std::fill_n(f32.view().data<float>(), m * n, value);
  OwnedTensor out(dtype, {m, n});
  convert(f32, out);
  return out;
}

struct Case {
  const char* name;
  const Matrix& a;
  const Matrix& b;
  bool a_transposed = false;
  bool b_transposed = false;
  double tolerance = 0;  ///< of sum |a b|
};

/// The product under trial against the CPU's; C of this type, overwritten or added to numbers.
std::string compare(const Case& t, const NativeTrial& trial, DType dtype, bool add, bool device_scales) {
  const GemmOperand a{t.a.q, t.a_transposed};
  const GemmOperand b{t.b.q, t.b_transposed};
  const std::int64_t m = t.a_transposed ? t.a.q.cols : t.a.q.rows;
  const std::int64_t n = t.b_transposed ? t.b.q.cols : t.b.q.rows;
  const std::int64_t k = t.a_transposed ? t.a.q.rows : t.a.q.cols;
  if (native_format(a, b) == NativeFormat::None) {
    throw InternalError(fmt::format("the self-test's {} product of {} x {} x {} does not qualify", t.name, m, n, k));
  }
  constexpr float kBefore = 3.0f;
  const OwnedTensor sum = cpu_product(a, b, m, n);
  const Matrix a_size = t.a.magnitudes();
  const Matrix b_size = t.b.magnitudes();
  const OwnedTensor size = cpu_product({a_size.q, t.a_transposed}, {b_size.q, t.b_transposed}, m, n);
  const OwnedTensor c = filled(dtype, m, n, std::numeric_limits<float>::quiet_NaN());
  const OwnedTensor addend = filled(dtype, m, n, kBefore);
  trial(a, b, add ? addend.view() : Tensor(), c, device_scales);

  OwnedTensor got(DType::F32, {m, n});
  convert(c, got);
  // Where a library adds to BF16, it may round the product first.
  const double rounding = dtype == DType::BF16 ? (add ? 0x1p-7 : 0x1p-8) : t.tolerance == 0 && !add ? 0 : 0x1p-22;
  for (std::int64_t i = 0; i < m * n; ++i) {
    const double product = sum.view().data<float>()[i];
    const double expected = product + (add ? kBefore : 0.0f);
    const double value = got.view().data<float>()[i];
    const double allowed = t.tolerance * size.view().data<float>()[i] +
                           rounding * (std::fabs(product) + (add ? static_cast<double>(kBefore) : 0.0));
    if (!(std::fabs(value - expected) <= allowed)) {
      return fmt::format("element ({}, {}) of a product {} x {} x {} ({}{}{}, {}{}) is {}, on the CPU {}", i / n, i % n,
                         m, n, k, t.name, t.a_transposed ? ", A transposed" : "",
                         t.b_transposed ? ", B transposed" : "", dtype_name(dtype), add ? ", added to" : "", value,
                         expected);
    }
  }
  return {};
}

Granularity along(NativeFormat format, bool transposed, bool square) {
  const std::int64_t block = native_block(format);
  if (square) return Granularity::block(block, block);
  return transposed ? Granularity::block(block, 1) : Granularity::block(1, block);
}

std::string check_single(NativeFormat format, const NativeTrial& trial) {
  const std::int64_t m = 328;
  const std::int64_t n = 144;
  const std::int64_t k = 288;
  const Matrix a(format, m, k, along(format, false, false));
  const Matrix b(format, n, k, along(format, false, false));
  for (std::int64_t r = 0; r < m; ++r) a.set_code(r, r % k, static_cast<unsigned>((r + r / 16) % 16));
  b.set_codes([](std::int64_t r, std::int64_t c) { return static_cast<unsigned>((r + r / 16 + 3 * c) % 16); });
  // 127 UE4M3 scales, NaN left out; E8M0 within 2^-50 to 2^50, so that two of them stay within F32.
  const bool nvfp4 = format == NativeFormat::Nvfp4;
  const std::int64_t count = nvfp4 ? 127 : 101;
  const std::int64_t least = nvfp4 ? 0 : 77;
  a.set_scales([&](std::int64_t r, std::int64_t c) { return least + (3 * r + c) % count; });
  b.set_scales([&](std::int64_t r, std::int64_t c) { return least + (11 * r + 29 * c) % count; });
  return compare({"single products", a, b}, trial, DType::F32, false, false);
}

/// E8M0 scales far from one, whose products are one.
std::string check_extremes(const NativeTrial& trial) {
  const NativeFormat format = NativeFormat::Mxfp4;
  const std::int64_t blocks = 231;
  const Matrix a(format, blocks, 32 * blocks, along(format, false, false));
  const Matrix b(format, 16, 32 * blocks, along(format, false, false));
  for (std::int64_t r = 0; r < blocks; ++r) a.set_code(r, 32 * r + r % 32, static_cast<unsigned>(r % 16));
  b.set_codes([](std::int64_t r, std::int64_t) { return static_cast<unsigned>(r); });
  a.set_scales([](std::int64_t, std::int64_t c) { return 12 + c; });
  b.set_scales([](std::int64_t, std::int64_t c) { return 242 - c; });
  return compare({"extreme scales", a, b}, trial, DType::F32, false, false);
}

Matrix random_matrix(NativeFormat format, std::int64_t rows, std::int64_t cols, Granularity blocks,
                     std::uint32_t seed) {
  const RandomStream random{seed, 0, 0};
  Matrix x(format, rows, cols, blocks);
  x.set_codes(
      [&](std::int64_t r, std::int64_t c) { return random.word(static_cast<std::uint64_t>(r * cols + c)) >> 28; });
  const bool nvfp4 = format == NativeFormat::Nvfp4;
  x.set_scales([&](std::int64_t r, std::int64_t c) {
    const std::uint32_t word = random.word(static_cast<std::uint64_t>((r * cols + c) + (std::int64_t{1} << 40)));
    return nvfp4 ? 0x28 + (word >> 27) : 123 + (word >> 29);
  });
  x.q.tensor_scale = seed % 2 == 0 ? 0.37f : 3.0f;
  return x;
}

std::string check_long(NativeFormat format, const NativeTrial& trial) {
  const Granularity blocks = along(format, false, false);
  const Matrix a = random_matrix(format, 16, 8192, blocks, 100).magnitudes();
  const Matrix b = random_matrix(format, 16, 8192, blocks, 101).magnitudes();
  for (const Matrix* x : {&a, &b}) {
    x->set_scales([&](std::int64_t, std::int64_t) { return format == NativeFormat::Nvfp4 ? 0x38 : 127; });
  }
  return compare({"a long sum", a, b, false, false, kLongTolerance}, trial, DType::F32, false, false);
}

std::string check_dense(NativeFormat format, const NativeTrial& trial) {
  struct Extent {
    std::int64_t m, n, k;
  };
  std::uint32_t seed = 1;
  for (const Extent& s : {Extent{200, 144, 352}, Extent{8, 16, 64}, Extent{136, 32, 96}}) {
    for (int order = 0; order < 4; ++order) {
      const bool at = order % 2 != 0;
      const bool bt = order / 2 != 0;
      const Granularity of_a = along(format, at, order == 3);
      const Granularity of_b = along(format, bt, order % 2 == 0);
      const Matrix a = random_matrix(format, at ? s.k : s.m, at ? s.m : s.k, of_a, ++seed);
      const Matrix b = random_matrix(format, bt ? s.k : s.n, bt ? s.n : s.k, of_b, ++seed);
      const Case t{"random codes", a, b, at, bt, kTolerance};
      for (const DType dtype : {DType::F32, DType::BF16}) {
        for (const bool add : {false, true}) {
          std::string wrong = compare(t, trial, dtype, add, add != (dtype == DType::F32));
          if (!wrong.empty()) return wrong;
        }
      }
    }
  }
  return {};
}

}  // namespace

std::string native_disagreement(NativeFormat format, const NativeTrial& trial) {
  std::string wrong = check_single(format, trial);
  if (wrong.empty() && format == NativeFormat::Mxfp4) wrong = check_extremes(trial);
  if (wrong.empty()) wrong = check_dense(format, trial);
  if (wrong.empty()) wrong = check_long(format, trial);
  return wrong;
}

}  // namespace nibble
