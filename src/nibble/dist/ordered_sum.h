// Sums over the micro-batches of a step that are the same bits on any number of ranks.
//
// A step's gradient is a sum over its micro-batches 0 ... M-1, whatever rank computes which. FP32 addition is not
// associative, so equal bits need one order of additions for every number of ranks. Three orders were weighed, for R
// ranks, a gradient of n elements, and m = M / R micro-batches a rank:
//
//                                         moved by a rank       memory beside the gradient    on R ranks it waits for
//   one after the other, 0 to M-1         m n (R-1)/R           m n                           nothing
//   the same, passed from rank to rank    n                     n                             R - 1 ranks in a row
//   a binary tree over positions          n (R-1)/R             n log2(m)                     nothing
//
// The last is taken: it moves what an ordinary reduce-scatter moves. Node (l, k) of the tree is the sum over positions
// k 2^l to (k+1) 2^l - 1, cut off at M:
//
//   level 2          0-3                 4-6          M = 7
//   level 1     0-1       2-3       4-5       6       S(l, k) = S(l-1, 2k) + S(l-1, 2k+1)
//   level 0    0   1     2   3     4   5      6       a node whose right half lies behind M is its left half
//
// Every addition is that of a node, left half first, in F32, and is rounded to the format of the nodes (F32, or BF16
// with the gradients of train.gradients = "bf16"): the rounding belongs to the node and so not to the number of ranks,
// and what travels is nodes as they are. No step depends on who computes a node. So any split of the positions gives
// the same bits: R = 1, 2, 3, 4 ..., even splits and uneven ones, on a CPU or a GPU (additions of single elements have
// no order).
//
// Rank r takes the positions floor(r M / R) to floor((r+1) M / R) - 1. It adds up the largest nodes that lie within
// them. Where M / R is a power of two that is one node, and the exchange is one all_to_all of n elements. Otherwise
// there are up to 2 log2(M / R) nodes, each of which travels: three ranks cost n (R-1)/R for M = 12 (four positions
// each), and three times as much for M = 16 (5, 5 and 6). What arrives takes the memory of as many gradients. The owner
// of a piece completes the tree for it.
//
// What this does not fix is what a leaf is: a micro-batch is one pass, with one wgrad product over its tokens, and
// per-tensor statistics of its activations. The same M and the same micro-batch give the same bits; a run with another
// micro_batch is another run, as it is on one rank.
//
// FP8 gradients with a scale per tensor and 1 / sqrt(R) in it (FP8-LM) depend on R by definition, so they have no place
// here: the deterministic mode moves nodes in F32 or BF16.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "nibble/dist/communicator.h"

namespace nibble {

/// Micro-batches [begin, end) of a step.
struct Positions {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};
/// What rank `rank` of `ranks` computes of `count` micro-batches. Ranks differ by one micro-batch at most.
Positions positions_of(int rank, int ranks, std::int64_t count);

/// The sum over positions index * 2^level to (index + 1) * 2^level - 1, those that there are.
struct SumNode {
  int level = 0;
  std::int64_t index = 0;
  friend bool operator==(const SumNode&, const SumNode&) = default;
};
/// The largest nodes within the positions, from left to right.
std::vector<SumNode> nodes_of(const Positions& positions, std::int64_t count);

/// The sum of one piece of the gradient (a bucket) over a step's micro-batches. Every rank makes one, with the same
/// count and numel, adds its own micro-batches in order, and exchanges; then it can be used for the next step.
class OrderedSum {
 public:
  /// Over `count` micro-batches of gradients with `numel` elements, F32 or BF16; numel divides by the ranks.
  OrderedSum(Communicator& communicator, std::int64_t count, std::int64_t numel, DType dtype);

  /// The gradient of this rank's next micro-batch, which is copied, but for the last one: that must stay as it is until
  /// `finish`.
  void add(const Tensor& gradient);
  /// All of this rank's micro-batches are added: their nodes set out. Returns at once. They arrive in memory from
  /// `arrivals`, which must stay until `finish`, or in this object's own, which it keeps.
  void start_exchange(Arena* arrivals = nullptr);
  /// This rank's piece of the sum, [numel / ranks], in the gradients' dtype.
  void finish(const Tensor& piece);
  /// Memory that is held beside the gradients.
  std::size_t bytes() const;
  /// The same, of a whole step, in gradients.
  struct Memory {
    std::int64_t held = 0;      ///< this rank's nodes, at most
    std::int64_t arriving = 0;  ///< what others send
  };
  static Memory memory_of(int rank, int ranks, std::int64_t count);

 private:
  struct Entry {
    SumNode node;
    Tensor values;
    std::optional<OwnedTensor> memory;  // none: somebody else's
  };
  /// Puts a node on the stack and adds up what became a pair.
  void push(std::vector<Entry>& stack, Entry entry);
  OwnedTensor memory(std::int64_t numel);
  void give_back(Entry& entry);

  Communicator& communicator_;
  std::int64_t count_;
  std::int64_t numel_;
  DType dtype_;
  Positions mine_;
  std::int64_t next_;               // position that `add` expects
  std::vector<Entry> stack_;        // this rank's nodes so far
  std::vector<OwnedTensor> spare_;  // whole gradients' memory, for the next step
  std::vector<OwnedTensor> kept_;   // for what arrives, where nobody lends memory
  std::vector<Tensor> arrived_;     // of each round: [ranks * piece]
  std::vector<Pending> exchanges_;
};

/// Every rank's figures of its own positions in the order of positions: losses of micro-batches, so that whoever adds
/// them up one after the other gets the same sum on any number of ranks. `mine` has one figure a position of this rank.
std::vector<double> gather_positions(Communicator& communicator, std::span<const double> mine, std::int64_t count);

}  // namespace nibble
