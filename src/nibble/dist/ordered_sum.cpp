#include "nibble/dist/ordered_sum.h"

#include <algorithm>

#include "nibble/dist/gather.h"
#include "nibble/ops/reduce.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

std::int64_t first_position(const SumNode& node) { return node.index << node.level; }
std::int64_t end_position(const SumNode& node) { return (node.index + 1) << node.level; }

/// The root, where nothing is left to be added.
bool is_whole(const SumNode& node, std::int64_t count) { return node.index == 0 && end_position(node) >= count; }
/// The node's right neighbour lies behind the last position, so its parent has the same value.
bool is_its_parent(const SumNode& node, std::int64_t count) {
  return node.index % 2 == 0 && end_position(node) >= count && !is_whole(node, count);
}
SumNode parent(const SumNode& node) { return {node.level + 1, node.index / 2}; }

}  // namespace

Positions positions_of(int rank, int ranks, std::int64_t count) {
  return {rank * count / ranks, (rank + 1) * count / ranks};
}

std::vector<SumNode> nodes_of(const Positions& positions, std::int64_t count) {
  std::vector<SumNode> nodes;
  for (std::int64_t at = positions.begin; at < positions.end;) {
    SumNode node{0, at};
    for (;;) {
      const SumNode up = parent(node);
      if (is_whole(node, count) || first_position(up) != at) break;
      if (std::min(end_position(up), count) > positions.end) break;
      node = up;
    }
    nodes.push_back(node);
    at = end_position(node);
  }
  return nodes;
}

OrderedSum::OrderedSum(Communicator& communicator, std::int64_t count, std::int64_t numel, DType dtype)
    : communicator_(communicator),
      count_(count),
      numel_(numel),
      dtype_(dtype),
      mine_(positions_of(communicator.rank(), communicator.size(), count)),
      next_(mine_.begin) {
  require(dtype == DType::F32 || dtype == DType::BF16, "an ordered sum of {}", dtype_name(dtype));
  require(numel % communicator.size() == 0, "an ordered sum of {} elements among {} ranks", numel, communicator.size());
  if (count < communicator.size()) {
    user_error("a step of {} micro-batches cannot be shared by {} ranks: use fewer ranks or a smaller micro-batch",
               count, communicator.size());
  }
}

OwnedTensor OrderedSum::memory(std::int64_t numel) {
  if (numel == numel_ && !spare_.empty()) {
    OwnedTensor taken = std::move(spare_.back());
    spare_.pop_back();
    return taken;
  }
  return OwnedTensor(dtype_, {numel}, communicator_.device());
}

void OrderedSum::give_back(Entry& entry) {
  if (entry.memory && entry.memory->view().numel() == numel_) spare_.push_back(std::move(*entry.memory));
}

void OrderedSum::push(std::vector<Entry>& stack, Entry entry) {
  for (;;) {
    if (is_its_parent(entry.node, count_)) {
      entry.node = parent(entry.node);
    } else if (!stack.empty() && entry.node.index % 2 == 1 &&
               stack.back().node == SumNode{entry.node.level, entry.node.index - 1}) {
      Entry left = std::move(stack.back());
      stack.pop_back();
      add_in_place(left.values, entry.values);
      give_back(entry);
      left.node = parent(left.node);
      entry = std::move(left);
    } else {
      stack.push_back(std::move(entry));
      return;
    }
  }
}

void OrderedSum::add(const Tensor& gradient) {
  require(next_ < mine_.end, "an ordered sum: rank {} has micro-batches {} to {}", communicator_.rank(), mine_.begin,
          mine_.end - 1);
  require(gradient.dtype() == dtype_ && gradient.numel() == numel_ && gradient.device() == communicator_.device(),
          "an ordered sum of {} {} elements takes no {}", numel_, dtype_name(dtype_), to_string(gradient));
  Entry leaf{{0, next_}, gradient.reshape({numel_}), std::nullopt};
  ++next_;
  // An odd leaf is added to the one before it at once, the last one stays: the others outlive the gradient's memory.
  const bool joins = leaf.node.index % 2 == 1 && leaf.node.index > mine_.begin;
  if (!joins && next_ < mine_.end) {
    leaf.memory = memory(numel_);
    copy(leaf.values, *leaf.memory);
    leaf.values = *leaf.memory;
  }
  push(stack_, std::move(leaf));
}

