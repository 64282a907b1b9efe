// Llama, forward and backward, written once for every backend: it only calls ops and Linear.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nibble/model/config.h"
#include "nibble/model/memory.h"
#include "nibble/model/packed_sequences.h"
#include "nibble/model/parameter_memory.h"
#include "nibble/model/recompute.h"
#include "nibble/model/state_tensor.h"
#include "nibble/recipe/linear.h"
#include "nibble/tensor/staging.h"
#include "nibble/tensor/work_graphs.h"

namespace nibble {

struct BatchLoss {
  double sum = 0;           ///< of the per-token losses, in nats
  std::int64_t tokens = 0;  ///< targets that count
  double mean() const { return tokens == 0 ? 0.0 : sum / static_cast<double>(tokens); }
};

/// Rows of logits in memory at a time: enough for an efficient product, small beside the activations. A GPU needs more
/// rows to have a tile for every multiprocessor.
constexpr std::int64_t head_rows(Device device) { return device == Device::Cpu ? 512 : 4096; }

class Llama {
 public:
  /// `activations` is BF16 in training; F32 (with the f32 recipe) makes every operation single precision, for
  /// gradient checks. Weights start as N(0, init_std) from `seed`, norms as 1, the same on every device. Parameters,
  /// gradients and activations live on `device`; batches and what is returned, on the CPU.
  Llama(const LlamaConfig& config, const Recipe& recipe, std::uint64_t seed, DType activations = DType::BF16,
        Device device = Device::Cpu, ParameterStorage storage = {});
  ~Llama();
  Llama(const Llama&) = delete;
  Llama& operator=(const Llama&) = delete;

  /// What the backward computes again from now on; nothing at first.
  void set_recompute(Recompute recompute) { recompute_ = recompute; }
  /// Whether forward_backward hands a block's work to a GPU as one CUDA graph from now on, but where quantisation is
  /// measured, observed or profiled; not at first. Same bits.
  void set_work_graphs(bool on) { graphs_ = on ? std::make_unique<WorkGraphs>(device_) : nullptr; }
  /// How often a graph was made from nothing.
  int graphs_instantiated() const { return graphs_ == nullptr ? 0 : graphs_->instantiated(); }
  /// Which of the recipe's stages all linear layers run from now on; 0 at first.
  void set_stage(std::size_t stage);
  /// Quantises the weights for `step`. Call after each change of the parameters, before the passes of the step. Where
  /// ranks share values (ParameterStorage::zero = 3) it gathers what the step computes with, codes where they suffice,
  /// or leaves that to the passes.
  void prepare(std::uint32_t step, bool measure_quality);

  struct Batch {
    Tensor tokens;   ///< I32 [sequences, seq]
    Tensor targets;  ///< I32 [sequences, seq]; negative = ignored
  };
  /// Bucket `bucket` of gradient_buckets() has its whole gradient of the pass; nothing writes it any more, but where
  /// gradients take turns (ParameterStorage::zero) the next bucket but one does, once the next call has returned.
  using GradientsReady = std::function<void(std::size_t bucket)>;
  /// Adds the gradient of sum(loss) * loss_scale of one micro-batch to the parameters' gradients, or overwrites them.
  /// `first_token` is the number of its first token among the `tokens_per_step` of the whole step; 0 stands for the
  /// tokens of a batch that is the whole step. Waits for the forward alone: a GPU may still be at work on the backward
  /// when the loss is returned. `ready` hears of every bucket once, in their order; on a GPU its
  /// gradients are written by the time its work so far is done.
  BatchLoss forward_backward(const Batch& batch, double loss_scale, std::uint32_t step, std::int64_t first_token,
                             bool overwrite_gradients, bool measure_quality, std::int64_t tokens_per_step = 0,
                             const GradientsReady& ready = {});
  /// What other ranks wait for while they run a forward_backward that this one has no tokens for: weights are gathered
  /// where passes do that, and if `ready` is given, it hears of gradients of zero.
  void accompany(const GradientsReady& ready);
  /// After the optimizer changed the parameters in step `step` of `steps`: what recipes do to weights and their
  /// averages between steps. May write the parameters; returns how many weights were reset.
  std::int64_t after_update(std::int64_t step, std::int64_t steps);
  /// The recipes' state that a checkpoint must hold beside the parameters, named "linears.<layer>.<state>"; names and
  /// shapes depend on configuration, recipe and stage alone. Where ranks share values, so do they states that have a
  /// weight's rows.
  void visit_linear_state(const std::function<void(const StateTensor&)>& f);
  /// Loss alone; touches no state, and observers see nothing of it. `token_losses`, when not null, receives the loss
  /// of each target.
  BatchLoss evaluate(const Batch& batch, std::vector<float>* token_losses = nullptr);
  /// As `accompany`, of an evaluate.
  void accompany_evaluation();
  /// The score of each query, with logits computed for the queried rows alone, head_rows at a time. `greedy`: whether
  /// the flag is wanted too, for which a GPU's logits travel to the CPU.
  std::vector<TokenScore> score(const PackedSequences& packed, std::span<const TokenQuery> queries, bool greedy);
  /// Names the first tensor of a forward pass over the batch that holds a value that is not finite: a parameter, or a
  /// block's intermediate result; "the logits" when all before them are finite. Where passes gather weights there is
  /// none, as other ranks run none: a parameter of this rank's rows, or "the outputs of blocks, or the logits".
  std::string first_non_finite(const Batch& batch);
  /// Logits (F32 [vocab]) that follow the last of `tokens`, which may be shorter than a training sequence.
  std::vector<float> next_token_logits(const std::vector<std::int32_t>& tokens);

