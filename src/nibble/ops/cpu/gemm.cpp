#include <algorithm>
#include <optional>

#include "nibble/ops/backend.h"
#include "nibble/ops/cpu/dnnl_matmul.h"
#include "nibble/ops/cpu/gemm_block.h"
#include "nibble/ops/cpu/gemm_decode.h"
#include "nibble/ops/cpu/gemm_epilogue.h"
#include "nibble/ops/cpu/thread_scratch.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

// C is computed panel by panel of its columns. For each panel, B is decoded and packed once; then every tile of C is
// one matrix product on one thread over the whole contraction, followed by the epilogue while the sums are in L2:
//
//              n: | panel 0              | panel 1 ...
//                 +------+------+------+-+            task = one tile of rows x a run of tiles: decodes its rows of A
//   m: rows of A  | tile | tile | tile |              once, then multiplies and stores tile by tile
//                 +------+------+------+
//
// The tiles of float sums follow from the shape alone, so the sums are the same bits for any number of threads.

namespace nibble::cpu {
namespace {

struct Shape {
  std::int64_t m, n, k;
};

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

struct TileShape {
  std::int64_t rows, cols;
};

/// The tile that computes C fastest and still gives `wanted` tiles. Rates by tile, Zen 4, K = 768 to 4096, against the
/// best: 128 x 256 1.00, 64 x 256 0.97, 64 x 128 0.95, 32 x 128 0.91, in all three types. So the second is taken for
/// more tiles, and the third only to keep a handful of threads busy.
TileShape choose_tile(const Shape& s, std::int64_t wanted) {
  const auto tiles = [&](TileShape t) { return ceil_div(s.m, t.rows) * ceil_div(s.n, t.cols); };
  constexpr TileShape kLarge{128, kMaxTileCols}, kMedium{64, kMaxTileCols}, kSmall{64, 128};
  const TileShape t = tiles(kLarge) >= wanted                                ? kLarge
                      : tiles(kMedium) >= std::min<std::int64_t>(16, wanted) ? kMedium
                                                                             : kSmall;
  return {std::min(t.rows, s.m), std::min(t.cols, s.n)};
}

/// Float sums must not depend on the number of threads, so neither may their tiles: enough for 64 threads. Integer
/// sums are exact whatever the tiles.
constexpr std::int64_t kFloatTiles = 64;
/// Tasks for each thread where nothing depends on their number: evens out threads of unequal speed.
constexpr std::int64_t kTasksPerThread = 4;

/// Packed B of one panel: within the last-level cache that a few cores share, and a bound on scratch memory.
constexpr std::int64_t kPanelBytes = std::int64_t{16} << 20;

NIBBLE_SIMD std::int32_t sum_row(const std::int8_t* x, std::int64_t n) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

NIBBLE_SIMD void add_row(const std::int8_t* x, std::int32_t* sum, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) sum[i] += x[i];
}

/// offset * sum_k B[n, k] of a decoded tile: [width, k], or [k, width] if `transposed`.
void fill_compensation(const std::int8_t* b, bool transposed, std::int64_t width, std::int64_t k, int offset,
                       std::int32_t* out) {
  std::fill_n(out, width, 0);
  if (transposed) {
    for (std::int64_t kk = 0; kk < k; ++kk) add_row(b + kk * width, out, width);
  } else {
    for (std::int64_t i = 0; i < width; ++i) out[i] = sum_row(b + i * k, k);
  }
  for (std::int64_t i = 0; i < width; ++i) out[i] *= offset;
}

/// The matrix as it stands in memory, if it holds elements of type T.
template <class T>
const T* stored_elements(const GemmOperand& x) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
    if (x.matrix.codes.dtype() == kDTypeOf<T>) return x.matrix.codes.template data<T>();
  }
  return nullptr;
}

/// The products for one width of tile: full height, and the height of the last row of tiles.
struct TileProducts {
  PackedMatmul full, last;
  MatmulPacker packer;

  TileProducts(MatmulType type, std::int64_t rows, std::int64_t last_rows, std::int64_t cols, std::int64_t k,
               std::int64_t stride_k, std::int64_t stride_n)
      : full(type, rows, cols, k), last(full, last_rows), packer(full, stride_k, stride_n) {}
};

