// Watches over operations of a GPU: NCCL's own errors, and the time that each operation takes.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "nibble/dist/backends.h"
#include "nibble/dist/cuda/nccl_functions.h"
#include "nibble/dist/operation.h"

namespace nibble::nccl {

/// An event, given back to CUDA when nobody looks at it any more.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A thread that ends the job when an operation is not done within the timeout or NCCL reports an error. The time of an
/// operation begins when the one before it is done and the GPU has come to it.
class Watch {
 public:
  /// `roll_call` may be null: then the sentence cannot name the rank that hangs.
  Watch(const Functions& nccl, const Ranks& ranks, int device, double timeout, mpi::RollCall* roll_call);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// While ranks are joined there is no communicator, and no event.
  void joining(bool now);
  void joined(Comm comm) { comm_ = comm; }
  /// Before an operation is given to the GPU, which may itself wait for other ranks.
  void begins(Operation operation, std::int64_t bytes);
  /// After that: it runs once `ready` is reached and is done with `done`.
  void given(std::shared_ptr<Event> ready, std::shared_ptr<Event> done);
  /// Ends the job; any thread.
  [[noreturn]] void end_job(std::string_view sentence, int code);

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    std::int64_t number = 0;
    Operation operation = Operation::Barrier;
    std::int64_t bytes = 0;
    std::shared_ptr<Event> ready, done;  // null while the call is under way
  };

  void run();
  /// Under the lock: drops what is done, and says whether the first of the rest runs (or is being called).
  bool first_runs();
  void give_up(const Entry& entry);

  const Functions& nccl_;
  Ranks ranks_;
  int device_;
  double timeout_;
  mpi::RollCall* roll_call_;
  std::atomic<Comm> comm_ = nullptr;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Entry> entries_;
  std::int64_t number_ = 0;
  bool joining_ = false;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace nibble::nccl
