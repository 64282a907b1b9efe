#include "nibble/ops/cpu/gemm_block.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "nibble/ops/cpu/block_pack.h"
#include "nibble/ops/cpu/gemm_decode.h"
#include "nibble/ops/cpu/thread_scratch.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/parallel.h"

// Columns of C are taken in panels that fit the last-level cache: B is packed, then a task is a tile of 96 rows by a
// run of column groups of the panel:
//
//                 groups of 256 columns            for each group of 256 columns         sums [96, 256]: L2
//               +---------+---------+-------       for each stretch of 512 of K
//   96 rows: A  |         |         |                 for each 32 columns                B's stretch: L1
//               +---------+---------+-------             for each 6 rows                 the kernel
//
// Every sum is accumulated in the order of its blocks, so neither the tiles nor the threads can change a bit.

namespace nibble::cpu {
namespace {

constexpr std::int64_t kTileRows = 16 * kBlockRows;
/// 512 elements are 20 to 24 KiB of packed B for 32 columns.
constexpr std::int64_t kStretch = 512;
/// Packed B of one panel, as for the other products.
constexpr std::int64_t kPanelBytes = std::int64_t{16} << 20;
constexpr std::int64_t kTasksPerThread = 4;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

class BlockProduct {
 public:
  BlockProduct(const GemmOperand& a, const GemmOperand& b, const Epilogue& epilogue, const BlockDotKernel& kernel,
               Arena& arena)
      : a_(a),
        b_(b),
        m_(outer_extent(a)),
        n_(outer_extent(b)),
        k_(inner_extent(a)),
        length_(block_dot_length(a, b)),
        blocks_(ceil_div(k_, length_)),
        offset_(integer_codes(a.matrix.element).largest),
        dot_(length_ == 16 ? kernel.dot16 : kernel.dot32),
        epilogue_(epilogue),
        a_stride_(round_up(k_, 64) + 64) {
    epilogue_.unit = integer_codes(a.matrix.element).unit * integer_codes(b.matrix.element).unit;
    panel_bytes_ = packed_panel_bytes(k_, length_);
    groups_ = ceil_div(n_, kMaxTileCols);
    const std::int64_t group_bytes = kMaxTileCols / kBlockLanes * panel_bytes_;
    panel_groups_ = std::clamp<std::int64_t>(kPanelBytes / group_bytes, 1, groups_);
    packed_ = arena.allocate(DType::U8, {panel_groups_ * group_bytes}).data<std::uint8_t>();

    // Multiplying: sums | rows of A | their scales | transposition. Packing: its own.
    const std::int64_t rows = std::min(kTileRows, round_up(m_, kBlockRows));
    const auto scale = static_cast<std::int64_t>(sizeof(float));
    a_at_ = rows * kMaxTileCols * scale;
    scales_at_ = a_at_ + rows * a_stride_;
    transposition_at_ = scales_at_ + round_up(rows * blocks_ * scale, 64);
    const std::int64_t end = transposition_at_ + (a.transposed ? decode_scratch(rows) : 0);
    scratch_.emplace(std::max(end, pack_scratch_bytes(k_, length_)), arena);
  }

  void run() const {
    for (std::int64_t first = 0; first < groups_; first += panel_groups_) {
      run_panel(first, std::min(groups_, first + panel_groups_));
    }
  }

