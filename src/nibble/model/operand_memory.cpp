#include "nibble/model/operand_memory.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "nibble/ops/machine.h"
#include "nibble/ops/spmm.h"

namespace nibble {

namespace {

double bytes(const Tensor& tensor) { return tensor.defined() ? static_cast<double>(tensor.bytes()) : 0; }

/// A tensor without memory.
Tensor shape(DType dtype, std::initializer_list<std::int64_t> dims, Device device) {
  return Tensor(nullptr, dtype, dims, device);
}

Tensor codes_of(const QTensor& q, Device device) {
  switch (q.element) {
    case ElementFormat::F32: return shape(DType::F32, {q.rows, q.cols}, device);
    case ElementFormat::BF16: return shape(DType::BF16, {q.rows, q.cols}, device);
    default: return shape(DType::U8, {q.rows, q.code_row_bytes()}, device);
  }
}

void add_scales(QTensor& q, Device device) {
  if (q.scale_format == ScaleFormat::None) return;
  const DType dtype = q.scale_format == ScaleFormat::F32 ? DType::F32 : DType::U8;
  q.scales = shape(dtype, {q.scale_rows(), q.scale_cols()}, device);
  if (q.outer > 0) q.outer_scales = shape(DType::F32, {q.rows, (q.cols + q.outer - 1) / q.outer}, device);
}

/// Elements that a clamp of n values puts aside.
double outside(double alpha, std::int64_t n) {
  const auto low = static_cast<std::int64_t>((1.0 - alpha) * static_cast<double>(n));
  const auto high = static_cast<std::int64_t>(alpha * static_cast<double>(n));
  return static_cast<double>(low + n - 1 - high);
}

/// Of X [rows, cols].
double residual_entries(const Clamp& clamp, std::int64_t rows, std::int64_t cols) {
  return clamp.per_row ? static_cast<double>(rows) * outside(clamp.alpha, cols) : outside(clamp.alpha, rows * cols);
}

/// How a GPU stores E2M1 codes that are multiplied and nothing else: NVFP4 decoded to BF16, codes under one scale a row
/// as E4M3.
ElementFormat widened(const QuantSpec& spec, std::int64_t cols) {
  const bool plain = spec.element == ElementFormat::E2M1 && spec.carrier == ElementFormat::BF16 &&
                     spec.clamp.residual != ResidualMode::Dense && spec.clamp.residual != ResidualMode::Fused &&
                     cols % 16 == 0;
  if (plain && spec.scale == ScaleRule::Nvfp4 && spec.nvfp4.outer == 0) return ElementFormat::BF16;
  if (plain && spec.granularity == Granularity::per_row()) return ElementFormat::E4M3;
  return spec.element;
}

}  // namespace

OperandMemory operand_memory(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, DType source, bool folded,
                             bool for_product, Device device) {
  OperandMemory m;
  QTensor& q = m.form;
  q = QTensor::form_of(spec, spec.transposed ? cols : rows, spec.transposed ? rows : cols);
  const DType stored = spec.element == ElementFormat::F32 ? DType::F32 : DType::BF16;
  if (!has_scale(spec.element) && source == stored && !spec.transposed && !spec.hadamard.enabled() && !folded) {
    q.codes = codes_of(q, device);
    return m;
  }

  QTensor elements = q;
  elements.codes = codes_of(elements, device);
  add_scales(elements, device);
  const bool dense = spec.clamp.enabled() && spec.clamp.residual == ResidualMode::Dense;
  const bool fused = spec.clamp.enabled() && spec.clamp.residual == ResidualMode::Fused;
  const bool carried = spec.carrier != ElementFormat::BF16;
  const auto blocks = static_cast<double>(elements.scale_rows() * elements.scale_cols());
  if (fused) {
    q.element = ElementFormat::E4M3;
    m.scratch += bytes(elements.codes);
  } else if (dense || carried) {
    q.element = carried ? spec.carrier : ElementFormat::BF16;
    q.scale_format = carried ? ScaleFormat::F32 : ScaleFormat::None;
    q.granularity = carried ? Granularity::per_tensor() : Granularity{};
    q.outer = 0;
    m.kept += 4 * blocks;
    m.scratch += bytes(elements.codes) + bytes(elements.scales) + bytes(elements.outer_scales);
  } else if (device == Device::Cuda && for_product) {
    q.element = widened(spec, q.cols);
    if (q.element == ElementFormat::BF16) q.scale_format = ScaleFormat::None;
  }
  q.codes = codes_of(q, device);
  add_scales(q, device);
  if (spec.trust_mask) q.mask = shape(DType::U8, {q.rows, (q.cols + 7) / 8}, device);
  m.kept += bytes(q.codes) + bytes(q.scales) + bytes(q.outer_scales) + bytes(q.mask);
  if (spec.clamp.enabled() && spec.clamp.residual == ResidualMode::Sparse) {
    const double entries = residual_entries(spec.clamp, q.rows, q.cols);
    m.kept += 8 * entries + 4 * static_cast<double>(q.rows + 1);
    // Rows are written apart and then moved together. Under the bounds of a whole tensor one row holds more than
    // others.
    if (device == Device::Cpu) m.scratch += 8 * entries * (spec.clamp.per_row ? 1 : 2);
  }
  if (device == Device::Cpu && q.block_rows() > 32) m.scratch += 8 * blocks;
  const bool turned = spec.transposed || (spec.hadamard.enabled() && spec.clamp.enabled());
  if (device == Device::Cuda && turned) {
    m.scratch +=
        static_cast<double>(rows * cols) * (spec.hadamard.enabled() ? 4.0 : static_cast<double>(dtype_size(source)));
  }
  return m;
}

namespace {

std::int64_t outer_extent(const GemmOperand& x) { return x.transposed ? x.matrix.cols : x.matrix.rows; }
std::int64_t inner_extent(const GemmOperand& x) { return x.transposed ? x.matrix.rows : x.matrix.cols; }

bool inner_scales(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  if (!has_scale(q.element) || x.scales_folded) return false;
  return x.transposed ? q.block_rows() < q.rows : q.block_cols() < q.cols;
}

/// As gemm_path decides, which looks at scales where they are F32 along the contraction; few of those are powers of
/// two.
GemmPath path_on_cpu(const GemmOperand& a, const GemmOperand& b) {
  static const bool native_bf16 = cpu_isa().find("bf16") != std::string::npos;
  const auto f32_inside = [](const GemmOperand& x) {
    return inner_scales(x) && (x.matrix.scale_format == ScaleFormat::F32 || x.matrix.outer > 0);
  };
  const auto exact_in_bf16 = [&](const GemmOperand& x) {
    return x.matrix.element != ElementFormat::F32 && !f32_inside(x);
  };
  if (is_four_bit(a.matrix.element) && is_four_bit(b.matrix.element)) {
    return inner_scales(a) || inner_scales(b) ? GemmPath::Int8Block : GemmPath::Int8;
  }
  return native_bf16 && exact_in_bf16(a) && exact_in_bf16(b) ? GemmPath::Bf16 : GemmPath::F32;
}

/// The tile of C that one thread computes: the largest that leaves enough of them (ops/cpu/gemm.cpp).
std::pair<double, double> cpu_tile(GemmPath path, double m, double n) {
  if (path == GemmPath::Int8Block) return {std::min(128.0, m), 256};
  const double wanted = path == GemmPath::Int8 ? 4 * omp_get_max_threads() : 64;
  const auto tiles = [&](double rows, double cols) { return std::ceil(m / rows) * std::ceil(n / cols); };
  const double rows = tiles(128, 256) >= wanted ? 128 : 64;
  const double cols = rows == 128 || tiles(64, 256) >= std::min(16.0, wanted) ? 256 : 128;
  return {std::min(rows, m), std::min(cols, n)};
}

double cpu_scratch(const GemmOperand& a, const GemmOperand& b, double m, double n, double k) {
  constexpr double kPanelBytes = 16 << 20;
  const GemmPath path = path_on_cpu(a, b);
  const double element = path == GemmPath::F32 ? 4 : path == GemmPath::Bf16 ? 2 : 1;
  const auto in_place = [&](const GemmOperand& x) {
    const DType dtype = x.matrix.codes.dtype();
    return (path == GemmPath::F32 && dtype == DType::F32) || (path == GemmPath::Bf16 && dtype == DType::BF16);
  };
  const auto [rows, cols] = cpu_tile(path, m, n);
  const double columns = std::ceil(n / cols) * cols;
  const double packed = std::min(columns * k * element, std::max(kPanelBytes, cols * k * element));
  const double of_a = a.transposed || !in_place(a) ? rows * k * element : 0;
  const double of_b = in_place(b) ? 0 : cols * k * element;
  return 4 * (m + n) + packed + omp_get_max_threads() * std::max(4 * rows * cols + of_a, of_b);
}

double gpu_scratch(const GemmOperand& a, const GemmOperand& b) {
  const auto outer_scales = [](const GemmOperand& x) {
    if (!has_scale(x.matrix.element)) return false;
    const QTensor& q = x.matrix;
    const bool mxfp4 = q.scale_format == ScaleFormat::E8M0 && !x.transposed;  // exact in FP8 row by row
    const bool blocks128 = q.scale_format == ScaleFormat::F32 && !x.transposed && q.cols % 128 == 0 &&
                           q.granularity == Granularity::block(1, 128);
    return mxfp4 || blocks128 || !inner_scales(x);
  };
  const bool fp8 = outer_scales(a) && outer_scales(b);
  const bool f32 = a.matrix.element == ElementFormat::F32 || b.matrix.element == ElementFormat::F32;
  double bytes = 0;
  for (const GemmOperand* x : {&a, &b}) {
    const auto elements = static_cast<double>(x->matrix.rows * x->matrix.cols);
    const ElementFormat element = x->matrix.element;
    if (fp8) {
      bytes += is_four_bit(element) || x->transposed ? elements : 0;
    } else if (f32) {
      bytes += element == ElementFormat::F32 ? 0 : 4 * elements;
    } else {
      bytes += element == ElementFormat::BF16 ? 0 : 2 * elements;
    }
  }
  return bytes;
}

}  // namespace

double product_scratch(const GemmOperand& a, const GemmOperand& b, Device device) {
  if (device == Device::Cuda) return gpu_scratch(a, b);
  return cpu_scratch(a, b, static_cast<double>(outer_extent(a)), static_cast<double>(outer_extent(b)),
                     static_cast<double>(inner_extent(a)));
}

namespace {

/// The residual as a dense BF16 matrix, where a GPU multiplies it so.
double dense_residual(const Clamp& clamp, std::int64_t rows, std::int64_t cols, Device device) {
  const bool dense = device == Device::Cuda && is_dense_residual(residual_entries(clamp, rows, cols), rows, cols);
  return dense ? 2 * static_cast<double>(rows * cols) : 0;
}

}  // namespace

double spmm_fprop_scratch(const Clamp& clamp, std::int64_t rows, std::int64_t cols, Device device) {
  return dense_residual(clamp, rows, cols, device);
}

double spmm_wgrad_scratch(const Clamp& clamp, std::int64_t rows, std::int64_t cols, std::int64_t outputs, DType dy,
                          Device device) {
  // The entries by column, with a counter for each column and run of rows.
  const double runs = device == Device::Cuda ? std::ceil(static_cast<double>(rows) / 16) + 1 : 16;
  const double by_column = 8 * residual_entries(clamp, rows, cols) + 4 * (runs + 1) * static_cast<double>(cols);
  double dense = dense_residual(clamp, rows, cols, device);
  if (dense > 0 && dy == DType::F32) dense += 4 * static_cast<double>(rows * outputs);
  return std::max(by_column, dense);
}

}  // namespace nibble