void OrderedSum::start_exchange(Arena* arrivals) {
  require(next_ == mine_.end, "an ordered sum: micro-batch {} is missing", next_);
  const int ranks = communicator_.size();
  if (ranks == 1) return;
  std::size_t rounds = 0;
  for (int r = 0; r < ranks; ++r) {
    rounds = std::max(rounds, nodes_of(positions_of(r, ranks, count_), count_).size());
  }
  arrived_.clear();
  for (std::size_t round = 0; round < rounds; ++round) {
    if (arrivals == nullptr && kept_.size() <= round) {
      kept_.emplace_back(DType(dtype_), std::initializer_list<std::int64_t>{numel_}, communicator_.device());
    }
    arrived_.push_back(arrivals == nullptr ? kept_[round].view() : arrivals->allocate(dtype_, {numel_}));
    // Who has fewer nodes sends its last one again, and nobody reads it.
    const Entry& node = stack_[std::min(round, stack_.size() - 1)];
    exchanges_.push_back(communicator_.start_all_to_all(node.values, arrived_[round]));
  }
}

void OrderedSum::finish(const Tensor& piece) {
  const int ranks = communicator_.size();
  require(piece.dtype() == dtype_ && piece.numel() * ranks == numel_, "an ordered sum: {} elements to {} of {} ranks",
          numel_, to_string(piece), ranks);
  for (Pending& exchange : exchanges_) exchange.wait();
  exchanges_.clear();
  if (numel_ > 0) {
    std::vector<Entry> tree;
    if (ranks == 1) {
      tree = std::move(stack_);
      stack_.clear();
    }
    const std::int64_t n = piece.numel();
    for (int r = 0; ranks > 1 && r < ranks; ++r) {
      std::size_t round = 0;
      for (const SumNode& node : nodes_of(positions_of(r, ranks, count_), count_)) {
        push(tree, {node, arrived_[round++].elements(r * n, (r + 1) * n), std::nullopt});
      }
    }
    require(tree.size() == 1 && is_whole(tree.front().node, count_), "an ordered sum left {} nodes", tree.size());
    copy(tree.front().values, piece);
    give_back(tree.front());
  }
  for (Entry& entry : stack_) give_back(entry);
  stack_.clear();
  next_ = mine_.begin;
}

// Follows `add`, `start_exchange` and `finish` by nodes alone.
OrderedSum::Memory OrderedSum::memory_of(int rank, int ranks, std::int64_t count) {
  struct Held {
    SumNode node;
    bool owned;
  };
  std::vector<Held> stack;
  std::int64_t owned = 0;
  std::int64_t most = 0;
  const Positions mine = positions_of(rank, ranks, count);
  for (std::int64_t p = mine.begin; p < mine.end; ++p) {
    const bool joins = p % 2 == 1 && p > mine.begin;
    Held entry{{0, p}, !joins && p + 1 < mine.end};
    if (entry.owned) most = std::max(most, ++owned);
    for (;;) {
      if (is_its_parent(entry.node, count)) {
        entry.node = parent(entry.node);
      } else if (!stack.empty() && entry.node.index % 2 == 1 &&
                 stack.back().node == SumNode{entry.node.level, entry.node.index - 1}) {
        if (entry.owned) --owned;
        entry = {parent(entry.node), stack.back().owned};
        stack.pop_back();
      } else {
        stack.push_back(entry);
        break;
      }
    }
  }
  if (ranks == 1) return {most, 0};
  std::size_t rounds = 0;
  for (int r = 0; r < ranks; ++r) {
    rounds = std::max(rounds, nodes_of(positions_of(r, ranks, count), count).size());
  }
  return {most, static_cast<std::int64_t>(rounds)};
}

std::size_t OrderedSum::bytes() const {
  std::size_t total = 0;
  for (const Entry& entry : stack_) total += entry.memory ? entry.memory->view().bytes() : 0;
  for (const OwnedTensor& spare : spare_) total += spare.view().bytes();
  for (const OwnedTensor& kept : kept_) total += kept.view().bytes();
  return total;
}

std::vector<double> gather_positions(Communicator& communicator, std::span<const double> mine, std::int64_t count) {
  const int ranks = communicator.size();
  const Positions own = positions_of(communicator.rank(), ranks, count);
  require(static_cast<std::int64_t>(mine.size()) == own.size(), "{} figures of {} positions", mine.size(), own.size());
  const std::int64_t each = (count + ranks - 1) / ranks;
  std::vector<double> padded(mine.begin(), mine.end());
  padded.resize(static_cast<std::size_t>(each));
  const std::vector<double> all = gather_values<double>(communicator, padded);
  std::vector<double> ordered;
  for (int r = 0; r < ranks; ++r) {
    const auto* from = all.data() + static_cast<std::size_t>(r * each);
    ordered.insert(ordered.end(), from, from + positions_of(r, ranks, count).size());
  }
  return ordered;
}

}  // namespace nibble
