// The thread that MPI belongs to: it starts MPI, does one operation after the other, watches over the time that each
// takes, and ends MPI. So MPI_THREAD_FUNNELED is enough, and operations overlap with whatever other threads do.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "nibble/dist/communicator.h"
#include "nibble/dist/mpi/functions.h"
#include "nibble/dist/mpi/roll.h"
#include "nibble/dist/operation.h"

namespace nibble::mpi {

class Worker {
 public:
  /// Returns when MPI has started; throws what went wrong there.
  explicit Worker(double timeout);
  /// All ranks have come to their end, or this one is unwinding: then the job ends.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  const Ranks& ranks() const { return ranks_; }
  const Functions& mpi() const { return *mpi_; }
  Roll& roll() { return *roll_; }
  /// Seconds in which `wait` was called of what `start` gave.
  double waited() const { return *waited_; }

  /// Does `work` on the thread in its turn; `bytes` are those that all ranks agree on.
  Pending start(Operation operation, std::int64_t bytes, std::function<void()> work);
  /// Within work: waits for a request that MPI gave. Ends the job when that takes longer than the timeout.
  void finish(MPI_Request& request);
  /// Asks the ranks how far they are in channel 1, soon.
  void ask_other() { ask_other_ = true; }
  /// Ends the job on all ranks; any thread. Of ranks that do so with the same sentence the lowest says it, for all.
  [[noreturn]] void abort(std::string_view sentence, int code);

 private:
  struct Job {
    Operation operation;
    std::int64_t bytes;
    std::function<void()> work;
    std::promise<void> done;
  };
  class Done;

  void start_mpi();
  void run(std::promise<void>& started);
  /// What is due whenever the thread has a moment.
  void look_around();
  void give_up_if_late(double waited);
  [[noreturn]] void fail(const std::string& words);
  /// After the others had the time to fail alike.
  [[noreturn]] void end_job_together(const std::string& sentence, int code);
  [[noreturn]] void end_job(std::string_view sentence, int code);
  [[noreturn]] void end_job(const std::vector<int>& who, std::string_view sentence, int code);

  double timeout_;
  std::shared_ptr<double> waited_ = std::make_shared<double>(0);  // of the thread that waits
  std::optional<Functions> mpi_;
  std::optional<Roll> roll_;
  Ranks ranks_;
  std::int64_t number_ = 0;  // of the operation under way
  std::atomic<bool> ask_other_ = false;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  std::string last_words_;
  int exit_code_ = 1;
  std::atomic<bool> aborting_ = false;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace nibble::mpi
