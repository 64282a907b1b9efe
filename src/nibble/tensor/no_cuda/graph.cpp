// What a build without CUDA answers.
#include "nibble/tensor/cuda/graph.h"

#include "nibble/tensor/no_cuda/refuse.h"

namespace nibble::cuda {

CapturedGraph::~CapturedGraph() = default;
void CapturedGraph::run(const std::function<void()>&) { refuse(); }

}  // namespace nibble::cuda
