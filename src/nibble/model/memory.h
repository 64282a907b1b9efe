// What a training run keeps in a device's memory, before it begins. The one model of memory: `nibble train` sizes its
// arenas by it, `nibble cost` prints it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "nibble/model/config.h"
#include "nibble/model/gather_weights.h"
#include "nibble/model/recompute.h"
#include "nibble/recipe/recipe.h"

namespace nibble {

/// Bytes a parameter of what outlives a step.
struct ParameterBytes {
  double weight = 4;
  double gradient = 4;
  double first_moment = 4;
  double second_moment = 4;
  double sum() const { return weight + gradient + first_moment + second_moment; }
};

/// How what outlives a step is divided among ranks: ZeRO (Rajbhandari et al. 2020) as docs/distributed.md has it.
struct Sharding {
  std::int64_t ranks = 1;
  /// A rank keeps its piece of, 1: the moments; 2: the gradients too; 3: the weights and their codes too.
  int zero = 0;
  double travelling_gradient = 4;  ///< bytes an element of a matrix's gradient when ranks exchange it
  /// A rank makes several passes a step.
  bool several_passes = false;
  /// For sums in an order that ranks do not change: whole gradients that are held beside the gradient, and nodes in
  /// which a gradient arrives (OrderedSum::memory_of).
  double ordered_held = 0;
  double ordered_arriving = 0;
  GatherWeights gather = GatherWeights::Block;
  bool divides(int level) const { return ranks > 1 && zero >= level; }
  /// What a rank keeps of that which `level` divides.
  double share(int level) const { return divides(level) ? 1 / static_cast<double>(ranks) : 1; }
};

/// How many ranks can share the model's matrices: all have rows of each (dist/row_pieces.h). More of them are groups
/// that share a copy each.
std::int64_t most_sharing_ranks(const LlamaConfig& model);

struct MemoryQuestion {
  LlamaConfig model;
  Recipe recipe;
  std::int64_t sequences = 1;   ///< a pass, of model.seq tokens each
  bool several_passes = false;  ///< make up a step
  ParameterBytes linears{};     ///< the weights of linear layers
  ParameterBytes others{};      ///< embedding, head and gains
  Recompute recompute = Recompute::None;
  bool measured = true;  ///< some steps measure the quality of their operands
  Device device = Device::Cpu;
  bool checkpoint_copy = false;  ///< what a rank writes of a checkpoint is copied to the device's own memory first
  Sharding sharding{};
};

struct MemoryPart {
  std::string name;
  double bytes = 0;
};

struct MemoryPlan {
  /// weights, gradients, moments (a rank's pieces); state of the recipe; working copies of the weights (what products
  /// read: quantised or BF16; with ZeRO-3 gathered from all ranks, of all blocks or of two, and weights themselves
  /// where a pass reads them); exchange buffers (with ZeRO-2 and 3 two buckets' gradients, one written and one on its
  /// way; copies of gradients in the format that travels where that is not the stored one, twice for codes, which leave
  /// and arrive: of three buckets that take turns with ZeRO, else of all); activations that wait for the backward; a
  /// rank's part of a checkpoint, copied; workspace (what the head or the backward of a block adds to them, whichever
  /// is more); on a GPU the driver and its libraries.
  std::vector<MemoryPart> parts;
  /// What the arenas of Llama reserve at most.
  double working_copies = 0;        ///< that last a step
  std::array<double, 2> windows{};  ///< of blocks that take turns
  double activations = 0;           ///< saved ones and workspace
  double inputs = 0;                ///< of linear layers that are not kept
  double total() const;
  double tensors() const;  ///< without what driver and libraries take
};

/// Of the recipe's stage that needs most. Follows the allocations of Llama and Linear one by one; on the CPU within
/// 5 % of what the arenas reach where activations outweigh the tiles of its threads, on a GPU within what its libraries
/// take for themselves.
MemoryPlan plan_memory(const MemoryQuestion& question);

/// A table "part, bytes, share" and its total, each line after `indent`; the last one does not end.
std::string memory_table(const MemoryPlan& plan, const std::string& indent = "");

/// "47.3 GiB", "3.20 MiB", "512.0 KiB".
std::string memory_text(double bytes);

}  // namespace nibble
