#include "nibble/dist/launch.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

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

std::unique_ptr<Communicator> join_mpi(const Launch& launch, double timeout) {
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

}  // namespace nibble
