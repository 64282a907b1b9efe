#include "nibble/tensor/cuda/graph.h"

#include <memory>
#include <utility>

#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

CapturedGraph* capturing = nullptr;  // on the one stream

struct Destroy {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraph_st, Destroy>;

// Memory may be allocated meanwhile: an arena that grows does no harm.
cudaError_t begin_capture() { return cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed); }

cudaError_t end_capture(Graph& graph) {
  cudaGraph_t captured = nullptr;
  const cudaError_t status = cudaStreamEndCapture(stream(), &captured);
  graph.reset(captured);
  return status;
}

}  // namespace

CapturedGraph::~CapturedGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);  // freed when it is done
}

void CapturedGraph::run(const std::function<void()>& work) {
  require(capturing == nullptr, "a CUDA graph within a CUDA graph");
  check(begin_capture(), "capturing a graph");
  capturing = this;
  try {
    work();
  } catch (...) {
    Graph dropped;
    if (std::exchange(capturing, nullptr) != nullptr && end_capture(dropped) != cudaSuccess) cudaGetLastError();
    throw;
  }
  launch();
}

void CapturedGraph::launch() {
  if (std::exchange(capturing, nullptr) == nullptr) return;
  Graph graph;
  check(end_capture(graph), "capturing a graph");
  std::size_t nodes = 0;
  check(cudaGraphGetNodes(graph.get(), nullptr, &nodes), "counting a graph's nodes");
  if (nodes == 0) return;
  cudaGraphExecUpdateResultInfo difference{};
  if (executable_ != nullptr && cudaGraphExecUpdate(executable_, graph.get(), &difference) != cudaSuccess) {
    cudaGetLastError();  // other launches than the last time
    check(cudaGraphExecDestroy(std::exchange(executable_, nullptr)), "dropping a graph");
  }
  if (executable_ == nullptr) {
    check(cudaGraphInstantiate(&executable_, graph.get()), "instantiating a graph");
    ++instantiated_;
  }
  check(cudaGraphLaunch(executable_, stream()), "launching a graph");
}

Uncaptured::Uncaptured() : interrupted_(capturing) {
  if (interrupted_ != nullptr) interrupted_->launch();
}

// Where capturing does not begin again, launches go on without.
Uncaptured::~Uncaptured() {
  if (interrupted_ != nullptr && begin_capture() == cudaSuccess) capturing = interrupted_;
}

}  // namespace nibble::cuda
