// A parameter of a model and its gradient: views of memory that the model owns (model/parameter_memory.h).
#pragma once

#include <string>
#include <vector>

#include "nibble/dist/communicator.h"
#include "nibble/dist/row_pieces.h"
#include "nibble/model/gather_weights.h"
#include "nibble/model/parameter_shapes.h"
#include "nibble/optim/adamw.h"

namespace nibble {

/// How a model stores its parameters and gradients.
struct ParameterStorage {
  /// Weights of linear layers in F16 under one scale a matrix, as FP8-LM's optimizer has its master weights, and
  /// nowhere in F32: a layer's are decoded where they are read. The model computes with what is stored, so bits are
  /// those of F32 storage of the same values. All other parameters are F32.
  bool half_weights = false;
  /// Of linear layers, or BF16: sums of several passes are rounded after each of them. All others are F32.
  DType gradients = DType::F32;
  /// The ranks that train the model together; null: one alone.
  Communicator* communicator = nullptr;
  /// What ranks share, each having its rows of every matrix (ZeRO, docs/distributed.md); vectors are everybody's.
  /// 1: a rank updates its own rows. 2: and keeps sums of gradients of its own rows; whole gradients last until the
  /// next bucket but one is written. 3: and keeps values of its own rows; what passes compute with is gathered. One
  /// rank alone shares nothing.
  int zero = 0;
  GatherWeights gather = GatherWeights::Block;

  int rank() const { return communicator == nullptr ? 0 : communicator->rank(); }
  int ranks() const { return communicator == nullptr ? 1 : communicator->size(); }
  bool shares(int level) const { return ranks() > 1 && zero >= level; }
  /// A pass gathers weights, so all ranks run passes together.
  bool gathers_in_passes() const { return shares(3) && gather == GatherWeights::Block; }
};

/// Query, key and value matrices are one tensor, as are gate and up: `parts` gives their names in the Hugging Face
/// layout, stacked by rows, or by elements where the parameter is a vector.
struct Parameter {
  std::string name;    ///< "layers.0.attention.qkv"
  Tensor value;        ///< F32; a shape without memory where `half` or `value_piece` holds the values
  Tensor grad;         ///< F32 or BF16, same shape
  ScaledTensor half;   ///< F16, same shape, perhaps without memory; undefined where values are F32
  bool decay = false;  ///< weight decay applies: matrices except the embedding; no gain, no bias
  std::vector<ParameterPart> parts;
  RowPieces pieces{0, 1};  ///< of a matrix, among the ranks that share it, with room behind it for the padding
  RowRange own;            ///< rows that this rank updates; of a vector "row" 0
  /// Where the sum of gradients over ranks goes if ranks share updates: this rank's piece, padding included, a part of
  /// `grad` or memory of its own; of a vector all of it. Undefined otherwise: it is `grad`.
  Tensor grad_piece;
  /// Where a rank has values of its own rows alone: its piece, padding included, F32 or F16. Undefined otherwise.
  Tensor value_piece;

  bool in_half() const { return half.data.defined(); }
  bool is_matrix() const { return value.dims() == 2; }
  /// The values that this rank updates, F32 or F16.
  Tensor own_values() const;
  /// Of values or gradients of the parameter's shape, those that this rank updates.
  Tensor own_rows(const Tensor& of) const { return is_matrix() ? of.row_range(own.begin, own.end) : of; }
  /// The gradient of own_rows.
  Tensor own_grad() const;
  /// Values or gradients of this shape in the model's memory, with the padding: [pieces.padded(), cols].
  Tensor padded(const Tensor& of) const;
  /// Piece `rank` of them, [pieces.piece(), cols].
  Tensor piece(const Tensor& of, int rank) const {
    return padded(of).row_range(rank * pieces.piece(), (rank + 1) * pieces.piece());
  }
};

/// Parameters [first, last), whose gradients are complete at the same time.
struct ParameterRange {
  std::size_t first = 0;
  std::size_t last = 0;
};

/// Calls f(Hugging Face name, the part of `values`) for every part of the parameter; `values` has its shape.
template <class F>
void for_each_part(const Parameter& parameter, const Tensor& values, F&& f) {
  std::int64_t row = 0;
  for (const ParameterPart& part : parameter.parts) {
    const std::int64_t end = row + part.rows;
    f(part.hf_name, values.dims() == 1 ? values.elements(row, end) : values.row_range(row, end));
    row = end;
  }
}

/// A copy of the parameter in F32, on its device; every rank has it whole.
OwnedTensor values_of(const Parameter& parameter);
/// All that this rank has of the parameter in F32, in the arena where it is stored otherwise.
Tensor held_values_of(const Parameter& parameter, Arena& arena);
/// The parameter becomes `values`, F32 of its shape on its device: this rank's rows of it, where it has no others.
void set_values(const Parameter& parameter, const Tensor& values);

}  // namespace nibble
