// Linear: Y = X W^T by a recipe. It holds no weights: it is told which matrices to use, so one class serves every
// layer, and the three products of a layer can be read in one place (linear.cpp).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "nibble/ops/gemm.h"
#include "nibble/quant/quantize.h"
#include "nibble/recipe/oscillation_watch.h"
#include "nibble/recipe/outlier_channels.h"
#include "nibble/recipe/product_quality.h"
#include "nibble/recipe/random_streams.h"
#include "nibble/recipe/recipe.h"
#include "nibble/recipe/row_gather.h"
#include "nibble/recipe/weight_gather.h"
#include "nibble/tensor/profile.h"

namespace nibble {

class Linear;

/// Quality of the six operands, summed over whatever was measured.
using LinearQuality = std::array<QuantQuality, 6>;

/// Rows of a product that are measured: an eighth, at least `least` where there are so many.
std::int64_t measured_rows(std::int64_t rows, std::int64_t least);
/// The least number of tokens that are measured, where there are so many.
inline constexpr std::int64_t kMeasuredTokens = 16;

/// Sees the tensors that a pass quantises: x and w before fprop, dY before the backward products.
using OperandObserver = std::function<void(const Linear& linear, Operand operand, const Tensor& source)>;

/// What a pass through the layers carries along.
struct PassContext {
  Arena& arena;  ///< activations; lives until the backward of the pass is done
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  /// Position of this pass's first token in the global batch of the step: random numbers are keyed by it, so that
  /// they do not depend on how a batch is cut into micro-batches.
  std::int64_t first_token = 0;
  /// Whether weight gradients are overwritten (as by the first micro-batch of a step) or added to.
  bool overwrite_gradients = true;
  bool measure_quality = false;
  StepProfile* profile = nullptr;  ///< receives the time of each op, when given
  const OperandObserver* observer = nullptr;
  /// Tokens of the step's whole batch: the row stride of random numbers where a token is a column.
  std::int64_t tokens_per_step = 0;
  /// A forward that is computed again for its backward: it has been measured and observed already.
  bool again = false;
  /// No backward follows: a forward finds nothing for it.
  bool inference = false;
};

class Linear {
 public:
  /// `id` is unique in the model: it keys the random numbers. `recipe` must outlive the layer, which is one of block
  /// `block` of `blocks`.
  Linear(std::string name, std::uint32_t id, const Recipe& recipe, std::int64_t block, std::int64_t blocks);

  /// Which of the recipe's stages holds from now on; 0 at first. State of what the new stage does not do as the old one
  /// did begins anew.
  void set_stage(std::size_t stage);

  /// Quantises the weight W [N, K] (F32) for this step, from `weight_arena`, which must outlive the step; `scratch` is
  /// another arena, as it was when prepare returns.
  void prepare(const Tensor& w, std::uint64_t seed, std::uint32_t step, Arena& weight_arena, Arena& scratch,
               bool measure_quality);

  /// Prepare where ranks share the rows of W, for every layer in the same order on every rank. Once for each W and
  /// step:
  ///
  ///     linear.find_magnitudes(rows, ..., magnitudes, ...)      I32 [linear.magnitudes(rows)]
  ///     communicator.all_reduce(magnitudes, Reduce::Max)        those of all layers at once
  ///
  /// and then, once or for the forward and `again` for the backward:
  ///
  ///     linear.start_prepare(rows, magnitudes, ...)             quantises this rank's rows, starts what gathers them
  ///     linear.finish_prepare(scratch)                          waits; what `use` reads is as prepare(W) leaves it
  ///
  /// `seed`, `step`, `measure` and the arenas are prepare's. What is gathered is taken from `weight_arena`, also by
  /// finish_prepare; other layers may be started in between. In a measured step W itself is gathered, too, and no
  /// operand is measured twice. What travels: gather(), which start_prepare returns until finish_prepare.
  ///
  /// On a GPU codes keep the form that they travel in, where prepare would have stored them as a product reads them:
  /// the same values.
  std::int64_t magnitudes(const WeightRows& w);
  void find_magnitudes(const WeightRows& w, std::uint64_t seed, std::uint32_t step, const Tensor& magnitudes,
                       Arena& scratch);
  WeightGather gather(const WeightRows& w, WeightUse use, bool measure);
  const WeightGather& start_prepare(const WeightRows& w, const Tensor& magnitudes, Communicator& communicator,
                                    std::uint64_t seed, std::uint32_t step, Arena& weight_arena, Arena& scratch,
                                    WeightUse use, bool measure, bool again = false);
  void finish_prepare(Arena& scratch);

