#include "nibble/dist/launch.h"

#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <thread>

#include "nibble/dist/backends.h"

namespace nibble {

namespace {

const char* of_process(const char* name) { return std::getenv(name); }

std::optional<int> number(const Environment& environment, const char* name) {
  const char* text = environment(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc{} || stop != end || value < 0) {
    user_error("the environment says {}={}, which should be a number from 0 on", name, text);
  }
  return value;
}

struct Names {
  Launch::By by;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
};

constexpr Names kMpirun{Launch::By::Mpirun, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                        "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"};
constexpr Names kSrun{Launch::By::Srun, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""};
constexpr Names kPmi{Launch::By::Pmi, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"};
constexpr Names kRendezvous{Launch::By::Rendezvous, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};

/// The launch that these variables describe; nothing where there are none, or where they describe one process alone.
std::optional<Launch> read(const Environment& environment, const Names& names) {
  const auto size = number(environment, names.size);
  const auto rank = number(environment, names.rank);
  if (!size || !rank) return std::nullopt;
  if (*rank >= *size) {
    user_error("the environment says {}={} and {}={}: ranks go from 0 to {} - 1", names.rank, *rank, names.size, *size,
               names.size);
  }
  Launch launch;
  launch.by = names.by;
  launch.ranks = {*rank, *size, number(environment, names.local_rank).value_or(0), 1};
  launch.ranks.local_size =
      *names.local_size == '\0' ? 1 : number(environment, names.local_size).value_or(launch.ranks.local_rank + 1);
  launch.ranks.local_size = std::max(launch.ranks.local_size, launch.ranks.local_rank + 1);
  return launch;
}

/// torchrun's own agent listens at MASTER_PORT; the port behind it is ours.
std::string rendezvous_address(const Environment& environment) {
  const char* host = environment("MASTER_ADDR");
  const auto port = number(environment, "MASTER_PORT");
  if (host == nullptr || *host == '\0' || !port) return "";
  const char* taken = environment("TORCHELASTIC_USE_AGENT_STORE");
  const bool agent = taken != nullptr && std::string_view(taken) == "True";
  const bool v6 = std::strchr(host, ':') != nullptr;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", *port + (agent ? 1 : 0));
}

const char* starter(Launch::By by) {
  switch (by) {
    case Launch::By::Mpirun: return "mpirun";
    case Launch::By::Srun: return "srun";
    case Launch::By::Pmi: return "mpiexec";
    case Launch::By::Rendezvous: return "RANK and WORLD_SIZE";
    case Launch::By::Alone: break;
  }
  return "nothing";
}

/// A process joins others once: MPI cannot be started again.
enum class Joining : std::uint8_t { NotTried, Tried, Done };
std::atomic<Joining> g_joining{Joining::NotTried};

/// How long the other ranks are waited for by one that fails before it has joined.
constexpr auto kJoinToFail = std::chrono::seconds(20);

/// Ends the job by way of MPI; returns where that is not possible.
void abort_by_mpi(const Launch& launch, const std::string& sentence, int code) {
  std::promise<void> tried;
  std::future<void> done = tried.get_future();
  // Its start may wait for ever, for a rank that never comes.
  std::thread([&launch, &sentence, code, tried = std::move(tried)]() mutable {
    try {
      const auto joined = mpi::join(dist_timeout(of_process));
      if (joined->size() == launch.ranks.size) joined->abort(sentence, code);
    } catch (const std::exception&) {  // its sentence is not what ends the job
    }
    tried.set_value();
  }).detach();
  done.wait_for(kJoinToFail);
}

bool is_set(const char* name) { return of_process(name) != nullptr; }

std::unique_ptr<Communicator> join_mpi(const Launch& launch, double timeout) {
  // MPI's start would end the process with words of its own.
  if (launch.by == Launch::By::Srun && !is_set("PMIX_RANK") && !is_set("PMI_RANK")) {
    user_error(
        "srun started {} processes without a way for MPI to join them: start them with srun --mpi=pmix, or set "
        "SLURM_MPI_TYPE=pmix",
        launch.ranks.size);
  }
  std::unique_ptr<Communicator> joined = mpi::join(timeout);
  on_every_rank(*joined, [&](const Communicator& ranks) {
    if (ranks.size() == launch.ranks.size) return;
    user_error("{} started {} processes, but MPI knows {} of them: {}", starter(launch.by), launch.ranks.size,
               ranks.size(),
               launch.by == Launch::By::Srun ? "start them with srun --mpi=pmix"
                                             : "start them with the mpirun of the Open MPI that is installed here");
  });
  return joined;
}

std::unique_ptr<Communicator> join(const Launch& launch, Device device, double timeout) {
  const bool rendezvous = launch.by == Launch::By::Rendezvous;
  if (device == Device::Cpu) {
    if (rendezvous) {
      user_error(
          "RANK and WORLD_SIZE describe {} ranks, which can be joined on GPUs alone: start ranks on CPUs with mpirun",
          launch.ranks.size);
    }
    return join_mpi(launch, timeout);
  }
  if (rendezvous) {
    if (launch.address.empty()) {
      user_error("RANK and WORLD_SIZE describe {} ranks, but not where they meet: set MASTER_ADDR and MASTER_PORT",
                 launch.ranks.size);
    }
    return nccl::join(launch, nullptr, timeout);
  }
  nccl::check_built();
  return nccl::join(launch, join_mpi(launch, timeout), timeout);
}

}  // namespace

Launch read_launch(const Environment& environment, Device device) {
  const auto rendezvous = read(environment, kRendezvous);
  const std::string address = rendezvous ? rendezvous_address(environment) : "";
  const auto with_address = [&] {
    Launch launch = *rendezvous;
    launch.address = address;
    return launch;
  };
  if (device == Device::Cuda && rendezvous && !address.empty()) return with_address();
  for (const Names& names : {kMpirun, kSrun, kPmi}) {
    if (const auto launch = read(environment, names)) return *launch;
  }
  return rendezvous ? with_address() : Launch{};
}

Launch read_launch(Device device) { return read_launch(of_process, device); }

double dist_timeout(const Environment& environment) {
  const char* text = environment("NIBBLE_DIST_TIMEOUT");
  if (text == nullptr || *text == '\0') return 600;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (*end != '\0' || !std::isfinite(seconds) || seconds <= 0) {
    user_error("the environment says NIBBLE_DIST_TIMEOUT={}, which should be a number of seconds above 0", text);
  }
  return seconds;
}

std::unique_ptr<Communicator> world(Device device) {
  const double timeout = dist_timeout(of_process);
  const Launch launch = read_launch(device);
  if (launch.ranks.size == 1) return make_single_process(device);
  g_joining = Joining::Tried;
  std::unique_ptr<Communicator> joined = join(launch, device, timeout);
  g_joining = Joining::Done;
  return joined;
}

void wait_for_turn(int rank) {
  if (rank == 0) return;
  std::signal(SIGTERM, SIG_DFL);  // a run saves itself on it, but this process has only one sentence left to say
  const double seconds = std::min(1 + 0.25 * rank, 10.0);
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

void say_error(std::string_view sentence, int code) {
  Launch launch;
  try {
    launch = read_launch(Device::Cpu);
  } catch (const UserError&) {  // variables that contradict each other make no job
  }
  const Joining joining = g_joining;
  if (launch.ranks.size == 1 || joining == Joining::Done) {
    std::fprintf(stderr, "nibble: %.*s\n", static_cast<int>(sentence.size()), sentence.data());
    return;
  }
  // Without PMIx MPI's start knows no other ranks, and ends the process with words of its own under some starters.
  const bool by_mpi = launch.by != Launch::By::Rendezvous && joining == Joining::NotTried && is_set("PMIX_RANK");
  const std::string copy(sentence);
  if (by_mpi) abort_by_mpi(launch, copy, code);
  wait_for_turn(launch.ranks.rank);
  std::fprintf(stderr, "nibble: rank %d: %s\n", launch.ranks.rank, copy.c_str());
  std::fflush(nullptr);
  if (by_mpi) _exit(code);  // MPI may be starting on a thread
}

std::string describe(const Launch& launch) {
  const Ranks& r = launch.ranks;
  if (r.size == 1) return launch.by == Launch::By::Alone ? "alone" : fmt::format("alone, by {}", starter(launch.by));
  const std::string here = r.local_size > 1 ? fmt::format(" ({} of {} on this host)", r.local_rank, r.local_size) : "";
  return fmt::format("rank {} of {}{}, by {}{}", r.rank, r.size, here, starter(launch.by),
                     launch.address.empty() ? "" : fmt::format(", which meet at {}", launch.address));
}

std::string joining_library(Device device) {
  return device == Device::Cpu ? mpi::library_version() : nccl::library_version();
}

}  // namespace nibble
