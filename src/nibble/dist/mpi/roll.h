// Who has come how far: short messages between ranks that flow only when somebody has waited long.
//
//   a rank that has waited for half the timeout asks everyone        ask(channel, number)
//   whoever has begun that operation, or begins it later, answers    answer(channel, number, kind, bytes)
//   at the timeout those who did not answer are named                verdict()
//
// Each rank's communication thread answers while its other threads compute, hang or wait. So a rank that has not
// answered has not called the operation, or its process is stopped or gone. Nothing is sent while all goes well.
//
// A rank that fails tells all others a number that stands for its sentence, so that of those that fail alike, as all do
// by a bad setting, one speaks.
#pragma once

#include <array>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "nibble/dist/mpi/functions.h"

namespace nibble::mpi {

/// An operation of a rank. Channel 0 counts MPI's, channel 1 another library's.
struct Progress {
  std::int64_t channel = 0;
  std::int64_t number = 0;  ///< from 1; 0 = none yet
  std::int64_t kind = 0;    ///< Operation
  std::int64_t bytes = 0;
};

/// "rank 2", "ranks 0, 1 and 3"
std::string list_of_ranks(const std::vector<int>& ranks);

class Roll {
 public:
  static constexpr std::size_t kChannels = 2;
  /// Operations that a rank can still tell about: it may be ahead of whoever asks.
  static constexpr std::size_t kHistory = 64;

  /// On the thread that MPI belongs to, as poll, ask and close.
  explicit Roll(const Functions& mpi);
  /// This rank has begun an operation; any thread.
  void began(const Progress& mine);
  /// Takes what has come and answers it.
  void poll();
  /// Asks all other ranks, once an operation, about the one that this rank began last.
  void ask(std::int64_t channel);
  /// Says which ranks have not begun operation `number`, or are in another one; any thread.
  std::string verdict(std::int64_t channel, std::int64_t number);
  /// Every other rank has begun it or a later one, or is known to be in another one under its number; any thread.
  bool all_known(std::int64_t channel, std::int64_t number);
  /// The lowest of the ranks that have begun it: who speaks for all. Any thread.
  int speaker(std::int64_t channel, std::int64_t number);
  /// This rank ends the job with a sentence that `sentence` stands for (not 0): tells all others. On the thread.
  void failed(std::uint64_t sentence);
  /// The ranks that are known to have failed with it, in their order. On the thread.
  std::vector<int> failed_with(std::uint64_t sentence) const;
  void close();

 private:
  struct Message {
    Progress progress;
    std::int64_t asks = 0;
    std::uint64_t failed = 0;
  };
  struct Sent {
    Message message;
    MPI_Request request;
  };
  /// Rank r is in another operation than this one under the same number; under the lock.
  bool disagrees(std::size_t channel, std::size_t r) const;
  void receive();
  void send(int to, const Message& message);

  const Functions& mpi_;
  MPI_Comm comm_{};
  int rank_ = 0;
  int size_ = 1;
  Message incoming_;
  MPI_Request receiving_{};
  std::deque<Sent> sent_;
  std::array<std::int64_t, kChannels> asked_{};  // number of the last operation that was asked about
  std::vector<std::uint64_t> failed_;            // of each rank: what stands for its sentence

  std::mutex mutex_;  // what follows is read and written from several threads
  std::array<Progress, kChannels> mine_{};
  std::array<std::array<Progress, kHistory>, kChannels> history_{};
  std::array<std::vector<Progress>, kChannels> heard_;              // what each rank said last
  std::array<std::vector<std::int64_t>, kChannels> told_, wanted_;  // numbers: told to a rank, asked for by it
};

}  // namespace nibble::mpi
