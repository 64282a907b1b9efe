#include "nibble/model/parameter_memory.h"

#include <algorithm>

#include "nibble/tensor/device.h"

namespace nibble {

namespace {

/// Hands out places in a buffer that is made when all of them are known.
class Places {
 public:
  explicit Places(DType dtype) : dtype_(dtype) {}

  std::int64_t take(std::int64_t numel) {
    const std::int64_t at = count_;
    count_ += numel;
    return at;
  }
  std::int64_t count() const { return count_; }
  /// `multiple`: of the buffer's elements.
  OwnedTensor make(Device device, std::int64_t multiple = 1) const {
    if (count_ == 0) return {};
    return OwnedTensor(DType(dtype_), {(count_ + multiple - 1) / multiple * multiple}, device);
  }

 private:
  DType dtype_;
  std::int64_t count_ = 0;
};

Tensor at(const OwnedTensor& buffer, std::int64_t offset, std::span<const std::int64_t> shape) {
  const Tensor& flat = buffer;
  const auto bytes = static_cast<std::size_t>(offset) * dtype_size(flat.dtype());
  return {static_cast<std::byte*>(flat.raw()) + bytes, flat.dtype(), shape, flat.device()};
}

std::vector<ParameterRange> buckets_of(const LlamaConfig& config, const std::vector<ParameterShape>& shapes) {
  std::vector<ParameterRange> blocks(static_cast<std::size_t>(config.layers), {shapes.size(), 0});
  std::size_t final_norm = 0;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    if (shapes[i].name == "final_norm") final_norm = i;
    if (!shapes[i].name.starts_with("layers.")) continue;
    ParameterRange& block = blocks[std::stoul(shapes[i].name.substr(7))];
    block.first = std::min(block.first, i);
    block.last = i + 1;
  }
  std::vector<ParameterRange> buckets{{final_norm, shapes.size()}};
  buckets.insert(buckets.end(), blocks.rbegin(), blocks.rend());
  buckets.push_back({0, 1});
  return buckets;
}

}  // namespace

Tensor Parameter::own_grad() const {
  if (!grad_piece.defined()) return grad;
  return is_matrix() ? grad_piece.row_range(0, own.size()) : grad_piece;
}

Tensor Parameter::own_values() const {
  if (value_piece.defined()) return value_piece.row_range(0, own.size());
  return own_rows(in_half() ? half.data : value);
}

Tensor Parameter::padded(const Tensor& of) const {
  return {of.raw(), of.dtype(), {pieces.padded(), of.cols()}, of.device()};
}

Tensor held_values_of(const Parameter& parameter, Arena& arena) {
  const bool whole = !parameter.value_piece.defined();
  if (!parameter.in_half()) return whole ? parameter.value : parameter.own_values();
  const Tensor held = whole ? parameter.half.data : parameter.own_values();
  const Tensor values = arena.allocate(DType::F32, {held.rows(), held.cols()});
  if (held.numel() > 0) scaled_load({held, parameter.half.scale_inv}, values);
  return values;
}

void set_values(const Parameter& parameter, const Tensor& values) {
  if (!parameter.value_piece.defined()) {
    parameter.in_half() ? scaled_store(values, parameter.half) : copy(values, parameter.value);
    return;
  }
  if (!parameter.in_half()) return copy(parameter.own_rows(values), parameter.own_values());
  // The scale is that of the whole.
  const OwnedTensor whole(DType::F16, values.shape(), values.device());
  scaled_store(values, {whole, parameter.half.scale_inv});
  copy(parameter.own_rows(whole), parameter.own_values());
}

OwnedTensor values_of(const Parameter& parameter) {
  require(!parameter.value_piece.defined(), "{}: other ranks have rows of it", parameter.name);
  OwnedTensor values(DType::F32, parameter.value.shape(), parameter.value.device());
  parameter.in_half() ? scaled_load(parameter.half, values) : convert(parameter.value, values);
  return values;
}

