#include "nibble/train/gradient_norm.h"

#include <vector>

#include "nibble/ops/reduce.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

constexpr auto kBytes = static_cast<std::int64_t>(sizeof(double));

std::int64_t groups_of(std::int64_t rows) { return (rows + RowPieces::kBorder - 1) / RowPieces::kBorder; }

/// Partial sums of a parameter that a rank has, at most: of a whole piece, or of all rows where nothing is shared.
std::int64_t places_of(const Parameter& p, bool shared) {
  if (!p.is_matrix()) return 1;
  return groups_of(shared ? p.pieces.piece() : p.pieces.rows());
}

}  // namespace

double squares_of_gradients(Communicator& ranks, Llama& model) {
  const std::vector<Parameter>& parameters = model.parameters();
  const bool shared = parameters.front().grad_piece.defined();
  std::int64_t places = 0;
  for (const Parameter& p : parameters) places += places_of(p, shared);

  const ArenaScope scope(model.scratch());
  const Tensor mine = model.scratch().allocate(DType::U8, {places * kBytes});
  std::int64_t at = 0;
  for (const Parameter& p : parameters) {
    const Tensor grad = p.own_grad();
    const std::int64_t chunk = p.is_matrix() ? RowPieces::kBorder * grad.cols() : grad.numel();
    const std::int64_t chunks = p.is_matrix() ? groups_of(p.own.size()) : 1;
    squares_of_chunks(grad, chunk, mine.elements(at * kBytes, (at + chunks) * kBytes));
    at += places_of(p, shared);
  }
  const int pieces = shared ? ranks.size() : 1;
  const Tensor all = shared ? model.scratch().allocate(DType::U8, {pieces * places * kBytes}) : mine;
  if (shared) ranks.all_gather(mine, all);

  std::vector<double> sums(static_cast<std::size_t>(pieces * places));
  copy(all, Tensor::of(reinterpret_cast<std::uint8_t*>(sums.data()), {pieces * places * kBytes}));
  double sum = 0;
  at = 0;
  for (const Parameter& p : parameters) {
    for (int r = 0; r < (p.is_matrix() ? pieces : 1); ++r) {  // every rank has the vectors
      const std::int64_t rows = shared ? p.pieces.of(r).size() : p.pieces.rows();
      const std::int64_t chunks = p.is_matrix() ? groups_of(rows) : 1;
      for (std::int64_t c = 0; c < chunks; ++c) sum += sums[static_cast<std::size_t>(r * places + at + c)];
    }
    at += places_of(p, shared);
  }
  return sum;
}

}  // namespace nibble
