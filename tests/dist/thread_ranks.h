// Ranks that are threads of one process, for properties over many numbers of ranks: only what ordered_sum.h uses.
#pragma once

#include <barrier>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "nibble/dist/communicator.h"

namespace nibble::testing_support {

class ThreadRank final : public Communicator {
 public:
  struct Meeting {
    explicit Meeting(int ranks) : barrier(ranks), sent(static_cast<std::size_t>(ranks)) {}
    std::barrier<> barrier;
    std::vector<Tensor> sent;
  };
  ThreadRank(int rank, int size, Meeting& meeting) : Communicator({rank, size, rank, size}, Device::Cpu), m_(meeting) {}
  std::string name() const override { return "threads"; }
  void barrier() override { m_.barrier.arrive_and_wait(); }
  [[noreturn]] void abort(std::string_view sentence, int) override { throw InternalError(std::string(sentence)); }
  std::int64_t moved = 0;  ///< bytes that went to other ranks

 protected:
  Pending do_all_to_all(const Tensor& from, const Tensor& to) override {
    moved += static_cast<std::int64_t>(from.bytes()) / size() * (size() - 1);
    exchange(
        from,
        [&](std::size_t r, const Tensor& theirs, std::size_t part) {
          std::memcpy(static_cast<std::byte*>(to.raw()) + r * part,
                      static_cast<const std::byte*>(theirs.raw()) + static_cast<std::size_t>(rank()) * part, part);
        },
        from.bytes() / static_cast<std::size_t>(size()));
    return {};
  }
  Pending do_all_gather(const Tensor& from, const Tensor& to) override {
    exchange(
        from,
        [&](std::size_t r, const Tensor& theirs, std::size_t part) {
          std::memcpy(static_cast<std::byte*>(to.raw()) + r * part, theirs.raw(), part);
        },
        from.bytes());
    return {};
  }
  Pending do_all_reduce(const Tensor&, Reduce) override { throw InternalError("not here"); }
  Pending do_reduce_scatter(const Tensor&, const Tensor&, Reduce) override { throw InternalError("not here"); }
  Pending do_broadcast(const Tensor&, int) override { throw InternalError("not here"); }

 private:
  template <class Take>
  void exchange(const Tensor& from, Take&& take, std::size_t part) {
    m_.sent[static_cast<std::size_t>(rank())] = from;
    m_.barrier.arrive_and_wait();
    for (std::size_t r = 0; part > 0 && r < m_.sent.size(); ++r) take(r, m_.sent[r], part);
    m_.barrier.arrive_and_wait();
  }
  Meeting& m_;
};

/// Calls f(communicator) on `size` threads.
inline void on_thread_ranks(int size, const std::function<void(ThreadRank&)>& f) {
  ThreadRank::Meeting meeting(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      ThreadRank rank(r, size, meeting);
      f(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace nibble::testing_support