template <class ElementA, class ElementB, class Sum>
class Product {
 public:
  Product(MatmulType type, const GemmOperand& a, const GemmOperand& b, const Shape& shape, Epilogue epilogue,
          Arena& arena)
      : a_(a),
        b_(b),
        s_(shape),
        tile_(choose_tile(shape, kExact ? kTasksPerThread * omp_get_max_threads() : kFloatTiles)),
        epilogue_(epilogue),
        a_in_place_(a.transposed ? nullptr : stored_elements<ElementA>(a)),
        b_in_place_(stored_elements<ElementB>(b)) {
    const std::int64_t last_rows = s_.m - (ceil_div(s_.m, tile_.rows) - 1) * tile_.rows;
    const std::int64_t last_cols = s_.n % tile_.cols;
    const auto products = [&](std::int64_t cols) {
      const std::int64_t row = !b_.transposed ? s_.k : b_in_place_ != nullptr ? s_.n : cols;
      return TileProducts(type, tile_.rows, last_rows, cols, s_.k, b_.transposed ? row : 1, b_.transposed ? 1 : row);
    };
    full_.emplace(products(tile_.cols));
    last_.emplace(last_cols == 0 ? *full_ : products(last_cols));

    packed_bytes_ =
        round_up(static_cast<std::int64_t>(std::max(full_->full.packed_bytes(), last_->full.packed_bytes())), 64);
    panel_tiles_ = std::min(std::max<std::int64_t>(1, kPanelBytes / packed_bytes_), ceil_div(s_.n, tile_.cols));
    packed_ = arena.allocate(DType::U8, {panel_tiles_, packed_bytes_}).data<std::uint8_t>();
    if constexpr (kExact) {
      compensation_ = arena.allocate(DType::I32, {s_.n}).data<std::int32_t>();
      epilogue_.compensation = compensation_;
      epilogue_.unit = integer_codes(a.matrix.element).unit * integer_codes(b.matrix.element).unit;
    }

    // Multiplying: sums | matmul scratch | rows of A | transposition. Packing: B as decoded.
    matmul_scratch_at_ = round_up(tile_.rows * tile_.cols * static_cast<std::int64_t>(sizeof(Sum)), 64);
    std::size_t matmul_scratch = 0;
    for (const TileProducts* p : {&*full_, &*last_}) {
      matmul_scratch = std::max({matmul_scratch, p->full.scratch_bytes(), p->last.scratch_bytes()});
    }
    a_at_ = matmul_scratch_at_ + round_up(static_cast<std::int64_t>(matmul_scratch), 64);
    const std::int64_t a_bytes =
        a_in_place_ != nullptr ? 0 : tile_.rows * s_.k * static_cast<std::int64_t>(sizeof(ElementA));
    transposition_at_ = a_at_ + round_up(a_bytes, 64);
    const std::int64_t transposition_bytes =
        a.transposed ? decode_scratch(tile_.rows) * static_cast<std::int64_t>(sizeof(ElementA)) : 0;
    const std::int64_t b_bytes =
        b_in_place_ != nullptr ? 0 : tile_.cols * s_.k * static_cast<std::int64_t>(sizeof(ElementB));
    scratch_.emplace(std::max(transposition_at_ + transposition_bytes, b_bytes), arena);
  }

  void run() const {
    const std::int64_t tiles = ceil_div(s_.n, tile_.cols);
    for (std::int64_t first = 0; first < tiles; first += panel_tiles_) {
      run_panel(first, std::min(tiles, first + panel_tiles_));
    }
  }

 private:
  static constexpr bool kExact = std::is_same_v<Sum, std::int32_t>;

  std::int64_t width(std::int64_t tile) const { return std::min(tile_.cols, s_.n - tile * tile_.cols); }
  const TileProducts& products(std::int64_t tile) const { return width(tile) == tile_.cols ? *full_ : *last_; }

