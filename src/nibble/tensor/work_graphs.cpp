#include "nibble/tensor/work_graphs.h"

#include "nibble/tensor/cuda/graph.h"

namespace nibble {

WorkGraphs::WorkGraphs(Device device) : device_(device) {}

WorkGraphs::~WorkGraphs() = default;

void WorkGraphs::run(std::size_t piece, const std::function<void()>& work) {
  if (device_ == Device::Cpu) return work();
  std::unique_ptr<cuda::CapturedGraph>& graph = pieces_[piece];
  if (graph != nullptr) return graph->run(work);
  work();
  graph = std::make_unique<cuda::CapturedGraph>();
}

int WorkGraphs::instantiated() const {
  int sum = 0;
  for (const auto& [piece, graph] : pieces_) sum += graph == nullptr ? 0 : graph->instantiated();
  return sum;
}

}  // namespace nibble
