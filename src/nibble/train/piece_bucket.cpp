#include "nibble/train/piece_bucket.h"

#include <vector>

#include "nibble/dist/ordered_sum.h"
#include "nibble/ops/gradient_codes.h"
#include "nibble/ops/reduce.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

/// What all formats have in common: the vectors, and where sums go.
class PieceBucket : public GradientBucket {
 public:
  PieceBucket(Communicator& communicator, Llama& model, const ParameterRange& range, Arena& memory)
      : communicator_(communicator), model_(model), memory_(memory) {
    std::int64_t numel = 0;
    for (std::size_t i = range.first; i < range.last; ++i) {
      const Parameter& p = model.parameters()[i];
      if (p.is_matrix()) {
        matrices_.push_back(i);
      } else {
        vectors_.push_back({i, numel});
        numel += p.grad.numel();
      }
    }
    const std::int64_t ranks = communicator.size();
    packed_ = OwnedTensor(DType::F32, {(numel + ranks - 1) / ranks * ranks}, model.device());
  }
  std::size_t bytes() const override { return packed_.view().bytes(); }

 protected:
  const Parameter& matrix(std::size_t m) const { return model_.parameters()[matrices_[m]]; }
  std::size_t matrices() const { return matrices_.size(); }
  const OwnedTensor& packed() const { return packed_; }

  /// Padding behind a gradient that takes turns is what another bucket left.
  void clear_padding(std::size_t m) const {
    const Parameter& p = matrix(m);
    if (p.pieces.padded() > p.pieces.rows()) {
      fill_zero(p.padded(p.grad).row_range(p.pieces.rows(), p.pieces.padded()));
    }
  }
  void pack_vectors() const {
    for (const Vector& v : vectors_) copy(model_.parameters()[v.parameter].grad, place(v));
  }
  void unpack_vectors(bool first) const {
    for (const Vector& v : vectors_) {
      const Tensor& to = model_.parameters()[v.parameter].grad_piece;
      first ? copy(place(v), to) : add_in_place(to, place(v));
    }
  }
  /// The sum of one exchange (F32 or the gradients' dtype, a whole piece) takes its place, or is added to what is
  /// there.
  void arrive(std::size_t m, const Tensor& sum, bool first) const {
    const Tensor& to = matrix(m).grad_piece;
    if (first) {
      if (to.raw() == sum.raw()) return;
      to.dtype() == sum.dtype() ? copy(sum, to) : convert(sum, to);
    } else {
      add_in_place(to, sum);
    }
  }

  Communicator& communicator_;
  Llama& model_;
  Arena& memory_;  // of this bucket from start to finish

 private:
  struct Vector {
    std::size_t parameter;
    std::int64_t at;  // in packed_
  };
  Tensor place(const Vector& v) const {
    return packed_.view().elements(v.at, v.at + model_.parameters()[v.parameter].grad.numel());
  }

  std::vector<std::size_t> matrices_;
  std::vector<Vector> vectors_;
  OwnedTensor packed_;  // F32, padded to a multiple of the ranks
};

/// As stored, or rounded to BF16.
class ScatteredBucket final : public PieceBucket {
 public:
  ScatteredBucket(Communicator& communicator, Llama& model, const ParameterRange& range, Arena& memory, bool narrow)
      : PieceBucket(communicator, model, range, memory), narrow_(narrow) {}

  void start(BucketPass pass) override {
    pass_ = pass;
    memory_.rewind({});
    sums_.clear();
    for (std::size_t m = 0; m < matrices(); ++m) {
      const Parameter& p = matrix(m);
      clear_padding(m);
      const Tensor whole = p.padded(p.grad);
      if (narrow_ && whole.dtype() == DType::F32) {
        const Tensor rounded = memory_.allocate(DType::BF16, {whole.rows(), whole.cols()});
        convert(whole, rounded);
        const std::int64_t n = p.pieces.piece();
        sums_.push_back(rounded.row_range(communicator_.rank() * n, (communicator_.rank() + 1) * n));
        under_way_.push_back(communicator_.start_reduce_scatter(rounded, sums_.back(), Reduce::Sum));
      } else {
        sums_.push_back(pass.first ? p.grad_piece : memory_.allocate(whole.dtype(), {p.pieces.piece(), whole.cols()}));
        under_way_.push_back(communicator_.start_reduce_scatter(whole, sums_.back(), Reduce::Sum));
      }
    }
    pack_vectors();
    under_way_.push_back(communicator_.start_all_reduce(packed(), Reduce::Sum));
  }
  void advance() override { under_way_.clear(); }  // waits
  void finish() override {
    advance();
    for (std::size_t m = 0; m < sums_.size(); ++m) arrive(m, sums_[m], pass_.first);
    unpack_vectors(pass_.first);
  }

 private:
  bool narrow_;
  BucketPass pass_;
  std::vector<Tensor> sums_;
  std::vector<Pending> under_way_;
};

class Fp8PieceBucket final : public PieceBucket {
 public:
  Fp8PieceBucket(Communicator& communicator, Llama& model, const ParameterRange& range, Arena& memory,
                 const Fp8Sums& fp8)
      : PieceBucket(communicator, model, range, memory),
        fp8_(fp8),
        amaxes_(DType::F32, {static_cast<std::int64_t>(matrices())}, model.device()) {}

