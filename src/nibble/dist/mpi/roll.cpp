#include "nibble/dist/mpi/roll.h"

#include <algorithm>

#include "nibble/dist/operation.h"
#include "nibble/tensor/error.h"

namespace nibble::mpi {

namespace {

constexpr int kTag = 1;

std::string words(const Progress& p) {
  const char* name = operation_name(static_cast<Operation>(p.kind));
  return p.bytes > 0 ? fmt::format("{} of {} bytes", name, p.bytes) : name;
}

}  // namespace

std::string list_of_ranks(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const char* before = i == 0 ? " " : i + 1 < ranks.size() ? ", " : " and ";
    text += fmt::format("{}{}", before, ranks[i]);
  }
  return text;
}

Roll::Roll(const Functions& mpi) : mpi_(mpi) {
  check(mpi_, mpi_.dup(mpi_.world, &comm_), "duplicating MPI's communicator");
  mpi_.rank(comm_, &rank_);
  mpi_.size(comm_, &size_);
  for (std::size_t c = 0; c < kChannels; ++c) {
    heard_[c].resize(static_cast<std::size_t>(size_));
    told_[c].resize(static_cast<std::size_t>(size_));
    wanted_[c].resize(static_cast<std::size_t>(size_));
  }
  failed_.resize(static_cast<std::size_t>(size_));
  receive();
}

void Roll::began(const Progress& mine) {
  const std::lock_guard lock(mutex_);
  const auto c = static_cast<std::size_t>(mine.channel);
  mine_[c] = mine;
  history_[c][static_cast<std::size_t>(mine.number) % kHistory] = mine;
}

void Roll::receive() {
  check(mpi_, mpi_.irecv(&incoming_, sizeof(incoming_), mpi_.byte, MPI_ANY_SOURCE, kTag, comm_, &receiving_),
        "receiving the ranks' progress");
}

void Roll::send(int to, const Message& message) {
  sent_.push_back({message, mpi_.no_request});
  Sent& s = sent_.back();
  check(mpi_, mpi_.isend(&s.message, sizeof(s.message), mpi_.byte, to, kTag, comm_, &s.request),
        "telling this rank's progress");
}

void Roll::poll() {
  for (;;) {
    int done = 0;
    MPI_Status status;
    check(mpi_, mpi_.test(&receiving_, &done, &status), "receiving the ranks' progress");
    if (done == 0) break;
    const Message message = incoming_;
    const auto from = static_cast<std::size_t>(status.MPI_SOURCE);
    receive();
    if (message.failed != 0) {
      failed_[from] = message.failed;
      continue;
    }
    const std::lock_guard lock(mutex_);
    const auto c = static_cast<std::size_t>(message.progress.channel);
    heard_[c][from] = message.progress;
    if (message.asks != 0) wanted_[c][from] = message.progress.number;
  }
  for (std::size_t c = 0; c < kChannels; ++c) {
    for (int r = 0; r < size_; ++r) {
      const auto i = static_cast<std::size_t>(r);
      Message answer;
      {
        const std::lock_guard lock(mutex_);
        const std::int64_t wanted = wanted_[c][i];
        if (wanted == 0 || mine_[c].number < wanted) continue;
        wanted_[c][i] = 0;
        if (told_[c][i] == wanted) continue;
        told_[c][i] = wanted;
        // What this rank did under that number, where it is not long ago.
        const Progress& then = history_[c][static_cast<std::size_t>(wanted) % kHistory];
        answer.progress = then.number == wanted ? then : mine_[c];
      }
      send(r, answer);
    }
  }
  while (!sent_.empty()) {
    int done = 0;
    check(mpi_, mpi_.test(&sent_.front().request, &done, MPI_STATUS_IGNORE), "telling this rank's progress");
    if (done == 0) break;
    sent_.pop_front();
  }
}

void Roll::ask(std::int64_t channel) {
  const auto c = static_cast<std::size_t>(channel);
  Message question;
  question.asks = 1;
  {
    const std::lock_guard lock(mutex_);
    if (asked_[c] == mine_[c].number) return;
    asked_[c] = mine_[c].number;
    question.progress = mine_[c];
    std::fill(told_[c].begin(), told_[c].end(), mine_[c].number);
  }
  for (int r = 0; r < size_; ++r) {
    if (r != rank_) send(r, question);
  }
}

bool Roll::disagrees(std::size_t channel, std::size_t r) const {
  const Progress& mine = mine_[channel];
  const Progress& theirs = heard_[channel][r];
  return theirs.number == mine.number && (theirs.kind != mine.kind || theirs.bytes != mine.bytes);
}

bool Roll::all_known(std::int64_t channel, std::int64_t number) {
  const std::lock_guard lock(mutex_);
  const auto c = static_cast<std::size_t>(channel);
  bool all = true;
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (r != rank_ && disagrees(c, i)) return true;
    all = all && (r == rank_ || heard_[c][i].number >= number);
  }
  return all;
}

std::string Roll::verdict(std::int64_t channel, std::int64_t number) {
  const std::lock_guard lock(mutex_);
  const auto c = static_cast<std::size_t>(channel);
  const Progress& mine = mine_[c];
  std::vector<int> missing;
  for (int r = 0; r < size_; ++r) {
    const Progress& theirs = heard_[c][static_cast<std::size_t>(r)];
    if (r == rank_) continue;
    if (theirs.number < number) {
      missing.push_back(r);
    } else if (disagrees(c, static_cast<std::size_t>(r))) {
      return fmt::format("the ranks do not agree: as operation {} rank {} does {}, but rank {} does {}", number, rank_,
                         words(mine), r, words(theirs));
    }
  }
  if (missing.empty()) {
    return fmt::format("all ranks have joined {} (operation {}), but it does not finish: see the network between hosts",
                       words(mine), number);
  }
  return fmt::format("{} {} not joined {} (operation {}): hung, stopped or gone", list_of_ranks(missing),
                     missing.size() == 1 ? "has" : "have", words(mine), number);
}

int Roll::speaker(std::int64_t channel, std::int64_t number) {
  const std::lock_guard lock(mutex_);
  for (int r = 0; r < rank_; ++r) {
    if (heard_[static_cast<std::size_t>(channel)][static_cast<std::size_t>(r)].number >= number) return r;
  }
  return rank_;
}

void Roll::failed(std::uint64_t sentence) {
  failed_[static_cast<std::size_t>(rank_)] = sentence;
  Message message;
  message.failed = sentence;
  for (int r = 0; r < size_; ++r) {
    if (r != rank_) send(r, message);
  }
}

std::vector<int> Roll::failed_with(std::uint64_t sentence) const {
  std::vector<int> ranks;
  for (int r = 0; r < size_; ++r) {
    if (failed_[static_cast<std::size_t>(r)] == sentence) ranks.push_back(r);
  }
  return ranks;
}

void Roll::close() {
  mpi_.cancel(&receiving_);
  mpi_.wait(&receiving_, MPI_STATUS_IGNORE);
}

}  // namespace nibble::mpi
