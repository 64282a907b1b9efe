#include "nibble/recipe/row_gather.h"

#include "nibble/recipe/columns.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

struct Extent {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

/// Of a quantised matrix of `rows` rows.
QTensor form_of(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  return spec.transposed ? QTensor::form_of(spec, cols, rows) : QTensor::form_of(spec, rows, cols);
}

Extent codes_of(const QTensor& q) { return {q.rows, has_scale(q.element) ? q.code_row_bytes() : q.cols}; }
Extent scales_of(const QTensor& q) { return {q.scale_rows(), q.scale_cols()}; }
Extent outer_scales_of(const QTensor& q) { return {q.rows, q.outer == 0 ? 0 : (q.cols + q.outer - 1) / q.outer}; }
Extent mask_of(const QTensor& q) { return {q.rows, (q.cols + 7) / 8}; }

/// A tensor of QTensor that differs from piece to piece.
struct CutPart {
  Tensor QTensor::*member;
  DType dtype;
  Extent (*extent)(const QTensor& q);
};

std::vector<CutPart> cut_parts(const QuantSpec& spec) {
  const DType codes = spec.element == ElementFormat::F32    ? DType::F32
                      : spec.element == ElementFormat::BF16 ? DType::BF16
                                                            : DType::U8;
  std::vector<CutPart> parts = {{&QTensor::codes, codes, codes_of}};
  const ScaleFormat scales = scale_format(spec.scale);
  const bool shared = (spec.transposed ? spec.granularity.cols : spec.granularity.rows) == 0;
  if (scales != ScaleFormat::None && !shared) {
    parts.push_back({&QTensor::scales, scales == ScaleFormat::F32 ? DType::F32 : DType::U8, scales_of});
  }
  if (spec.scale == ScaleRule::Nvfp4 && spec.nvfp4.outer > 0) {
    parts.push_back({&QTensor::outer_scales, DType::F32, outer_scales_of});
  }
  if (spec.trust_mask) parts.push_back({&QTensor::mask, DType::U8, mask_of});
  return parts;
}

Tensor copy_in(const Tensor& from, Arena& arena) {
  const Tensor to = arena.allocate(from.dtype(), {from.rows(), from.cols()});
  copy(from, to);
  return to;
}

}  // namespace

std::int64_t RowGather::piece_bytes(const QuantSpec& spec, const RowPieces& pieces, std::int64_t cols) {
  const QTensor piece = form_of(spec, pieces.piece(), cols);
  std::int64_t bytes = 0;
  for (const CutPart& part : cut_parts(spec)) {
    const Extent extent = part.extent(piece);
    bytes += extent.rows * extent.cols * static_cast<std::int64_t>(dtype_size(part.dtype));
  }
  return bytes;
}

RowGather::RowGather(const QTensor& own, const QuantSpec& spec, const RowPieces& pieces, std::int64_t cols,
                     Communicator& communicator, Arena& arena)
    : whole_(own), transposed_(spec.transposed), ranks_(communicator.size()) {
  const QTensor whole = form_of(spec, pieces.rows(), cols);
  const QTensor piece = form_of(spec, pieces.piece(), cols);
  const QTensor mine = form_of(spec, pieces.of(communicator.rank()).size(), cols);
  whole_.rows = whole.rows;
  whole_.cols = whole.cols;
  if (own.scales.defined()) whole_.scales = {};
  for (const CutPart& part : cut_parts(spec)) {
    const Extent extent = part.extent(piece);
    const Extent here = part.extent(mine);
    const Extent all = part.extent(whole);
    const Tensor room = arena.allocate(part.dtype, {ranks_ * extent.rows, extent.cols});
    const Tensor slot = room.row_range(communicator.rank() * extent.rows, (communicator.rank() + 1) * extent.rows);
    if (here.rows * here.cols > 0) {
      const Tensor& from = own.*part.member;
      transposed_ ? place_columns(from, slot, 0) : copy(from, slot.row_range(0, here.rows));
    }
    parts_.push_back({part.member, room, all.rows, all.cols, communicator.start_all_gather(slot, room)});
  }
  const bool scales_travel = parts_.size() > 1 && parts_[1].member == &QTensor::scales;
  if (own.scales.defined() && !scales_travel) whole_.scales = copy_in(own.scales, arena);
  if (own.device_scale.defined()) whole_.device_scale = copy_in(own.device_scale, arena);
}

QTensor RowGather::finish(Arena& arena) {
  for (Part& part : parts_) {
    part.arrival.wait();
    Tensor& to = whole_.*part.member;
    if (!transposed_) {
      to = part.room.row_range(0, part.rows);
      continue;
    }
    to = arena.allocate(part.room.dtype(), {part.rows, part.cols});
    for (int rank = 0; rank < ranks_; ++rank) {
      place_columns(part.room.row_range(rank * part.rows, (rank + 1) * part.rows), to, rank * part.room.cols());
    }
  }
  parts_.clear();
  return whole_;
}

ValueGather::ValueGather(const Tensor& own, DType dtype, const RowPieces& pieces, Communicator& communicator,
                         Arena& arena)
    : rows_(pieces.rows()) {
  room_ = arena.allocate(dtype, {pieces.padded(), own.cols()});
  const std::int64_t first = communicator.rank() * pieces.piece();
  const Tensor slot = room_.row_range(first, first + pieces.piece());
  if (own.rows() > 0) convert(own, slot.row_range(0, own.rows()));
  arrival_ = communicator.start_all_gather(slot, room_);
}

Tensor ValueGather::finish() {
  arrival_.wait();
  return room_.row_range(0, rows_);
}

}  // namespace nibble
