// What a build without MPI answers.
#include "nibble/dist/backends.h"

namespace nibble::mpi {

std::unique_ptr<Communicator> join(double) {
  user_error(
      "this process is one of several ranks, but this build has no MPI to join them: build with Open MPI "
      "(libopenmpi-dev, -DNIBBLE_MPI=on), or start one process");
}

std::string library_version() {
  user_error("this build has no MPI: build with Open MPI (libopenmpi-dev, -DNIBBLE_MPI=on)");
}

RollCall& roll_call(Communicator&) { throw InternalError("no rank was joined by MPI"); }

}  // namespace nibble::mpi
