// What a build without CUDA answers.
#include "nibble/dist/backends.h"
#include "nibble/tensor/no_cuda/refuse.h"

namespace nibble::nccl {

void check_built() { cuda::refuse(); }
std::string library_version() { cuda::refuse(); }
std::unique_ptr<Communicator> join(const Launch&, std::unique_ptr<Communicator>, double) { cuda::refuse(); }

}  // namespace nibble::nccl