 private:
  /// Column groups [first, last).
  void run_panel(std::int64_t first, std::int64_t last) const {
    const std::int64_t begin_n = first * kMaxTileCols;
    const std::int64_t end_n = std::min(n_, last * kMaxTileCols);
    parallel_for(ceil_div(end_n - begin_n, kPackColumns), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t n = i * kPackColumns;
        pack_blocks(b_, begin_n + n, std::min(kPackColumns, end_n - begin_n - n), length_, offset_,
                    packed_ + n / kBlockLanes * panel_bytes_, scratch_->at<std::uint8_t>(0));
      }
    });
    const std::int64_t row_tiles = ceil_div(m_, kTileRows);
    const std::int64_t runs = std::min(last - first, ceil_div(kTasksPerThread * omp_get_max_threads(), row_tiles));
    const std::int64_t run_groups = ceil_div(last - first, runs);
    parallel_for(row_tiles * runs, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t run_first = first + task % runs * run_groups;
        multiply(task / runs * kTileRows, first, run_first, std::min(last, run_first + run_groups));
      }
    });
  }

  /// Rows from m, column groups [begin, end).
  void multiply(std::int64_t m, std::int64_t panel_first, std::int64_t begin, std::int64_t end) const {
    if (begin >= end) return;
    const std::int64_t rows = std::min(kTileRows, m_ - m);
    auto* sums = scratch_->at<float>(0);
    auto* a = scratch_->at<std::uint8_t>(a_at_);
    auto* scales = scratch_->at<float>(scales_at_);
    decode_outer(a_, m, m + rows, a, a_stride_, scratch_->at<std::uint8_t>(transposition_at_));
    fill_block_scales(a_, m, m + rows, length_, scales, blocks_);
    const std::int64_t whole_rows = round_up(rows, kBlockRows);
    for (std::int64_t r = 0; r < whole_rows; ++r) {
      // What the kernel reads beyond the operand meets zeros, but is not left to chance.
      const std::int64_t used = r < rows ? k_ : 0;
      std::memset(a + r * a_stride_ + used, 0, static_cast<std::size_t>(a_stride_ - used));
    }
    std::fill(scales + rows * blocks_, scales + whole_rows * blocks_, 0.0f);

    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t cols = std::min(kMaxTileCols, n_ - group * kMaxTileCols);
      const std::uint8_t* b = packed_ + (group - panel_first) * (kMaxTileCols / kBlockLanes) * panel_bytes_;
      for (std::int64_t first = 0; first < blocks_; first += kStretch / length_) {
        const std::int64_t blocks = std::min(kStretch / length_, blocks_ - first);
        for (std::int64_t n = 0; n < cols; n += kBlockLanes) {
          for (std::int64_t r = 0; r < rows; r += kBlockRows) {
            dot_({.a = a + r * a_stride_ + first * length_,
                  .a_stride = a_stride_,
                  .a_scales = scales + r * blocks_ + first,
                  .a_scale_stride = blocks_,
                  .b = b + n / kBlockLanes * panel_bytes_ + first * block_bytes(length_),
                  .c = sums + r * kMaxTileCols + n,
                  .c_stride = kMaxTileCols,
                  .blocks = blocks,
                  .overwrite = first == 0});
          }
        }
      }
      store_tile(epilogue_, sums, kMaxTileCols, m, group * kMaxTileCols, rows, cols);
    }
  }

  const GemmOperand& a_;
  const GemmOperand& b_;
  std::int64_t m_, n_, k_;
  std::int64_t length_, blocks_;
  int offset_;
  void (*dot_)(const BlockTile& tile);
  Epilogue epilogue_;
  std::int64_t a_stride_;
  std::int64_t panel_bytes_ = 0;
  std::int64_t groups_ = 0;
  std::int64_t panel_groups_ = 0;
  std::uint8_t* packed_ = nullptr;
  std::int64_t a_at_ = 0;
  std::int64_t scales_at_ = 0;
  std::int64_t transposition_at_ = 0;
  std::optional<ThreadScratch> scratch_;
};

}  // namespace

std::int64_t block_dot_length(const GemmOperand& a, const GemmOperand& b) {
  if (!is_four_bit(a.matrix.element) || !is_four_bit(b.matrix.element)) return 0;
  const int product = integer_codes(a.matrix.element).largest * integer_codes(b.matrix.element).largest;
  if (product > kMaxBlockProduct) return 0;
  const std::int64_t common = std::gcd(inner_block(a), inner_block(b));
  return common % 32 == 0 ? 32 : common % 16 == 0 ? 16 : 0;
}

void gemm_block(const GemmOperand& a, const GemmOperand& b, Epilogue epilogue, const BlockDotKernel& kernel,
                Arena& scratch) {
  const ArenaScope scope(scratch);
  BlockProduct(a, b, epilogue, kernel, scratch).run();
}

}  // namespace nibble::cpu
