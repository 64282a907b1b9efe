// Work that is handed to a device in pieces rather than launch by launch.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "nibble/tensor/tensor.h"

namespace nibble {

namespace cuda {
class CapturedGraph;
}

/// Pieces of a device's work that come again and again with other numbers. On a GPU the launches of a piece are handed
/// over as one CUDA graph, which starts them closer to each other; results are those without it, to the bit. A piece
/// may wait for the device, where its graph is cut in two. It must not free memory of the GPU that it used.
class WorkGraphs {
 public:
  explicit WorkGraphs(Device device);
  ~WorkGraphs();

  /// Calls work(), the launches of which mostly are those of the last call for the same piece: one after the other on
  /// the CPU, and in a piece's first run, when libraries choose their kernels; else as a graph.
  void run(std::size_t piece, const std::function<void()>& work);
  /// How often a graph was made from nothing: little more than once a piece, or the pieces are cut badly.
  int instantiated() const;

 private:
  Device device_;
  std::map<std::size_t, std::unique_ptr<cuda::CapturedGraph>> pieces_;
};

}  // namespace nibble