  void start(BucketPass pass) override {
    pass_ = pass;
    encoded_ = false;
    memory_.rewind({});
    fill_zero(amaxes_);
    for (std::size_t m = 0; m < matrices(); ++m) {
      const ArenaScope scope(model_.scratch());
      update_amax(wide(m), amax(m));
    }
    pack_vectors();
    amaxes_pending_ = communicator_.start_all_reduce(amaxes_, Reduce::Max);
    vectors_pending_ = communicator_.start_all_reduce(packed(), Reduce::Sum);
  }
  void advance() override {
    if (encoded_) return;
    encoded_ = true;
    amaxes_pending_.wait();
    codes_.clear();
    arrived_.clear();
    for (std::size_t m = 0; m < matrices(); ++m) {
      const Parameter& p = matrix(m);
      const std::int64_t numel = p.pieces.padded() * p.grad.cols();
      codes_.push_back(memory_.allocate(DType::U8, {numel}));
      arrived_.push_back(memory_.allocate(DType::U8, {numel}));
      {
        const ArenaScope scope(model_.scratch());
        encode_gradient(wide(m), amax(m), fp8_.scaling.divisor(), codes_[m].elements(0, p.grad.numel()));
      }
      fill_zero(codes_[m].elements(p.grad.numel(), numel));
      codes_pending_.push_back(communicator_.start_all_to_all(codes_[m], arrived_[m]));
    }
  }
  void finish() override {
    advance();
    codes_pending_.clear();  // waits
    for (std::size_t m = 0; m < matrices(); ++m) {
      const Parameter& p = matrix(m);
      const std::int64_t numel = p.pieces.piece() * p.grad.cols();
      const Tensor sum = codes_[m].elements(0, numel);
      add_gradient_codes(arrived_[m], communicator_.size(), sum, fp8_.saturated);
      const bool in_place = pass_.first && p.grad_piece.dtype() == DType::F32;
      const ArenaScope scope(model_.scratch());
      const Tensor values = in_place ? p.grad_piece : model_.scratch().allocate(DType::F32, {numel});
      decode_gradient(sum, amax(m), fp8_.scaling.divisor(), values);
      arrive(m, values, pass_.first);
    }
    vectors_pending_.wait();
    unpack_vectors(pass_.first);
  }
  std::size_t bytes() const override { return PieceBucket::bytes() + amaxes_.view().bytes(); }

 private:
  Tensor amax(std::size_t m) const {
    return amaxes_.view().elements(static_cast<std::int64_t>(m), static_cast<std::int64_t>(m) + 1);
  }
  /// The gradient in F32: itself, or a copy in scratch memory.
  Tensor wide(std::size_t m) const {
    const Tensor& grad = matrix(m).grad;
    if (grad.dtype() == DType::F32) return grad;
    const Tensor copy = model_.scratch().allocate(DType::F32, {grad.numel()});
    convert(grad, copy);
    return copy;
  }

  const Fp8Sums& fp8_;
  OwnedTensor amaxes_;  // F32, one a matrix
  BucketPass pass_;
  bool encoded_ = true;
  std::vector<Tensor> codes_, arrived_;  // U8, of each matrix with its padding
  Pending amaxes_pending_, vectors_pending_;
  std::vector<Pending> codes_pending_;
};

class OrderedBucket final : public PieceBucket {
 public:
  OrderedBucket(Communicator& communicator, Llama& model, const ParameterRange& range, Arena& memory,
                std::int64_t micro_batches)
      : PieceBucket(communicator, model, range, memory),
        vectors_(communicator, micro_batches, packed().view().numel(), DType::F32) {
    for (std::size_t m = 0; m < matrices(); ++m) {
      const Parameter& p = matrix(m);
      sums_.emplace_back(communicator, micro_batches, p.pieces.padded() * p.grad.cols(), p.grad.dtype());
    }
  }

  void start(BucketPass pass) override {
    memory_.rewind({});
    under_way_ = pass.last;
    pack_vectors();
    vectors_.add(packed());
    for (std::size_t m = 0; m < sums_.size(); ++m) {
      clear_padding(m);
      sums_[m].add(matrix(m).padded(matrix(m).grad));
      if (pass.last) sums_[m].start_exchange(&memory_);
    }
    if (pass.last) vectors_.start_exchange(&memory_);
  }
  void advance() override {
    if (!under_way_) return;
    under_way_ = false;
    for (std::size_t m = 0; m < sums_.size(); ++m) sums_[m].finish(matrix(m).grad_piece);
    const std::int64_t n = packed().view().numel() / communicator_.size();
    const Tensor piece = packed().view().elements(communicator_.rank() * n, (communicator_.rank() + 1) * n);
    vectors_.finish(piece);
    communicator_.all_gather(piece, packed());
    unpack_vectors(true);
  }
  void finish() override { advance(); }
  std::size_t bytes() const override {
    std::size_t total = PieceBucket::bytes() + vectors_.bytes();
    for (const OrderedSum& sum : sums_) total += sum.bytes();
    return total;
  }

 private:
  OrderedSum vectors_;
  std::vector<OrderedSum> sums_;  // of each matrix with its padding
  bool under_way_ = false;
};

}  // namespace

std::unique_ptr<GradientBucket> make_piece_bucket(ExchangeFormat format, Communicator& communicator, Llama& model,
                                                  const ParameterRange& range, Arena& memory, const Fp8Sums& fp8) {
  if (format == ExchangeFormat::Fp8) {
    return std::make_unique<Fp8PieceBucket>(communicator, model, range, memory, fp8);
  }
  return std::make_unique<ScatteredBucket>(communicator, model, range, memory, format == ExchangeFormat::Bf16);
}

std::unique_ptr<GradientBucket> make_ordered_bucket(Communicator& communicator, Llama& model,
                                                    const ParameterRange& range, Arena& memory,
                                                    std::int64_t micro_batches) {
  return std::make_unique<OrderedBucket>(communicator, model, range, memory, micro_batches);
}

}  // namespace nibble
