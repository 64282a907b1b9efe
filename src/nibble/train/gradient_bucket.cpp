#include "nibble/train/gradient_bucket.h"

#include "nibble/ops/gradient_codes.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

/// The flat runs that the parameters' gradients lie in, one behind the other: one of F32, one of BF16, those there are.
std::vector<Tensor> ranges_of(Llama& model, std::size_t first, std::size_t last) {
  std::vector<Tensor> ranges;
  for (const Tensor& flat : model.padded_grads()) {
    const auto* base = static_cast<const std::byte*>(flat.raw());
    const auto size = static_cast<std::int64_t>(dtype_size(flat.dtype()));
    std::int64_t begin = -1;
    std::int64_t end = -1;
    for (std::size_t i = first; i < last; ++i) {
      const Tensor& grad = model.parameters()[i].grad;
      if (grad.dtype() != flat.dtype()) continue;
      const std::int64_t at = (static_cast<const std::byte*>(grad.raw()) - base) / size;
      if (begin < 0) begin = end = at;
      require(at == end, "the gradient of {} does not follow the one before it", model.parameters()[i].name);
      end += grad.numel();
    }
    if (begin >= 0) ranges.push_back(flat.elements(begin, end));
  }
  return ranges;
}

class StoredBucket final : public GradientBucket {
 public:
  StoredBucket(Communicator& communicator, std::vector<Tensor> ranges)
      : communicator_(communicator), ranges_(std::move(ranges)) {}
  void start(BucketPass) override {
    for (const Tensor& range : ranges_) under_way_.push_back(communicator_.start_all_reduce(range, Reduce::Sum));
  }
  void finish() override { under_way_.clear(); }  // waits

 private:
  Communicator& communicator_;
  std::vector<Tensor> ranges_;
  std::vector<Pending> under_way_;
};

class Bf16Bucket final : public GradientBucket {
 public:
  Bf16Bucket(Communicator& communicator, std::vector<Tensor> ranges)
      : communicator_(communicator), ranges_(std::move(ranges)) {
    for (const Tensor& range : ranges_) {
      const bool wide = range.dtype() == DType::F32;
      copies_.push_back(wide ? OwnedTensor(DType::BF16, {range.numel()}, range.device()) : OwnedTensor());
    }
  }
  void start(BucketPass) override {
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const bool wide = copies_[i].view().defined();
      if (wide) convert(ranges_[i], copies_[i]);
      under_way_.push_back(communicator_.start_all_reduce(wide ? copies_[i].view() : ranges_[i], Reduce::Sum));
    }
  }
  void finish() override {
    under_way_.clear();  // waits
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      if (copies_[i].view().defined()) convert(copies_[i], ranges_[i]);
    }
  }
  std::size_t bytes() const override {
    std::size_t total = 0;
    for (const OwnedTensor& copy : copies_) total += copy.view().bytes();
    return total;
  }

 private:
  Communicator& communicator_;
  std::vector<Tensor> ranges_;
  std::vector<OwnedTensor> copies_;  // of the ranges in F32
  std::vector<Pending> under_way_;
};

class Fp8Bucket final : public GradientBucket {
 public:
  Fp8Bucket(Communicator& communicator, Llama& model, std::size_t first, std::size_t last, const Fp8Sums& fp8)
      : communicator_(communicator), model_(model), fp8_(fp8) {
    std::int64_t codes = 0;
    std::int64_t vectors = 0;
    for (std::size_t i = first; i < last; ++i) {
      const Tensor& grad = model.parameters()[i].grad;
      if (grad.dims() == 2) {
        matrices_.push_back({i, codes});
        codes += (grad.numel() + kAlign - 1) / kAlign * kAlign;
      } else {
        vectors_.push_back({i, vectors});
        vectors += grad.numel();
      }
    }
    const std::int64_t ranks = communicator.size();
    piece_ = (codes + ranks * kAlign - 1) / (ranks * kAlign) * kAlign;
    const Device device = model.device();
    amaxes_ = OwnedTensor(DType::F32, {static_cast<std::int64_t>(matrices_.size())}, device);
    codes_ = OwnedTensor(DType::U8, {ranks * piece_}, device);  // what lies between tensors stays 0
    arrived_ = OwnedTensor(DType::U8, {ranks * piece_}, device);
    plain_ = OwnedTensor(DType::F32, {vectors}, device);
  }

