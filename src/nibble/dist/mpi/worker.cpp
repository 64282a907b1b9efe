#include "nibble/dist/mpi/worker.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>

namespace nibble::mpi {

using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A message between processes of a host takes some microseconds. Ranks often share cores, so the thread gives way from
/// the start, and sleeps when what it waits for takes longer than a step's small operations do.
constexpr double kYieldFor = 1e-3;
constexpr auto kSleep = std::chrono::microseconds(50);
/// How often an idle thread looks whether others ask for it; also lets MPI move what it has buffered.
constexpr auto kIdle = std::chrono::milliseconds(20);
/// How much later the ranks that do not speak for all end by themselves.
constexpr double kGrace = 2;
/// How long a rank whose operation failed listens to the others before it says so.
constexpr double kListen = 3;
/// How long a rank that failed waits for others to fail alike: they have read the same settings and files.
constexpr double kSettle = 1;
constexpr auto kAbortWithin = std::chrono::seconds(10);

}  // namespace

class Worker::Done final : public Pending::Work {
 public:
  Done(std::future<void> done, std::shared_ptr<double> waited) : done_(std::move(done)), waited_(std::move(waited)) {}
  void wait() override {
    const Clock::time_point start = Clock::now();
    done_.wait();
    *waited_ += seconds_since(start);
  }

 private:
  std::future<void> done_;
  std::shared_ptr<double> waited_;
};

