// Ranks that are threads of one process, for properties over many numbers of ranks.
#pragma once

#include <algorithm>
#include <barrier>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
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
  std::int64_t moved = 0;     ///< bytes that went to other ranks by all_to_all
  std::int64_t gathered = 0;  ///< bytes that came from other ranks by all_gather
  std::int64_t reduced = 0;   ///< bytes of what was reduced
  /// An all_gather is done when it is waited for, in the order of waits: whoever reads too early reads what was there.
  bool late = false;

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
    gathered += static_cast<std::int64_t>(from.bytes()) * (size() - 1);
    if (late) return Pending(std::make_unique<LateGather>(*this, from, to));
    gather(from, to);
    return {};
  }
  /// F32 and BF16 in the order of ranks, and I32.
  Pending do_all_reduce(const Tensor& x, Reduce reduce) override {
    reduced += static_cast<std::int64_t>(x.bytes());
    if (x.dtype() == DType::I32) {
      std::vector<std::int32_t> result(static_cast<std::size_t>(x.numel()));
      exchange(
          x,
          [&](std::size_t r, const Tensor& theirs, std::size_t) {
            const auto* from = theirs.data<std::int32_t>();
            for (std::size_t i = 0; i < result.size(); ++i) {
              result[i] = r == 0 ? from[i] : reduce == Reduce::Sum ? result[i] + from[i] : std::max(result[i], from[i]);
            }
          },
          x.bytes());
      std::copy(result.begin(), result.end(), x.data<std::int32_t>());
      return {};
    }
    std::vector<float> result(static_cast<std::size_t>(x.numel()));
    dispatch_float(x.dtype(), [&]<class T>(T*) {
      exchange(
          x,
          [&](std::size_t r, const Tensor& theirs, std::size_t) {
            const T* from = theirs.data<T>();
            for (std::size_t i = 0; i < result.size(); ++i) {
              const float v = to_float(from[i]);
              result[i] = r == 0 ? v : reduce == Reduce::Sum ? result[i] + v : std::max(result[i], v);
            }
          },
          x.bytes());
      for (std::size_t i = 0; i < result.size(); ++i) x.data<T>()[i] = from_float<T>(result[i]);
    });
    return {};
  }
  /// This rank's part of what an all_reduce gives.
  Pending do_reduce_scatter(const Tensor& from, const Tensor& to, Reduce reduce) override {
    OwnedTensor sum(from.dtype(), {from.numel()});
    std::memcpy(sum.view().raw(), from.raw(), from.bytes());
    do_all_reduce(sum, reduce);
    const auto* piece = static_cast<const std::byte*>(sum.view().raw()) + static_cast<std::size_t>(rank()) * to.bytes();
    std::memcpy(to.raw(), piece, to.bytes());
    return {};
  }
  Pending do_broadcast(const Tensor&, int) override { throw InternalError("not here"); }

 private:
  struct LateGather final : Pending::Work {
    LateGather(ThreadRank& r, const Tensor& f, const Tensor& t) : rank(r), from(f), to(t) {}
    void wait() override { rank.gather(from, to); }
    ThreadRank& rank;
    Tensor from;
    Tensor to;
  };
  void gather(const Tensor& from, const Tensor& to) {
    exchange(
        from,
        [&](std::size_t r, const Tensor& theirs, std::size_t part) {
          std::memmove(static_cast<std::byte*>(to.raw()) + r * part, theirs.raw(), part);
        },
        from.bytes());
  }
  template <class Take>
  void exchange(const Tensor& from, Take&& take, std::size_t part) {
    m_.sent[static_cast<std::size_t>(rank())] = from;
    m_.barrier.arrive_and_wait();
    for (std::size_t r = 0; part > 0 && r < m_.sent.size(); ++r) take(r, m_.sent[r], part);
    m_.barrier.arrive_and_wait();
  }
  Meeting& m_;
};

/// Calls f(communicator) on `size` threads. What leaves it on every rank is thrown on: an exception on one rank alone
/// would leave the others waiting.
inline void on_thread_ranks(int size, const std::function<void(ThreadRank&)>& f) {
  ThreadRank::Meeting meeting(size);
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size));
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      ThreadRank rank(r, size, meeting);
      try {
        f(rank);
      } catch (...) {
        errors[static_cast<std::size_t>(r)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace nibble::testing_support