  const LlamaConfig& config() const { return config_; }
  const Recipe& recipe() const { return recipe_; }
  std::vector<Parameter>& parameters() { return memory_.parameters(); }
  const std::vector<Parameter>& parameters() const { return memory_.parameters(); }
  /// Parameters by when their gradients are complete: final norm and head (where it is not the embedding), the blocks
  /// from the last to the first, the embedding.
  const std::vector<ParameterRange>& gradient_buckets() const { return memory_.buckets(); }
  Tensor flat_values() const { return memory_.flat_values(); }  ///< F32 [n]: all parameters but those in half
  /// F32 [n]: all gradients but those in BF16
  Tensor flat_grads() const { return memory_.flat_grads().front().elements(0, memory_.grad_count()); }
  /// The flat gradients with their padding, which stays zero: F32, and BF16 where linear layers have theirs apart.
  std::vector<Tensor> padded_grads() const { return memory_.flat_grads(); }
  /// What layers counted of this rank's passes of the step, for a recipe that chooses by it: F32 vectors, to be added
  /// up over all passes before after_update.
  std::vector<Tensor> observed() const;
  /// Sum of the squares of all gradients.
  double squares_of_gradients();
  /// Bytes of all parameters and of all gradients.
  std::size_t parameter_bytes() const { return memory_.value_bytes(); }
  std::size_t gradient_bytes() const { return memory_.gradient_bytes(); }
  /// What this rank received of linear layers' weights since `prepare` began, and what it would have in BF16: 0 where
  /// ranks don't share values.
  struct GatheredBytes {
    std::int64_t bytes = 0;
    std::int64_t bf16_bytes = 0;
  };
  const GatheredBytes& gathered_bytes() const { return gathered_; }
  /// Scratch memory between passes.
  Arena& scratch() { return arena_; }
  std::vector<Linear>& linears() { return linears_; }
  const std::vector<Linear>& linears() const { return linears_; }
  /// Where passes and `prepare` record the time of each op from now on; null = nowhere.
  void set_profile(StepProfile* profile) { profile_ = profile; }
  /// Sees the operands of forward_backward from now on, before they are quantised; empty = nobody looks.
  void set_observer(OperandObserver observer) { observer_ = std::move(observer); }
  Device device() const { return device_; }
  const ParameterStorage& storage() const { return storage_; }
  /// Sizes the arenas of a pass and of the weights' working copies before the first step (model/memory.h). They grow
  /// where this was too little.
  void reserve(const MemoryPlan& plan);
  /// The most that a pass took so far, and that the working copies did.
  std::size_t activation_peak_bytes() const { return arena_.peak_bytes() + input_arena_.peak_bytes(); }
  std::size_t working_copy_peak_bytes() const {
    return weight_arena_.peak_bytes() + windows_[0].peak_bytes() + windows_[1].peak_bytes();
  }

 private:
  struct Block;       // the parameters of one block
  struct BlockSaved;  // what a block's backward needs
  /// How the rows of a pass stand in the sequences that attention sees.
  struct Layout {
    std::int64_t sequences = 0;
    std::int64_t seq = 0;
    Tensor at;     // I32 [sequences * seq]: PackedSequences::at; undefined: row i stands at place i
    Tensor place;  // I32 [rows]: PackedSequences::place; undefined as `at` is
  };
  void find_parameters();
  /// Matrix products overwrite their gradients; the reductions of other ops add to theirs, which begin as zero.
  void begin_gradients(std::size_t bucket);
  /// A pass without a backward.
  PassContext inference_pass() { return {.arena = arena_, .seed = seed_, .profile = profile_, .inference = true}; }

  /// The weight of linear layer `index` in F32, decoded into the arena where it is stored in half; where ranks share
  /// values, this rank's rows.
  Tensor weight(std::size_t index, Arena& arena);
  /// The same, or a tensor of its shape where it isn't read.
  Tensor weight_if(bool read, std::size_t index, Arena& arena);
  /// Weights are stored in half and whole: who reads one in a pass gets it decoded.
  bool lends_weights() const { return storage_.half_weights && !storage_.shares(3); }