  /// The matrix that prepare was given, at another place: for a pass that reads it (measurements, observers, DGE, signs
  /// drawn for every pass) where the first place does not last.
  void lend_weight(const Tensor& w) { weight_ = w; }

  /// What backward needs of forward.
  struct Saved {
    QTensor x;          ///< fprop.x as quantised (with its residual)
    Tensor source;      ///< X as given, for recipes that quantise it again in wgrad and for measurements
    QTensor outliers;   ///< the outlier channels of X, where some are chosen
    Tensor wgrad_amax;  ///< QuantizeContext::amax of X in wgrad, where the pass over X that fprop needs found it, too
  };

  /// y [T, N] = addend + X W^T; x [T, K] in F32 or BF16. The addend is of y's shape and dtype and may be y; undefined
  /// = 0. An undefined y = only what backward needs is wanted. Touches no state.
  Saved forward(const Tensor& x, const Tensor& y, const Tensor& addend, const PassContext& pass);

  /// Whether anything in the backward of a pass reads X as it was given: wgrad, measuring or the choice of channels.
  bool backward_reads_input(const PassContext& pass) const;
  /// Whether a pass takes nothing of X but what fprop quantises: the backward does not, and nobody observes.
  bool reads_codes_alone(const PassContext& pass) const;
  /// Q(X), as quantize(X, spec, context, arena) gives it, by whoever makes X.
  using QuantizedInput = std::function<QTensor(const QuantSpec& spec, const QuantizeContext& context, Arena& arena)>;
  /// The same from an X [rows, cols] that is never written, where reads_codes_alone: the same bits.
  Saved forward(std::int64_t rows, std::int64_t cols, const QuantizedInput& quantized, const Tensor& y,
                const Tensor& addend, const PassContext& pass);
  /// dx [T, K] (F32 or BF16, overwritten) and dw [N, K] (F32, by pass.overwrite_gradients) from dy [T, N]. `known`:
  /// what wanted_magnitudes gave, raised to those of dy.
  void backward(const Tensor& dy, const Saved& saved, const Tensor& dx, const Tensor& dw, const PassContext& pass,
                const PairMagnitudes& known = {});
  /// Of a dy that is about to be written at that place, where quantising it for the backward starts from them; from
  /// `arena`. Undefined where it does not.
  PairMagnitudes wanted_magnitudes(const Tensor& dy, const Saved& saved, const PassContext& pass, Arena& arena) const;

  /// After the optimizer changed W (F32 [N, K]) in step `step` of `steps`: moving averages, oscillation statistics and
  /// resets, which may write W. Returns how many weights were reset.
  std::int64_t after_update(const Tensor& w, std::int64_t step, std::int64_t steps, Arena& scratch);
  /// The same of shared rows, on every rank; returns the resets among this rank's.
  std::int64_t after_update(const WeightRows& w, Communicator& communicator, std::int64_t step, std::int64_t steps,
                            Arena& scratch);

  /// The state that a checkpoint must hold for the weight W (F32 [N, K]), each with a name unique in the layer; empty
  /// for most recipes. Names and shapes depend on recipe, stage and the shape of W alone; tensors are allocated on the
  /// first call after construction or set_stage, so a resumed run can read into them. Where ranks share the rows of W,
  /// `w` is this rank's and so are the rows of state_has_rows; the others are the same on all ranks.
  void visit_state(const Tensor& w, const std::function<void(const std::string& name, const Tensor& tensor)>& f);

  /// Whether the state of that name has W's rows and columns.
  static bool state_has_rows(const std::string& name) { return name.rfind("outlier_", 0) != 0; }