Worker::Worker(double timeout) : timeout_(timeout) {
  std::promise<void> started;
  std::future<void> running = started.get_future();
  thread_ = std::thread([this, &started] { run(started); });
  try {
    running.get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

Worker::~Worker() {
  if (std::uncaught_exceptions() > 0 && ranks_.size > 1) abort("an error ends the job", 1);
  if (ranks_.size > 1) {
    start(Operation::End, 0, [this] {
      MPI_Request request;
      check(*mpi_, mpi_->ibarrier(mpi_->world, &request), "the end of the job");
      finish(request);
    }).wait();
  }
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Pending Worker::start(Operation operation, std::int64_t bytes, std::function<void()> work) {
  Job job{operation, bytes, std::move(work), {}};
  std::future<void> done = job.done.get_future();
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
  return Pending(std::make_unique<Done>(std::move(done), waited_));
}

void Worker::start_mpi() {
  mpi_.emplace();
  int provided = 0;
  check(*mpi_, mpi_->init(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "starting MPI");
  if (provided < MPI_THREAD_FUNNELED) {
    user_error("this MPI cannot be used beside threads: build Open MPI with threads, as the distributions do");
  }
  check(*mpi_, mpi_->set_errhandler(mpi_->world, mpi_->errors_return), "preparing MPI");
  check(*mpi_, mpi_->rank(mpi_->world, &ranks_.rank), "asking for this rank");
  check(*mpi_, mpi_->size(mpi_->world, &ranks_.size), "asking for the ranks");
  MPI_Comm host{};
  check(*mpi_, mpi_->split_type(mpi_->world, MPI_COMM_TYPE_SHARED, 0, mpi_->no_info, &host),
        "finding the host's ranks");
  check(*mpi_, mpi_->rank(host, &ranks_.local_rank), "finding the host's ranks");
  check(*mpi_, mpi_->size(host, &ranks_.local_size), "finding the host's ranks");
  check(*mpi_, mpi_->comm_free(&host), "finding the host's ranks");
  roll_.emplace(*mpi_);
}

void Worker::run(std::promise<void>& started) {
  try {
    start_mpi();
  } catch (...) {
    started.set_exception(std::current_exception());
    return;
  }
  started.set_value();
  try {
    for (;;) {
      std::optional<Job> job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait_for(lock, kIdle, [&] { return !jobs_.empty() || ending_ || aborting_; });
        if (!jobs_.empty()) {
          job = std::move(jobs_.front());
          jobs_.pop_front();
        } else if (ending_) {
          break;
        }
      }
      if (job) {
        roll_->began({0, ++number_, static_cast<std::int64_t>(job->operation), job->bytes});
        look_around();
        job->work();
        job->done.set_value();
      } else {
        look_around();
      }
    }
    roll_->close();
    mpi_->finalize();
  } catch (const std::exception& e) {
    end_job(e.what(), 1);
  }
}

void Worker::look_around() {
  if (aborting_) {
    std::string sentence;
    int code = 1;
    {
      const std::lock_guard lock(mutex_);
      sentence = last_words_;
      code = exit_code_;
    }
    end_job_together(sentence, code);
  }
  if (ask_other_.exchange(false)) roll_->ask(1);
  roll_->poll();
}

void Worker::finish(MPI_Request& request) {
  const Clock::time_point start = Clock::now();
  for (;;) {
    int done = 0;
    const int code = mpi_->test(&request, &done, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS) fail(error_text(*mpi_, code));
    if (done != 0) return;
    const double waited = seconds_since(start);
    if (waited < kYieldFor) {
      sched_yield();
      continue;
    }
    look_around();
    give_up_if_late(waited);
    std::this_thread::sleep_for(kSleep);
  }
}

void Worker::give_up_if_late(double waited) {
  if (waited >= timeout_ / 2) roll_->ask(0);
  if (waited < timeout_) return;
  const bool speaks = roll_->speaker(0, number_) == ranks_.rank;
  if (!speaks && waited < timeout_ + kGrace) return;
  end_job(fmt::format("{} (after {:g} s); the job ends", roll_->verdict(0, number_), timeout_), 1);
}

// A message of the wrong size, or a connection that broke: the others know more about which rank it was.
void Worker::fail(const std::string& words) {
  roll_->ask(0);
  const Clock::time_point start = Clock::now();
  const double listen = std::min(timeout_, kListen);
  while (seconds_since(start) < listen && !roll_->all_known(0, number_)) {
    look_around();
    std::this_thread::sleep_for(kSleep);
  }
  end_job(fmt::format("{} (MPI says: {}); the job ends", roll_->verdict(0, number_), words), 1);
}

void Worker::abort(std::string_view sentence, int code) {
  if (std::this_thread::get_id() == thread_.get_id()) end_job_together(std::string(sentence), code);
  {
    const std::lock_guard lock(mutex_);
    last_words_ = sentence;
    exit_code_ = code;
  }
  aborting_ = true;
  wake_.notify_one();
  std::this_thread::sleep_for(kAbortWithin);  // the thread ends the process
  _exit(code);
}

void Worker::end_job_together(const std::string& sentence, int code) {
  const std::uint64_t number = std::max<std::uint64_t>(std::hash<std::string>{}(sentence), 1);
  std::vector<int> who{ranks_.rank};
  try {
    roll_->failed(number);
    const Clock::time_point start = Clock::now();
    for (double waited = 0; waited < kSettle + kGrace; waited = seconds_since(start)) {
      roll_->poll();
      who = roll_->failed_with(number);
      const bool speaks = who.front() == ranks_.rank;
      if (speaks && (waited >= kSettle || who.size() == static_cast<std::size_t>(ranks_.size))) break;
      std::this_thread::sleep_for(kSleep);
    }
  } catch (const std::exception&) {  // MPI is broken: whoever knows a sentence says it
    who = {ranks_.rank};
  }
  end_job(who, sentence, code);
}

void Worker::end_job(std::string_view sentence, int code) { end_job({ranks_.rank}, sentence, code); }

void Worker::end_job(const std::vector<int>& who, std::string_view sentence, int code) {
  const bool all = who.size() == static_cast<std::size_t>(ranks_.size);
  const std::string prefix = all ? "" : list_of_ranks(who) + ": ";
  std::fprintf(stderr, "nibble: %s%.*s\n", prefix.c_str(), static_cast<int>(sentence.size()), sentence.data());
  std::fflush(nullptr);
  mpi_->abort(mpi_->world, code);
  _exit(code);
}

}  // namespace nibble::mpi