  void start(BucketPass) override {
    step_ = 1;
    fill_zero(amaxes_);
    for (std::size_t m = 0; m < matrices_.size(); ++m) {
      const ArenaScope scope(model_.scratch());
      update_amax(wide(matrices_[m]), amax(m));
    }
    for (const Part& vector : vectors_) copy(grad(vector), place(vector, plain_));
    pending_ = communicator_.start_all_reduce(amaxes_, Reduce::Max);
    vectors_pending_ = communicator_.start_all_reduce(plain_, Reduce::Sum);
  }

  void advance() override {
    if (step_ == 1) {
      pending_.wait();
      for (std::size_t m = 0; m < matrices_.size(); ++m) {
        const ArenaScope scope(model_.scratch());
        encode_gradient(wide(matrices_[m]), amax(m), fp8_.scaling.divisor(), place(matrices_[m], codes_));
      }
      pending_ = communicator_.start_all_to_all(codes_, arrived_);
    } else if (step_ == 2) {
      pending_.wait();
      const Tensor piece = codes_.view().elements(communicator_.rank() * piece_, (communicator_.rank() + 1) * piece_);
      add_gradient_codes(arrived_, communicator_.size(), piece, fp8_.saturated);
      pending_ = communicator_.start_all_gather(piece, codes_);
    }
    if (step_ < 3) ++step_;
  }

  void finish() override {
    while (step_ < 3) advance();
    pending_.wait();
    vectors_pending_.wait();
    for (std::size_t m = 0; m < matrices_.size(); ++m) {
      const ArenaScope scope(model_.scratch());
      const Tensor sum = wide(matrices_[m], false);
      decode_gradient(place(matrices_[m], codes_), amax(m), fp8_.scaling.divisor(), sum);
      if (sum.raw() != grad(matrices_[m]).raw()) convert(sum, grad(matrices_[m]));
    }
    for (const Part& vector : vectors_) copy(place(vector, plain_), grad(vector));
  }

  std::size_t bytes() const override {
    return amaxes_.view().bytes() + codes_.view().bytes() + arrived_.view().bytes() + plain_.view().bytes();
  }

 private:
  static constexpr std::int64_t kAlign = 16;
  struct Part {
    std::size_t parameter;
    std::int64_t at;  // of its first element among all of its kind
  };
  Tensor grad(const Part& part) const {
    const Tensor& g = model_.parameters()[part.parameter].grad;
    return g.reshape({g.numel()});
  }
  Tensor place(const Part& part, const OwnedTensor& flat) const {
    return flat.view().elements(part.at, part.at + grad(part).numel());
  }
  Tensor amax(std::size_t m) const {
    return amaxes_.view().elements(static_cast<std::int64_t>(m), static_cast<std::int64_t>(m) + 1);
  }
  /// The gradient in F32: itself, or its copy (or room for one) in scratch memory where it is stored in BF16.
  Tensor wide(const Part& part, bool filled = true) const {
    const Tensor g = grad(part);
    if (g.dtype() == DType::F32) return g;
    const Tensor copy = model_.scratch().allocate(DType::F32, {g.numel()});
    if (filled) convert(g, copy);
    return copy;
  }

  Communicator& communicator_;
  Llama& model_;
  const Fp8Sums& fp8_;
  std::vector<Part> matrices_, vectors_;
  std::int64_t piece_ = 0;
  int step_ = 3;
  OwnedTensor amaxes_;   // F32, one a matrix
  OwnedTensor codes_;    // U8 [ranks * piece]: this rank's, then those of the sums
  OwnedTensor arrived_;  // U8 [ranks * piece]: all ranks' codes of this rank's piece
  OwnedTensor plain_;    // F32: the vectors
  Pending pending_, vectors_pending_;
};

}  // namespace

std::unique_ptr<GradientBucket> make_gradient_bucket(ExchangeFormat format, Communicator& communicator, Llama& model,
                                                     std::size_t first, std::size_t last, const Fp8Sums& fp8) {
  switch (format) {
    case ExchangeFormat::Stored: break;
    case ExchangeFormat::Bf16: return std::make_unique<Bf16Bucket>(communicator, ranges_of(model, first, last));
    case ExchangeFormat::Fp8: return std::make_unique<Fp8Bucket>(communicator, model, first, last, fp8);
  }
  return std::make_unique<StoredBucket>(communicator, ranges_of(model, first, last));
}

}  // namespace nibble