  // llama_gather.cpp: where ranks share values
  std::size_t blocks() const { return static_cast<std::size_t>(config_.layers); }
  WeightRows weight_rows(std::size_t index, const Tensor& values) const;
  void gather_step();
  void gather_tables();
  void find_magnitudes();
  Tensor magnitudes_of(std::size_t index) const;
  /// Linear::start_prepare and finish_prepare of a block's layers.
  void start_block(std::size_t block, WeightUse use, bool again, Arena& to);
  void start_in_window(std::size_t block, WeightUse use, bool again);
  void finish_block(std::size_t block);
  /// Before the block's work: what it reads is there afterwards, and what the next one reads on its way.
  void enter_forward(std::size_t block, bool backward_follows);
  void enter_backward(std::size_t block);
  /// After `own` weights of this rank's rows `values` were reset: those of all ranks, stored where they are not in
  /// place.
  std::int64_t store_resets(const Parameter& p, const Tensor& values, std::int64_t own);

  Linear::Saved linear_forward(std::size_t index, const Tensor& x, const Tensor& y, const Tensor& addend,
                               const PassContext& pass);
  void linear_backward(std::size_t index, const Tensor& dy, const Linear::Saved& saved, const Tensor& dx,
                       const PassContext& pass, const PairMagnitudes& known = {});
  /// A batch's tensor [T] where the model is, once the device's work so far is done.
  Tensor to_device(const Tensor& batch_part, Staging& staging);
  Tensor to_device(const Tensor& part) { return to_device(part, tokens_sent_); }
  /// Rows of the embedding (F32 [T, d]) of tokens that are where the model is.
  Tensor embed(const Tensor& tokens);
  /// The residual stream [T, d] after the last block, without a backward to follow.
  Tensor forward(const Tensor& tokens, const Layout& layout);
  Tensor forward(const Tensor& tokens) { return forward(tokens, {tokens.rows(), tokens.cols(), {}, {}}); }
  /// Block `index` of x (F32 [T, d]) into out (undefined: only what the backward reads is wanted). Inputs of linear
  /// layers that the backward reads are kept for it if `keep_inputs`.
  void block_forward(std::size_t index, const Tensor& x, const Tensor& out, const Layout& layout,
                     const PassContext& pass, bool keep_inputs, BlockSaved& saved);
  /// Rotation and attention: saved.attended and saved.lse from saved.qkv, which is rotated in place where rows stand at
  /// their places.
  void attention(const Layout& layout, BlockSaved& saved);
  /// Row i of the result is row rows[i] of x.
  Tensor gather(const Tensor& x, const Tensor& rows);
  /// dx, the gradient of the stream, goes from the block's output to its input. The magnitudes of what comes in are
  /// known where they are defined; `raise` are those of what goes out.
  void block_backward(std::size_t index, const Tensor& dx, BlockSaved& saved, std::int64_t sequences, std::int64_t seq,
                      const PassContext& pass, const PairMagnitudes& known, const PairMagnitudes& raise);
  /// Final norm, head and the loss of each target (F32 [T]), chunk by chunk; targets are where the model is; dx (F32
  /// [T, d], zeroed by the caller) undefined = loss only; `raise` as in block_backward.
  void head(const Tensor& x, const Tensor& targets, double loss_scale, const Tensor& dx, bool overwrite_gradients,
            const Tensor& losses, const PairMagnitudes& raise);

  LlamaConfig config_;
  Recipe recipe_;  // with high_precision in the activations' precision
  std::uint64_t seed_;
  DType activations_;
  Device device_;
  ParameterStorage storage_;
  Recompute recompute_ = Recompute::None;
  StepProfile* profile_ = nullptr;
  OperandObserver observer_;
  std::unique_ptr<WorkGraphs> graphs_;  // where they are wanted
  Staging tokens_sent_, targets_sent_, losses_read_;
  ParameterMemory memory_;
  std::vector<Parameter>& parameters_;
  std::vector<Block> blocks_;
  static constexpr std::size_t kLinearsPerBlock = 4;
  std::vector<Linear> linears_;                 // of each block: qkv, output, gate_up, down
  std::vector<std::size_t> linear_parameters_;  // their weights: indices into parameters_
  std::size_t embedding_ = 0;                   // indices into parameters_
  std::size_t final_norm_ = 0;
  std::size_t head_ = 0;
  OwnedTensor rope_cos_;
  OwnedTensor rope_sin_;
  Arena arena_;                   // activations of a pass
  Arena input_arena_;             // the input of a linear layer, where it is not kept
  Arena weight_arena_;            // quantised weights of a step
  std::array<Arena, 2> windows_;  // those of a block, where passes gather them
  Tensor magnitudes_;             // I32: of all layers, where ranks share values
  std::vector<std::int64_t> first_magnitude_;
  GatheredBytes gathered_;
  std::uint32_t step_ = 0;   // that was prepared
  std::int64_t passes_ = 0;  // of it, so far
  bool measured_ = false;    // the step that was prepared is
  Tensor head_weight_;       // the head in the activations' precision
  Tensor embedding_rows_;    // F32 [vocab, d]: all of them
};

}  // namespace nibble
