#include "nibble/train/state_snapshot.h"

#include <algorithm>
#include <utility>

#include "nibble/tensor/parallel.h"

namespace nibble {

namespace {

/// Rows of a tensor of any number of dimensions.
Tensor rows_of(const Tensor& tensor, std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> shape(tensor.shape().begin(), tensor.shape().end());
  const std::size_t row_bytes = shape[0] == 0 ? 0 : tensor.bytes() / static_cast<std::size_t>(shape[0]);
  shape[0] = end - begin;
  return Tensor(static_cast<std::byte*>(tensor.raw()) + static_cast<std::size_t>(begin) * row_bytes, tensor.dtype(),
                shape, tensor.device());
}

/// Rows of a parameter in F32, in the scratch arena where it is stored otherwise.
Tensor values_of_rows(const Parameter& parameter, const RowRange& rows, Arena& scratch) {
  if (parameter.value_piece.defined()) return held_values_of(parameter, scratch);  // these rows
  if (!parameter.in_half()) return rows_of(parameter.value, rows.begin, rows.end);
  const Tensor half = rows_of(parameter.half.data, rows.begin, rows.end);
  const Tensor values = scratch.allocate(DType::F32, {half.dim(0), half.numel() / half.dim(0)});
  scaled_load({half, parameter.half.scale_inv}, values);
  return values;
}

}  // namespace

RowRange StateSnapshot::share(std::span<const std::int64_t> shape) const {
  if (shape.size() > 1) return RowPieces(shape[0], ranks_.size).of(ranks_.rank);
  return {0, ranks_.rank == 0 ? shape[0] : 0};
}

void StateSnapshot::take(Llama& model, const Optimizer& optimizer) {
  stems_ = {"model"};
  held_.clear();
  to_copy_.clear();
  used_ = copied_bytes_ = 0;
  take_weights(model);
  stems_.emplace_back("optimizer");
  optimizer.visit([&](const StateTensor& state) { take(state); });
  model.visit_linear_state([&](const StateTensor& state) {
    if (stems_.size() == 2) stems_.emplace_back("recipe");
    take(state);
  });
  parallel_for(static_cast<std::int64_t>(to_copy_.size()), 1, [&](std::int64_t begin, std::int64_t) {
    const Held& held = held_[to_copy_[static_cast<std::size_t>(begin)]];
    held.copy->begin_read(held.state.rows);
  });
}

void StateSnapshot::take_weights(Llama& model) {
  for (const Parameter& p : model.parameters()) {
    const RowRange mine = share(p.value.shape());
    if (mine.size() == 0) continue;
    const ArenaScope scope(model.scratch());
    const Tensor values = values_of_rows(p, mine, model.scratch());
    std::int64_t row = 0;
    for (const ParameterPart& part : p.parts) {
      const std::int64_t begin = std::max(mine.begin, row);
      const std::int64_t end = std::min(mine.end, row + part.rows);
      if (begin < end) {
        std::vector<std::int64_t> shape(p.value.shape().begin(), p.value.shape().end());
        shape[0] = part.rows;
        hold({part.hf_name, shape, begin - row, rows_of(values, begin - mine.begin, end - mine.begin)}, p.in_half());
      }
      row += part.rows;
    }
  }
}

void StateSnapshot::take(StateTensor state) {
  if (state.whole()) {
    const RowRange mine = share(state.shape);
    state.first_row = mine.begin;
    state.rows = rows_of(state.rows, mine.begin, mine.end);
  }
  if (state.rows.dim(0) > 0) hold(std::move(state), false);
}

void StateSnapshot::hold(StateTensor state, bool passing) {
  Held held{stems_.size() - 1, std::move(state), nullptr};
  if (copies_ || passing || device_ == Device::Cuda) {
    if (used_ == memory_.size()) memory_.emplace_back(device_);
    held.copy = &memory_[used_++];
    copied_bytes_ += held.state.rows.bytes();
    if (passing || device_ == Device::Cuda) {
      held.copy->begin_read(held.state.rows);
    } else {
      to_copy_.push_back(held_.size());
    }
  }
  held_.push_back(std::move(held));
}

std::vector<StateSnapshot::File> StateSnapshot::files() {
  std::vector<File> files;
  for (const std::string& stem : stems_) files.push_back({stem, {}});
  for (const Held& held : held_) {
    const Tensor rows = held.copy == nullptr ? held.state.rows : held.copy->read();
    files[held.file].tensors.push_back(
        {safetensors_entry(held.state.name, rows), held.state.first_row, held.state.shape[0]});
  }
  return files;
}

void StateSnapshot::release() {
  held_.clear();
  memory_.clear();
  used_ = copied_bytes_ = 0;
}

}  // namespace nibble