  const std::string& name() const { return name_; }
  /// How the layer runs in the current stage.
  const LinearRecipe& recipe() const { return *recipe_; }
  /// Elements of W; known after prepare.
  std::int64_t weights() const { return weight_.numel(); }
  /// What was measured since reset_quality(); an operand that fprop's serves again has fprop's figures.
  LinearQuality quality() const;
  /// Of passes that overwrite the gradients: y of the first eighth of their tokens (at least 16), dX of the same, and
  /// an eighth of the rows of dW, as the optimizer sees them, estimator, mask and residual included. A product of
  /// unquantised operands is not measured and has a count of 0.
  const LinearProducts& products() const { return products_; }
  /// Between the last measured step and the one after it, of an eighth of W's rows; known after that step's
  /// after_update, and until another step was measured. Nothing where W is not quantised.
  const std::optional<Oscillation>& oscillation() const { return oscillation_; }
  void reset_quality();
  /// OutlierSelection::observed of the layer: what ranks add up before after_update.
  Tensor observed() const { return outliers_.observed(); }
  /// How fprop, dgrad and wgrad run on this machine; known after the first pass.
  const std::array<GemmPath, 3>& paths() const { return paths_; }

 private:
  /// Between start_prepare and finish_prepare.
  struct Gathering {
    WeightGather plan;
    RowGather fprop, dgrad, outliers;
    ValueGather weight, bf16_rows, average;
    Arena* weight_arena = nullptr;
    WeightNeeds needs;
    bool measure = false;
    bool again = false;
    RowRange own;
  };

  // linear.cpp: the products
  QTensor quantise(Operand operand, const Tensor& x, const QuantizeContext& context, Arena& arena, bool measure,
                   StepProfile* profile);
  void measure_operand(Operand operand, const Tensor& x, const QTensor& q, const QuantizeContext& context, Arena& arena,
                       StepProfile* profile);
  QuantizeContext fprop_context(const Tensor& x, const PassContext& pass) const;
  void fprop(const Saved& saved, const Tensor& y, const Tensor& addend, const PassContext& pass);
  QuantizeContext dgrad_gradient_context(const Tensor& dy, const QTensor& w, const PassContext& pass) const;
  QuantizedPair quantise_gradient(const Tensor& dy, const QTensor& w, const Saved& saved, const PassContext& pass,
                                  const PairMagnitudes& known);
  void dgrad(const Tensor& dy, const Saved& saved, const Tensor& dx, const PassContext& pass,
             const PairMagnitudes& known, QuantizedPair* q);
  void prepare_operands(const WeightNeeds& needs, Gathering* gathered, Arena& weight_arena, Arena& scratch,
                        bool measure, bool again);
  void wgrad(const Tensor& dy, const QTensor& ready_dy, const Saved& saved, const Tensor& dw, const PassContext& pass);

  // linear_operands.cpp: what the operands are quantised from, and by which random numbers
  bool from_fprop(Operand operand) const { return (*recipe_)[operand].source != OperandSource::HighPrecision; }
  const Hadamard& basis() const { return (*recipe_)[Operand::FpropW].quant.hadamard; }  // of fprop's operands
  RandomStream basis_signs() const;
  QuantizeContext token_context(RandomStream random, const QuantSpec& spec, Product product, const Tensor& x,
                                const PassContext& pass) const;
  QuantizeContext token_context(Operand operand, const Tensor& x, const PassContext& pass,
                                std::uint32_t sample = 0) const;
  QuantizeContext wgrad_gradient_context(const Tensor& dy, const QTensor& x, const PassContext& pass,
                                         std::uint32_t sample) const;
  Tensor find_amaxes(const Tensor& x, QuantizeContext& fprop, const PassContext& pass) const;
  bool codes_are_only_multiplied() const;
  /// The rows that a W is of a larger one, and what is known of that.
  struct Part {
    std::int64_t first = 0;  ///< row
    std::int64_t of = 0;     ///< rows; 0 = W is the whole
    Tensor magnitudes;       ///< QuantizeContext::amax
    Tensor average;          ///< of these rows, where it isn't weight_average_
  };
  struct WeightSource {
    Tensor values;
    QuantizeContext context;
  };
  WeightSource weight_source(const Tensor& w, std::uint32_t step, Arena& arena, bool measure, const Part& part) const;
  QTensor quantise_weight(const Tensor& w, std::uint32_t step, Arena& arena, bool measure, const Part& part);
  WeightSource dgrad_weight_source(const Tensor& w, std::uint64_t seed, std::int64_t first_token, bool measure,
                                   const Part& part) const;
  QTensor quantise_outliers(StreamUse use, const Tensor& channels, bool transposed, Product product,
                            const PassContext& pass);
  WeightSource weight_outlier_source(const Tensor& w, std::uint32_t step, Arena& arena, const Part& part) const;
  QTensor quantise_weight_outliers(const Tensor& w, std::uint32_t step, Arena& arena);
  QTensor quantise_dgrad_weight(std::uint64_t seed, std::int64_t first_token, Arena& arena, Arena& scratch,
                                bool measure);
  Tensor forward_weight(const QTensor& w, const QTensor& outliers, Arena& arena) const;
  Tensor in_basis_of_fprop(const Tensor& w, Arena& arena) const;
  bool splits_outliers(const Saved& saved) const;
  Tensor wgrad_source(const Saved& saved, Arena& arena) const;
  QTensor quantise_wgrad_x(const Saved& saved, const PassContext& pass);
  Tensor outlier_source(const Saved& saved, Arena& arena) const;