ParameterMemory::ParameterMemory(const LlamaConfig& config, const ParameterStorage& storage, Device device) {
  const int sharing = storage.shares(1) ? storage.ranks() : 1;
  std::vector<ParameterShape> shapes = parameter_shapes(config);
  buckets_ = buckets_of(config, shapes);
  std::vector<std::size_t> bucket(shapes.size());
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    for (std::size_t i = buckets_[b].first; i < buckets_[b].last; ++i) bucket[i] = b;
  }

  struct Place {
    bool half = false;
    bool narrow = false;
    bool turns = false;
    std::int64_t value = 0, scale = 0, grad = 0, piece = 0;
  };
  std::vector<Place> places(shapes.size());
  Places values(DType::F32), half_values(DType::F16), half_scales(DType::F32);
  Places grads(DType::F32), narrow_grads(DType::BF16), pieces(DType::F32), narrow_pieces(DType::BF16);
  std::int64_t turn[2] = {0, 0};  // elements of a turn, F32 and BF16: those of the largest bucket
  std::int64_t in_bucket[2] = {0, 0};
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const ParameterShape& s = shapes[i];
    Place& place = places[i];
    const bool matrix = s.shape.size() == 2;
    const bool of_linear = matrix && s.name.starts_with("layers.");
    const RowPieces rows(s.shape[0], sharing);
    const std::int64_t cols = matrix ? s.shape[1] : 1;
    const std::int64_t whole = matrix ? rows.padded() * cols : s.shape[0];
    place.half = of_linear && storage.half_weights;
    place.narrow = of_linear && storage.gradients == DType::BF16;
    place.value = (place.half ? half_values : values).take(matrix && storage.shares(3) ? rows.piece() * cols : whole);
    if (place.half) place.scale = half_scales.take(1);
    place.turns = storage.shares(2) && !(i == 0 && config.tied_head);
    if (place.turns) {
      if (i == buckets_[bucket[i]].first) in_bucket[0] = in_bucket[1] = 0;
      std::int64_t& taken = in_bucket[place.narrow ? 1 : 0];
      place.grad = taken;
      taken += whole;
      turn[place.narrow ? 1 : 0] = std::max(turn[place.narrow ? 1 : 0], taken);
    } else {
      place.grad = (place.narrow ? narrow_grads : grads).take(whole);
    }
    if (storage.shares(2))
      place.piece = (place.narrow ? narrow_pieces : pieces).take(matrix ? rows.piece() * cols : whole);
  }
  values_ = values.make(device);
  half_values_ = half_values.make(device);
  half_scales_ = half_scales.make(device);
  grads_ = grads.make(device, storage.ranks());
  narrow_grads_ = narrow_grads.make(device, storage.ranks());
  grad_count_ = grads.count();
  if (turn[0] > 0) turns_ = OwnedTensor(DType::F32, {2 * turn[0]}, device);
  if (turn[1] > 0) narrow_turns_ = OwnedTensor(DType::BF16, {2 * turn[1]}, device);
  pieces_ = pieces.make(device);
  narrow_pieces_ = narrow_pieces.make(device);

  for (std::size_t i = 0; i < shapes.size(); ++i) {
    ParameterShape& s = shapes[i];
    const Place& place = places[i];
    Parameter p;
    p.name = std::move(s.name);
    p.decay = s.decay;
    p.parts = std::move(s.parts);
    const bool matrix = s.shape.size() == 2;
    p.pieces = matrix ? RowPieces(s.shape[0], sharing) : RowPieces(1, 1);
    p.own = storage.shares(1) ? p.pieces.of(matrix ? storage.rank() : 0) : RowRange{0, p.pieces.rows()};
    const OwnedTensor& stored = place.half ? half_values_ : values_;
    p.value = Tensor(nullptr, DType::F32, s.shape, device);
    if (place.half) p.half.scale_inv = half_scales_.view().elements(place.scale, place.scale + 1);
    if (matrix && storage.shares(3)) {
      const std::int64_t piece[] = {p.pieces.piece(), s.shape[1]};
      p.value_piece = at(stored, place.value, piece);
      if (place.half) p.half.data = Tensor(nullptr, DType::F16, s.shape, device);
    } else {
      (place.half ? p.half.data : p.value) = at(stored, place.value, s.shape);
    }
    const std::size_t width = place.narrow ? 1 : 0;
    if (place.turns) {
      const std::int64_t begin = static_cast<std::int64_t>(bucket[i] % 2) * turn[width];
      p.grad = at(place.narrow ? narrow_turns_ : turns_, begin + place.grad, s.shape);
    } else {
      p.grad = at(place.narrow ? narrow_grads_ : grads_, place.grad, s.shape);
    }
    if (storage.shares(2)) {
      const OwnedTensor& sums = place.narrow ? narrow_pieces_ : pieces_;
      const std::int64_t shape[] = {p.pieces.piece(), p.grad.cols()};
      p.grad_piece = matrix ? at(sums, place.piece, shape) : at(sums, place.piece, s.shape);
    } else if (storage.shares(1)) {
      p.grad_piece = matrix ? p.piece(p.grad, storage.rank()) : p.grad;
    }
    parameters_.push_back(std::move(p));
  }
}

std::vector<Tensor> ParameterMemory::flat_grads() const {
  std::vector<Tensor> all;
  for (const OwnedTensor* flat : {&grads_, &narrow_grads_}) {
    if (flat->view().defined()) all.push_back(*flat);
  }
  return all;
}

std::size_t ParameterMemory::gradient_bytes() const {
  std::size_t bytes = 0;
  for (const OwnedTensor* flat : {&grads_, &narrow_grads_, &turns_, &narrow_turns_, &pieces_, &narrow_pieces_}) {
    bytes += flat->view().bytes();
  }
  return bytes;
}

}  // namespace nibble
