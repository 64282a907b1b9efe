#include "nibble/train/gradient_exchange.h"

#include "nibble/ops/reduce.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

/// The run of `flat` that holds the gradients of parameters [first, last), which lie in it one behind the other;
/// undefined where it holds none of them.
Tensor range_of(const Tensor& flat, const std::vector<Parameter>& parameters, std::size_t first, std::size_t last) {
  const auto* base = static_cast<const std::byte*>(flat.raw());
  const auto size = static_cast<std::int64_t>(dtype_size(flat.dtype()));
  std::int64_t begin = -1;
  std::int64_t end = -1;
  for (std::size_t i = first; i < last; ++i) {
    const Tensor& grad = parameters[i].grad;
    if (grad.dtype() != flat.dtype()) continue;
    const std::int64_t at = (static_cast<const std::byte*>(grad.raw()) - base) / size;
    if (begin < 0) begin = end = at;
    require(at == end, "the gradient of {} does not follow the one before it", parameters[i].name);
    end += grad.numel();
  }
  return begin < 0 ? Tensor() : flat.elements(begin, end);
}

Tensor piece_of(const Tensor& flat, const Communicator& communicator) {
  const std::int64_t n = flat.numel() / communicator.size();
  return flat.elements(communicator.rank() * n, (communicator.rank() + 1) * n);
}

}  // namespace

GradientExchange::GradientExchange(Communicator& communicator, Llama& model, std::int64_t micro_batches, bool ordered)
    : communicator_(communicator),
      model_(model),
      mine_(positions_of(communicator.rank(), communicator.size(), micro_batches)),
      micro_batches_(micro_batches),
      ordered_(ordered && micro_batches > 1) {
  if (micro_batches < communicator.size()) {
    user_error(
        "a step of {} micro-batches cannot be shared by {} ranks: start fewer ranks, or set a smaller "
        "train.micro_batch or a larger train.batch",
        micro_batches, communicator.size());
  }
  if (!ordered_) return;
  for (const Tensor& flat : model.padded_grads()) {
    sums_.emplace_back(communicator, micro_batches, flat.numel(), flat.dtype());
  }
}

Llama::GradientsReady GradientExchange::ready(std::int64_t position) {
  if (ordered_ || communicator_.size() == 1 || position + 1 < mine_.end) return {};
  return [this](std::size_t first, std::size_t last) {
    for (const Tensor& flat : model_.padded_grads()) {
      const Tensor range = range_of(flat, model_.parameters(), first, last);
      if (range.defined()) under_way_.push_back(communicator_.start_all_reduce(range, Reduce::Sum));
    }
  };
}

void GradientExchange::passed() {
  if (!ordered_) return;
  const std::vector<Tensor> flats = model_.padded_grads();
  for (std::size_t i = 0; i < flats.size(); ++i) sums_[i].add(flats[i]);
  add_observed();
}

void GradientExchange::finish() {
  if (ordered_) {
    const std::vector<Tensor> flats = model_.padded_grads();
    for (OrderedSum& sum : sums_) sum.start_exchange();
    for (std::size_t i = 0; i < flats.size(); ++i) {
      const Tensor piece = piece_of(flats[i], communicator_);
      sums_[i].finish(piece);
      under_way_.push_back(communicator_.start_all_gather(piece, flats[i]));
    }
  }
  under_way_.clear();  // waits
  share_observed();
}

/// Packs what the layers counted of one pass, which they then forget.
void GradientExchange::add_observed() {
  const std::vector<Tensor> counts = model_.observed();
  if (counts.empty()) return;
  std::int64_t numel = 0;
  for (const Tensor& count : counts) numel += count.numel();
  const std::int64_t ranks = communicator_.size();
  const std::int64_t padded = (numel + ranks - 1) / ranks * ranks;
  if (observed_.view().numel() != padded) {
    observed_ = OwnedTensor(DType::F32, {padded}, model_.device());
    observed_sum_.clear();
    if (ordered_) observed_sum_.emplace_back(communicator_, micro_batches_, padded, DType::F32);
  }
  std::int64_t at = 0;
  for (const Tensor& count : counts) {
    copy(count, observed_.view().elements(at, at + count.numel()));
    fill_zero(count);
    at += count.numel();
  }
  if (ordered_) observed_sum_.front().add(observed_);
}

void GradientExchange::share_observed() {
  if (!ordered_ && communicator_.size() == 1) return;
  const std::vector<Tensor> counts = model_.observed();
  if (counts.empty()) return;
  if (ordered_) {
    observed_sum_.front().start_exchange();
    observed_sum_.front().finish(piece_of(observed_, communicator_));
    communicator_.all_gather(piece_of(observed_, communicator_), observed_);
  } else {
    add_observed();
    communicator_.all_reduce(observed_, Reduce::Sum);
  }
  std::int64_t at = 0;
  for (const Tensor& count : counts) {
    copy(observed_.view().elements(at, at + count.numel()), count);
    at += count.numel();
  }
}

std::size_t GradientExchange::bytes() const {
  std::size_t total = observed_.view().bytes();
  for (const OrderedSum& sum : sums_) total += sum.bytes();
  for (const OrderedSum& sum : observed_sum_) total += sum.bytes();
  return total;
}

}  // namespace nibble
