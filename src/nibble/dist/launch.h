// How this process was started: alone, or as one rank of a job by mpirun, srun or torchrun.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "nibble/dist/communicator.h"

namespace nibble {

/// What the environment says.
///
///   started by             ranks from                                        join through
///   mpirun (Open MPI)      OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, ...     MPI
///   srun                   SLURM_PROCID, SLURM_STEP_NUM_TASKS, ...           MPI (srun --mpi=pmix)
///   other mpiexec          PMI_RANK, PMI_SIZE                                MPI
///   torchrun, scripts      RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE    NCCL, at MASTER_ADDR:MASTER_PORT
///
/// The first line that applies counts, with one exception: on GPUs the last line goes before the others where
/// MASTER_ADDR and MASTER_PORT are set too, so that a Slurm script may use it without PMIx. SLURM_PROCID alone (a batch
/// script's own shell) is no rank: only srun sets SLURM_STEP_NUM_TASKS.
struct Launch {
  enum class By : std::uint8_t { Alone, Mpirun, Srun, Pmi, Rendezvous };
  By by = By::Alone;
  Ranks ranks;          ///< where the variables say nothing about the host, local_rank is 0 of 1
  std::string address;  ///< Rendezvous: "host:port" that rank 0 listens at
};
using Environment = std::function<const char*(const char* name)>;
/// UserError for variables that contradict each other or are no numbers.
Launch read_launch(const Environment& environment, Device device);
/// By the process's own environment.
Launch read_launch(Device device);

/// Seconds from NIBBLE_DIST_TIMEOUT, 600 where it is not set; UserError where it is no positive number.
double dist_timeout(const Environment& environment);

/// All ranks of the job that this process was started in; once a process, on the thread that will use it. Chooses MPI
/// for tensors on the CPU and NCCL for those on GPUs (each rank takes the GPU of its local_rank). UserError where the
/// environment describes several ranks and this build, this machine's libraries or the way of starting cannot join
/// them: a job never falls apart into jobs of one.
std::unique_ptr<Communicator> world(Device device);

/// Says why this process ends, on standard error: "nibble: <sentence>", or "nibble: rank 3: <sentence>" where it is one
/// rank of several. A mistake that all ranks meet before they have joined (bad arguments, a missing file) is said once,
/// by the lowest of them:
///
///   where MPI can join them (PMIX_RANK is set)     they join, ask each other (Communicator::abort), and the job ends
///                                                  on all of them: this does not return
///   otherwise                                      rank 0 speaks at once, the others after their turn's delay, 10 s at
///                                                  most: whoever started them ends the rest meanwhile
///
/// A process that is alone, and one whose `world` has joined the others and is done, just speaks; so it always does
/// when it returns, for the process to exit with `code`.
void say_error(std::string_view sentence, int code);

/// What is known of how this process was started: "alone", "rank 1 of 4 (1 of 2 on this host), by mpirun".
std::string describe(const Launch& launch);
/// The library that joins ranks with tensors on `device`: "Open MPI v4.1.4", "NCCL 2.18.3". UserError says why there is
/// none: this build has no part for it, or this machine no library.
std::string joining_library(Device device);

}  // namespace nibble
