// Communicator: what the ranks of a job do together. A rank is one process; rank r of `size` is the same process for
// every operation. All ranks call the same operations, with the same shapes, in the same order.
//
//   operation        from         to           what rank r has afterwards
//   all_reduce       x [n]        the same     x = x_0 + x_1 + ... (or the maximum), the same bits on every rank
//   reduce_scatter   [size * n]   [n]          piece r of the sum (or maximum) over ranks
//   all_gather       [n]          [size * n]   the pieces of all ranks, in the order of ranks
//   all_to_all       [size * n]   [size * n]   piece s is what rank s had as its piece r
//   broadcast        x [n]        the same     the root's x
//   barrier                                    every rank has come here
//
//                    F32    BF16                     F16    I32    U8
//   Sum              yes    yes, see below           no     yes    no
//   Max              yes    yes                      no     yes    yes
//   moves            yes    yes                      yes    yes    yes
//
// Everything is counted in elements in memory order; shapes do not matter. n may be 0 and is not limited to 2^31. Sums
// of I32 wrap around. U8 holds codes (E4M3, packed E2M1) or bytes: codes are not added, since a sum has no place in
// their format; FP8 gradients share a scale by an all_reduce Max of their amax, travel by all_to_all and are decoded
// and added in F32 by whoever owns the piece. For Max no value may be NaN: what stands for it (the amax rule says
// infinity) is put there before.
//
// Order of sums. On the CPU a sum over ranks is taken along the fixed binary tree ((x_0 + x_1) + (x_2 + x_3)) + ...,
// in F32, and rounded once to BF16. NCCL chooses its own order, which is the same from run to run on the same GPUs but
// depends on their number, and rounds BF16 after each addition. A sum that does not depend on the number of ranks at
// all is ordered_sum.h, on both.
//
// Overlap. start_* returns at once. On the CPU a thread of the communicator does the work; Pending::wait() waits for
// it. On the GPU the work is done on a stream of its own, behind all work that was given to the device before the call,
// and wait() makes all later work of the device wait: the CPU goes on. Between start and wait the tensors are neither
// written nor, where they are results, read. Operations are done in the order in which they are started.
//
// Faults. When a rank fails, is killed, or does not join an operation within the timeout (NIBBLE_DIST_TIMEOUT, seconds;
// 600), the job ends on every rank with a sentence that names the rank; no operation returns half done.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "nibble/tensor/tensor.h"

namespace nibble {

enum class Reduce : std::uint8_t { Sum, Max };

/// An operation under way. Waits when it goes out of scope.
class Pending {
 public:
  class Work {
   public:
    virtual ~Work() = default;
    virtual void wait() = 0;
  };

  Pending() = default;  ///< nothing to wait for
  explicit Pending(std::unique_ptr<Work> work) : work_(std::move(work)) {}
  Pending(Pending&&) noexcept = default;
  /// What was waited for here is waited for by `other`, at the latest when that goes out of scope.
  Pending& operator=(Pending&& other) noexcept {
    std::swap(work_, other.work_);
    return *this;
  }
  ~Pending() { wait(); }

  /// What was started is done, for all that the tensors' device does from now on.
  void wait() {
    if (work_ != nullptr) work_->wait();
    work_ = nullptr;
  }

 private:
  std::unique_ptr<Work> work_;
};

/// Where a process stands in its job.
struct Ranks {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  ///< among the ranks of this host
  int local_size = 1;
};

class Communicator {
 public:
  /// Tensors of all operations live on `device`.
  Communicator(const Ranks& ranks, Device device) : ranks_(ranks), device_(device) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return ranks_.rank; }
  int size() const { return ranks_.size; }
  int local_rank() const { return ranks_.local_rank; }
  int local_size() const { return ranks_.local_size; }
  const Ranks& ranks() const { return ranks_; }
  Device device() const { return device_; }
  virtual std::string name() const = 0;  ///< "one process", "MPI", "NCCL"
  /// Seconds so far in which this rank, or on a GPU its device, had nothing to do but to wait for an operation; on a
  /// GPU without waits that are not over. 0 where it is not known. On the thread that starts operations.
  virtual double waited() { return 0; }

  [[nodiscard]] Pending start_all_reduce(const Tensor& x, Reduce reduce);
  /// `to` may be this rank's piece of `from`. The rest of `from` is left as it is.
  [[nodiscard]] Pending start_reduce_scatter(const Tensor& from, const Tensor& to, Reduce reduce);
  /// `from` may be this rank's piece of `to`.
  [[nodiscard]] Pending start_all_gather(const Tensor& from, const Tensor& to);
  /// No overlap.
  [[nodiscard]] Pending start_all_to_all(const Tensor& from, const Tensor& to);
  [[nodiscard]] Pending start_broadcast(const Tensor& x, int root);

  void all_reduce(const Tensor& x, Reduce reduce) { start_all_reduce(x, reduce).wait(); }
  void reduce_scatter(const Tensor& from, const Tensor& to, Reduce reduce) {
    start_reduce_scatter(from, to, reduce).wait();
  }
  void all_gather(const Tensor& from, const Tensor& to) { start_all_gather(from, to).wait(); }
  void all_to_all(const Tensor& from, const Tensor& to) { start_all_to_all(from, to).wait(); }
  void broadcast(const Tensor& x, int root) { start_broadcast(x, root).wait(); }
  /// Every rank has come here, and on return all that it started is done on its device too.
  virtual void barrier() = 0;

  /// Ends the job on every rank: `sentence` is printed behind this rank's number and every process of the job exits,
  /// this one with `code`.
  [[noreturn]] virtual void abort(std::string_view sentence, int code) = 0;

 protected:
  // Arguments are checked, size() is more than 1 or the operation is a copy that the class makes anyway.
  virtual Pending do_all_reduce(const Tensor& x, Reduce reduce) = 0;
  virtual Pending do_reduce_scatter(const Tensor& from, const Tensor& to, Reduce reduce) = 0;
  virtual Pending do_all_gather(const Tensor& from, const Tensor& to) = 0;
  virtual Pending do_all_to_all(const Tensor& from, const Tensor& to) = 0;
  virtual Pending do_broadcast(const Tensor& x, int root) = 0;

 private:
  Ranks ranks_;
  Device device_;
};

/// A job of one process: every operation is a copy, or nothing.
std::unique_ptr<Communicator> make_single_process(Device device);

/// Calls f(communicator). An exception that leaves it on one rank ends the job on all of them, with its sentence and
/// the exit code of the program (2 for a UserError, 1 otherwise); a job of one process just throws on.
template <class F>
decltype(auto) on_every_rank(Communicator& communicator, F&& f) {
  try {
    return f(communicator);
  } catch (const UserError& e) {
    if (communicator.size() > 1) communicator.abort(e.what(), 2);
    throw;
  } catch (const std::exception& e) {
    if (communicator.size() > 1) communicator.abort(e.what(), 1);
    throw;
  }
}

}  // namespace nibble