  /// Tiles [first, last) of columns.
  void run_panel(std::int64_t first, std::int64_t last) const {
    parallel_for(last - first, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) pack(first + t, packed_ + t * packed_bytes_);
    });
    const std::int64_t row_tiles = ceil_div(s_.m, tile_.rows);
    const std::int64_t runs = std::min(last - first, ceil_div(kTasksPerThread * omp_get_max_threads(), row_tiles));
    const std::int64_t run_tiles = ceil_div(last - first, runs);
    parallel_for(row_tiles * runs, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t run_first = first + task % runs * run_tiles;
        multiply(task / runs * tile_.rows, first, run_first, std::min(last, run_first + run_tiles));
      }
    });
  }

  void pack(std::int64_t tile, std::uint8_t* packed) const {
    const std::int64_t n = tile * tile_.cols;
    const std::int64_t cols = width(tile);
    if (b_in_place_ != nullptr) {
      products(tile).packer.run(b_in_place_ + (b_.transposed ? n : n * s_.k), packed);
      return;
    }
    auto* decoded = scratch_->template at<ElementB>(0);
    if (b_.transposed) {
      decode_stored(b_, 0, s_.k, n, n + cols, decoded, cols);
    } else {
      decode_stored(b_, n, n + cols, 0, s_.k, decoded, s_.k);
    }
    if constexpr (kExact) {
      fill_compensation(decoded, b_.transposed, cols, s_.k, integer_codes(a_.matrix.element).largest,
                        compensation_ + n);
    }
    products(tile).packer.run(decoded, packed);
  }

  /// Rows from m, tiles [begin, end) of columns.
  void multiply(std::int64_t m, std::int64_t panel_first, std::int64_t begin, std::int64_t end) const {
    if (begin >= end) return;
    const std::int64_t rows = std::min(tile_.rows, s_.m - m);
    const ElementA* a = a_in_place_ == nullptr ? nullptr : a_in_place_ + m * s_.k;
    if (a == nullptr) {
      auto* decoded = scratch_->template at<ElementA>(a_at_);
      decode_outer(a_, m, m + rows, decoded, s_.k, scratch_->template at<ElementA>(transposition_at_));
      a = decoded;
    }
    auto* sums = scratch_->template at<Sum>(0);
    for (std::int64_t t = begin; t < end; ++t) {
      const TileProducts& p = products(t);
      (rows == tile_.rows ? p.full : p.last)
          .run(a, packed_ + (t - panel_first) * packed_bytes_, sums, scratch_->template at<void*>(matmul_scratch_at_));
      store_tile(epilogue_, sums, width(t), m, t * tile_.cols, rows, width(t));
    }
  }

  const GemmOperand& a_;
  const GemmOperand& b_;
  Shape s_;
  TileShape tile_;
  Epilogue epilogue_;
  const ElementA* a_in_place_;
  const ElementB* b_in_place_;
  std::optional<TileProducts> full_, last_;
  std::int64_t packed_bytes_ = 0;
  std::int64_t panel_tiles_ = 0;
  std::uint8_t* packed_ = nullptr;
  std::int32_t* compensation_ = nullptr;
  std::int64_t matmul_scratch_at_ = 0;
  std::int64_t a_at_ = 0;
  std::int64_t transposition_at_ = 0;
  std::optional<ThreadScratch> scratch_;
};

}  // namespace

GemmPath gemm_path(const GemmOperand& a, const GemmOperand& b) {
  if (is_four_bit(a.matrix.element) && is_four_bit(b.matrix.element)) {
    const std::int64_t product = integer_codes(a.matrix.element).largest * integer_codes(b.matrix.element).largest;
    const bool fits = inner_extent(a) <= ((std::int64_t{1} << 31) - 1) / product;
    if (!has_inner_scales(a) && !has_inner_scales(b) && fits) return GemmPath::Int8;
    if (block_dot_length(a, b) != 0) return GemmPath::Int8Block;
  }
  return native_bf16() && exact_in_bf16(a) && exact_in_bf16(b) ? GemmPath::Bf16 : GemmPath::F32;
}

MxRowCount mx_row_count() { return {}; }

void gemm(const GemmOperand& a, const GemmOperand& b, const Tensor& c, Accumulate accumulate, Arena& scratch) {
  const Shape s{outer_extent(a), outer_extent(b), inner_extent(a)};
  if (s.m == 0 || s.n == 0) return;
  if (s.k == 0) {
    if (accumulate == Accumulate::Overwrite) fill_zero(c);
    return;
  }

  const ArenaScope scope(scratch);
  float* scale_a = scratch.allocate(DType::F32, {s.m}).data<float>();
  float* scale_b = scratch.allocate(DType::F32, {s.n}).data<float>();
  fill_outer_scales(a, scale_a);
  fill_outer_scales(b, scale_b);
  Epilogue epilogue;
  epilogue.c = c;
  epilogue.accumulate = accumulate;
  epilogue.scale_a = scale_a;
  epilogue.scale_b = scale_b;
  switch (cpu::gemm_path(a, b)) {
    case GemmPath::Int8:
      Product<std::uint8_t, std::int8_t, std::int32_t>(MatmulType::U8S8, a, b, s, epilogue, scratch).run();
      break;
    case GemmPath::Int8Block: gemm_block(a, b, epilogue, block_dot_kernels().front(), scratch); break;
    case GemmPath::Bf16: Product<bf16, bf16, float>(MatmulType::Bf16, a, b, s, epilogue, scratch).run(); break;
    case GemmPath::F32: Product<float, float, float>(MatmulType::F32, a, b, s, epilogue, scratch).run(); break;
    case GemmPath::Fp8:
    case GemmPath::Native: break;  // never chosen here
  }
}

void gemm_onto(const Tensor& addend, const GemmOperand& a, const GemmOperand& b, const Tensor& c, Arena& scratch) {
  if (addend.raw() != c.raw()) convert(addend, c);
  cpu::gemm(a, b, c, Accumulate::Add, scratch);
}

}  // namespace nibble::cpu
