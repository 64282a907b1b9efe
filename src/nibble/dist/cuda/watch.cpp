#include "nibble/dist/cuda/watch.h"

#include <unistd.h>

#include <cstdio>

#include "nibble/tensor/cuda/runtime.h"

namespace nibble::nccl {

namespace {

constexpr auto kLook = std::chrono::milliseconds(100);
/// How long after the timeout answers of other ranks are waited for.
constexpr double kListen = 1;

bool reached(const Event& event) {
  const cudaError_t status = cudaEventQuery(event.get());
  if (status == cudaErrorNotReady) return false;
  cuda::check(status, "an operation of all ranks");
  return true;
}

}  // namespace

Event::Event() { cuda::check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "creating an event"); }
Event::~Event() { cudaEventDestroy(event_); }

Watch::Watch(const Functions& nccl, const Ranks& ranks, int device, double timeout, mpi::RollCall* roll_call)
    : nccl_(nccl), ranks_(ranks), device_(device), timeout_(timeout), roll_call_(roll_call), thread_([this] {
        run();
      }) {}

Watch::~Watch() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Watch::joining(bool now) {
  const std::lock_guard lock(mutex_);
  joining_ = now;
}

void Watch::begins(Operation operation, std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  entries_.push_back({++number_, operation, bytes, nullptr, nullptr});
  if (roll_call_ != nullptr) roll_call_->began(number_, static_cast<int>(operation), bytes);
}

void Watch::given(std::shared_ptr<Event> ready, std::shared_ptr<Event> done) {
  const std::lock_guard lock(mutex_);
  entries_.back().ready = std::move(ready);
  entries_.back().done = std::move(done);
}

bool Watch::first_runs() {
  while (!entries_.empty() && entries_.front().done && reached(*entries_.front().done)) entries_.pop_front();
  if (entries_.empty()) return joining_;
  return !entries_.front().done || reached(*entries_.front().ready);
}

void Watch::run() {
  try {
    cuda::check(cudaSetDevice(device_), "choosing the GPU");
    // Another thread may be capturing a graph, which the default mode takes for a reason to refuse queries.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cuda::check(cudaThreadExchangeStreamCaptureMode(&mode), "preparing the watch");
    std::int64_t watched = -1;
    Clock::time_point since = Clock::now();
    std::unique_lock lock(mutex_);
    while (!ending_) {
      wake_.wait_for(lock, kLook, [&] { return ending_; });
      Result error = Result::Success;
      if (const Comm comm = comm_) nccl_.async_error(comm, &error);
      if (error != Result::Success && error != Result::InProgress) {
        end_job(
            fmt::format("NCCL reports: {}; another rank has failed or left, or the way to it is broken; the job ends",
                        nccl_.error_string(error)),
            1);
      }
      const bool runs = first_runs();
      const std::int64_t first = entries_.empty() ? 0 : entries_.front().number;
      if (!runs || first != watched) {
        watched = runs ? first : -1;
        since = Clock::now();
        continue;
      }
      const double waited = std::chrono::duration<double>(Clock::now() - since).count();
      if (waited >= timeout_ / 2 && roll_call_ != nullptr) roll_call_->ask();
      if (waited < timeout_ + (roll_call_ != nullptr ? kListen : 0)) continue;
      if (entries_.empty()) {
        end_job(
            fmt::format("not all of {} ranks have come to join NCCL after {:g} s; the job ends", ranks_.size, timeout_),
            1);
      }
      give_up(entries_.front());
    }
  } catch (const std::exception& e) {
    end_job(e.what(), 1);
  }
}

void Watch::give_up(const Entry& entry) {
  const std::string who =
      roll_call_ != nullptr
          ? roll_call_->verdict(entry.number)
          : fmt::format(
                "{} of {} bytes (operation {}) does not finish: a rank that says nothing like this has not "
                "joined it",
                operation_name(entry.operation), entry.bytes, entry.number);
  end_job(fmt::format("{} (after {:g} s); the job ends", who, timeout_), 1);
}

// The GPU may be busy for ever with an operation that cannot end, so nothing is freed: the process just goes, and NCCL
// on the other ranks, or whoever started the job, notices.
void Watch::end_job(std::string_view sentence, int code) {
  std::fprintf(stderr, "nibble: rank %d: %.*s\n", ranks_.rank, static_cast<int>(sentence.size()), sentence.data());
  std::fflush(nullptr);
  _exit(code);
}

}  // namespace nibble::nccl
