#include "nibble/train/gradient_exchange.h"

#include "nibble/ops/reduce.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

Tensor piece_of(const Tensor& flat, const Communicator& communicator) {
  const std::int64_t n = flat.numel() / communicator.size();
  return flat.elements(communicator.rank() * n, (communicator.rank() + 1) * n);
}

}  // namespace

GradientExchange::GradientExchange(Communicator& communicator, Llama& model, std::int64_t micro_batches, bool ordered,
                                   ExchangeFormat format)
    : communicator_(communicator),
      model_(model),
      mine_(positions_of(communicator.rank(), communicator.size(), micro_batches)),
      micro_batches_(micro_batches),
      ordered_(ordered && micro_batches > 1),
      format_(format),
      saturated_(DType::I32, {1}, model.device()) {
  if (ordered && format != ExchangeFormat::Stored) {
    user_error(
        "train.exchange rounds otherwise on each number of ranks, and train.deterministic is to be the same on all: "
        "leave one of them out");
  }
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
  if (format_ == ExchangeFormat::Fp8) fill_zero(saturated_);
  return [this](std::size_t first, std::size_t last) {
    if (started_ == buckets_.size()) {
      buckets_.push_back(make_gradient_bucket(format_, communicator_, model_, first, last, saturated_));
    }
    for (std::size_t i = 0; i < started_; ++i) buckets_[i]->advance();
    buckets_[started_++]->start();
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
  for (std::size_t i = 0; i < started_; ++i) buckets_[i]->finish();
  started_ = 0;
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

std::int64_t GradientExchange::saturated() const {
  std::int32_t count = 0;
  copy(saturated_, Tensor::of(&count, {1}));
  return count;
}

std::size_t GradientExchange::bytes() const {
  std::size_t total = observed_.view().bytes();
  for (const auto& bucket : buckets_) total += bucket->bytes();
  for (const OrderedSum& sum : sums_) total += sum.bytes();
  for (const OrderedSum& sum : observed_sum_) total += sum.bytes();
  return total;
}

}  // namespace nibble
