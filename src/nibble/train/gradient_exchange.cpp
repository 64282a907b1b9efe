#include "nibble/train/gradient_exchange.h"

#include "nibble/ops/reduce.h"
#include "nibble/tensor/device.h"
#include "nibble/train/piece_bucket.h"

namespace nibble {

namespace {

Tensor piece_of(const Tensor& flat, const Communicator& communicator) {
  const std::int64_t n = flat.numel() / communicator.size();
  return flat.elements(communicator.rank() * n, (communicator.rank() + 1) * n);
}

}  // namespace

GradientExchange::GradientExchange(Communicator& communicator, Llama& model, std::int64_t micro_batches, bool ordered,
                                   ExchangeFormat format, ExchangeScaling scaling)
    : communicator_(communicator),
      model_(model),
      mine_(positions_of(communicator.rank(), communicator.size(), micro_batches)),
      micro_batches_(micro_batches),
      ordered_(ordered && micro_batches > 1),
      format_(format),
      zero_(model.storage().shares(1) ? model.storage().zero : 0),
      fp8_{OwnedTensor(DType::I32, {1}, model.device()), GradientScaling(scaling, communicator.size())} {
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
  if (zero_ > 0) {
    for (int i = 0; i < 3; ++i) memory_.emplace_back(model.device());  // see the picture above
    for (std::size_t b = 0; b < model.gradient_buckets().size(); ++b) {
      const ParameterRange& range = model.gradient_buckets()[b];
      Arena& memory = memory_[b % memory_.size()];
      buckets_.push_back(ordered_ ? make_ordered_bucket(communicator, model, range, memory, micro_batches)
                                  : make_piece_bucket(format, communicator, model, range, memory, fp8_));
    }
  } else if (ordered_) {
    for (const Tensor& flat : model.padded_grads()) {
      sums_.emplace_back(communicator, micro_batches, flat.numel(), flat.dtype());
    }
  }
}

void GradientExchange::begin() {
  if (format_ == ExchangeFormat::Fp8) fill_zero(fp8_.saturated);
  if (!lacks_pass()) return;
  const bool sends_zeros = zero_ >= 2 && !ordered_;
  model_.accompany(sends_zeros ? ready_pieces({.first = true, .last = false}) : Llama::GradientsReady());
  finish_pieces();
}

Llama::GradientsReady GradientExchange::ready(std::int64_t position) {
  const bool last = position + 1 == mine_.end;
  if (zero_ >= 2 || (zero_ == 1 && (ordered_ || last))) {
    // Where gradients last, passes that are not ordered have added to them: their exchange is the only one.
    const bool only = zero_ == 1 && !ordered_;
    const bool sent_zeros = lacks_pass() && !ordered_;
    return ready_pieces({.first = only || (position == mine_.begin && !sent_zeros), .last = last});
  }
  if (zero_ == 1 || ordered_ || communicator_.size() == 1 || !last) return {};
  return [this](std::size_t bucket) {
    if (bucket == buckets_.size()) {
      const ParameterRange& range = model_.gradient_buckets()[bucket];
      buckets_.push_back(make_gradient_bucket(format_, communicator_, model_, range.first, range.last, fp8_));
    }
    for (std::size_t i = 0; i < bucket; ++i) buckets_[i]->advance();
    buckets_[bucket]->start({});
    started_ = bucket + 1;
  };
}

Llama::GradientsReady GradientExchange::ready_pieces(BucketPass pass) {
  return [this, pass](std::size_t bucket) {
    buckets_[bucket]->start(pass);
    started_ = bucket + 1;
    if (bucket >= 1) buckets_[bucket - 1]->advance();
    if (bucket >= 2) buckets_[bucket - 2]->finish();
  };
}

void GradientExchange::finish_pieces() {
  for (std::size_t i = started_ < 2 ? 0 : started_ - 2; i < started_; ++i) buckets_[i]->finish();
  started_ = 0;
}

void GradientExchange::passed() {
  if (zero_ > 0) {
    finish_pieces();
  } else if (ordered_) {
    const std::vector<Tensor> flats = model_.padded_grads();
    for (std::size_t i = 0; i < flats.size(); ++i) sums_[i].add(flats[i]);
  }
  if (ordered_) add_observed();
}

void GradientExchange::finish() {
  if (ordered_ && zero_ == 0) {
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
  copy(fp8_.saturated, Tensor::of(&count, {1}));
  return count;
}

std::size_t GradientExchange::bytes() const {
  std::size_t total = observed_.view().bytes();
  for (const Arena& memory : memory_) total += memory.peak_bytes();
  for (const auto& bucket : buckets_) total += bucket->bytes();
  for (const OrderedSum& sum : sums_) total += sum.bytes();
  for (const OrderedSum& sum : observed_sum_) total += sum.bytes();
  return total;
}

}  // namespace nibble
