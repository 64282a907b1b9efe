// CUDA graphs: launches that are handed to the GPU together.
//
// run(work) captures the launches of `work`, which costs the CPU about what launching them would. The graph that was
// instantiated the last time takes over their parameters (step numbers and addresses lie in them by value) and is
// launched; where the launches are others than the last time, it is instantiated anew.
//
// Whoever waits for the GPU, or copies to or from the CPU, holds an Uncaptured meanwhile: what was captured so far is
// launched, and capturing begins again behind it. So `work` may do whatever can be done without a graph, but must not
// free memory of the GPU that its launches use: they may not have begun.
#pragma once

#include <functional>

struct CUgraphExec_st;

namespace nibble::cuda {

class CapturedGraph {
 public:
  CapturedGraph() = default;
  ~CapturedGraph();  // NOLINT(performance-trivially-destructible): with CUDA it has work to do
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  /// One run at a time in a process.
  void run(const std::function<void()>& work);
  /// How often a graph was instantiated.
  int instantiated() const { return instantiated_; }

 private:
  friend class Uncaptured;
  void launch();

  CUgraphExec_st* executable_ = nullptr;
  int instantiated_ = 0;
};

/// While one lives, launches go to the GPU as they come.
class Uncaptured {
 public:
  Uncaptured();
  ~Uncaptured();
  Uncaptured(const Uncaptured&) = delete;
  Uncaptured& operator=(const Uncaptured&) = delete;

 private:
  CapturedGraph* interrupted_;
};

}  // namespace nibble::cuda