  // linear_gather.cpp: where ranks share the rows of W
  enum class WeightOperand : std::uint8_t { Fprop, Dgrad, Outliers };
  static constexpr std::array kWeightOperands = {WeightOperand::Fprop, WeightOperand::Dgrad, WeightOperand::Outliers};
  /// This rank's rows of W, quantised, among those of q.
  struct OwnRows {
    QTensor q;
    RowRange rows;
  };
  const QuantSpec& spec_of(WeightOperand which) const;
  std::int64_t chosen_channels() const;
  std::int64_t cols_of(WeightOperand which, const WeightRows& w) const;
  WeightSource own_source(WeightOperand which, const WeightRows& w, std::uint32_t step, const Tensor& magnitudes,
                          Arena& scratch) const;
  std::array<Tensor, 3> magnitudes_of_operands(const WeightRows& w, const Tensor& all) const;
  void keep_measured_rows(RowRange own, Arena& scratch);
  OwnRows quantise_own_rows(WeightOperand which, const WeightRows& w, std::uint32_t step, Communicator& communicator,
                            Arena& scratch);
  static Tensor own_values(const OwnRows& own, Arena& arena);
  void measure_oscillation(const WeightRows& w, Communicator& communicator, Arena& scratch);
  void require_weight(const char* reader) const;

  // linear_state.cpp: what lasts from step to step
  void ensure_state(const Tensor& w);
  void move_average(const Tensor& w, std::int64_t step);
  std::int64_t reset_oscillating(const Tensor& w, const QTensor& q, RowRange rows_of_q, std::int64_t step,
                                 std::int64_t steps, Arena& scratch);

  // linear_measure.cpp
  bool measures(Product product, const PassContext& pass) const;
  void measure_fprop(const Tensor& x, const Tensor& y, const Tensor& before, const PassContext& pass);
  void measure_dgrad(const Tensor& dy, const Tensor& dx, const PassContext& pass);
  void measure_wgrad(const Tensor& dy, const Tensor& x, const Tensor& dw, const PassContext& pass);
  void measure_oscillation(const Tensor& w, Arena& scratch);

  std::string name_;
  std::uint32_t id_;
  const Recipe& whole_recipe_;
  std::int64_t block_;
  std::int64_t blocks_;
  const LinearRecipe* recipe_;

  // Of this step
  Tensor weight_;  // [N, K], the source: F32, or BF16 as gathered; without memory where only codes were
  std::unique_ptr<Gathering> gathering_;
  std::uint64_t seed_ = 0;
  std::uint32_t step_ = 0;
  QTensor fprop_w_;
  QTensor dgrad_w_;                      // defined when dgrad quantises W by itself, once a step
  QTensor outlier_w_;                    // the outlier channels of W, where some are chosen
  Tensor other_channels_;                // F32 [K]: 0 at the outlier channels, else 1; where some are chosen
  Tensor weight_transposed_;             // [K, N] BF16, for the sparse residual's product
  std::array<bool, 2> quality_known_{};  // of this step: fprop.w's, dgrad.w's
  Tensor measured_weight_;               // F32: a sample of W's rows, in a step that is measured
  // The same where rows are shared, of this rank's: W and Q(W) in fprop's basis
  OwnedTensor measured_before_, measured_quantised_;

  // From step to step
  bool has_state_ = false;
  OutlierSelection outliers_;
  OwnedTensor weight_average_;  // F32 [N, K]
  OscillationWatch oscillation_watch_;

  LinearQuality quality_;
  LinearProducts products_;
  std::optional<Oscillation> oscillation_;
  std::array<GemmPath, 3> paths_{GemmPath::F32, GemmPath::F32, GemmPath::F32};
};

}  // namespace nibble
