#include <cmath>

#include "nibble/cli/arguments.h"
#include "nibble/cli/cost_parallel.h"
#include "nibble/cli/cost_tables.h"
#include "nibble/io/data_file.h"
#include "nibble/scaling/law_file.h"
#include "nibble/scaling/points.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr double kTokensPerParameter = 20;  // Hoffmann et al. 2022
constexpr std::int64_t kScalingGpus = 8;    // a node of a curve, unless --gpus says otherwise
constexpr std::int64_t kScalingRanks = 16'384;
constexpr std::int64_t kStrongBatch = 8;  // times the default batch: about 4 M tokens a step, as large runs have

class CostCommand final : public Command {
 public:
  std::string name() const override { return "cost"; }
  std::string summary() const override { return "say what training a model by a recipe costs on a device"; }
  std::string examples() const override {
    return "  nibble cost --model llama-1.3b --recipe wang2025 --device h100-sxm --tokens 100B\n"
           "  nibble cost --model llama2-7b --recipe ./mine.toml --device b200 --devices 8 --eff-n 0.64 --eff-d 0.94\n"
           "  nibble cost --model quartet-30m --recipe fp4-direct --device cpu --json\n"
           "  nibble cost --model llama2-7b --recipe all --device h100-sxm --micro-batch 8 --seq 2048 --memory\n"
           "  nibble cost --model llama2-7b --recipe nvfp4 --device h100-sxm --gpus 8 --nodes 16 --zero 3\n"
           "  nibble cost --model llama-1.3b --recipe wang2025 --device h100-sxm --zero 1 --gradients fp8 --scaling "
           "weak";
  }
  void declare(Arguments& a) override {
    a.text("--model", model_, "a file of models/ by name, or a path", true);
    a.list("--recipe", recipes_, "recipe by name or file; with --memory several, or all", true);
    a.text("--device", device_, "a file of devices/ by name, or a path; cpu: this machine, measured");
    a.integer("--batch", batch_,
              "sequences an optimizer step on each device, with --scaling strong on all; 0: about 2^19 "
              "tokens, strong 2^22");
    a.integer("--micro-batch", micro_batch_, "sequences a pass; 0: about 2^14 tokens");
    a.integer("--seq", seq_, "tokens a sequence; 0: the model's");
    a.text("--tokens", tokens_, "of the whole run (suffixes k, M, G or B, T); empty: 20 a parameter");
    a.number("--price", price_, "USD a device and hour; negative: the device file's");
    a.integer("--devices", devices_, "devices that share the run");
    a.text("--optimizer", optimizer_, "adamw, adamw-fp8 or fp8-lm");
    a.text("--gradients", gradients_,
           "f32 or bf16, of the weights of linear layers; between GPUs all matrices' travel so, or in fp8");
    a.integer("--gpus", gpus_, "GPUs a node, which exchange what a step needs; 0: one, with --scaling 8");
    a.integer("--nodes", nodes_, "nodes; 0: one, with --scaling as many as 16,384 GPUs take");
    a.integer("--zero", zero_, "ZeRO level, 0 to 3: what GPUs divide among them");
    a.text("--scaling", scaling_, "weak or strong: the curve from 1 GPU on instead of one run");
    a.number("--node-link", node_link_, "GB/s that a GPU sends to its node; 0: the device file's");
    a.number("--network", network_, "Gbit/s that a GPU sends to other nodes; 0: the device file's");
    a.text("--recompute", recompute_,
           "none, block-parts or block: what the backward computes again; counted in memory");
    a.flag("--memory", memory_, "only the memory, by recipe, optimizer and level of recomputation");
    a.flag("--fused", fused_, "quantisers read a tensor once, its amax being known");
    a.text("--law", law_, "scaling law for the loss: a file of laws/ by name, or a path");
    a.number("--eff-n", eff_n_, "effN of the recipe; negative: the law file's");
    a.number("--eff-d", eff_d_, "effD of the recipe; negative: the law file's");
    a.flag("--json", json_, "print JSON");
  }
  int run() override {
    const std::vector<Recipe> recipes = read_recipes();
    const CostQuestion question = read_question(recipes.front());
    if (!scaling_.empty()) {
      print_curve(question);
      return 0;
    }
    if (memory_) {
      fmt::print("{}", memory_matrix(question, recipes));
      return 0;
    }
    const CostEstimate estimate = estimate_cost(question);
    const CostLoss loss = predict_loss_of(question);
    fmt::print("{}", json_ ? cost_json(question, estimate, loss) : cost_text(question, estimate, loss));
    return 0;
  }

 private:
  std::vector<Recipe> read_recipes() const {
    const bool all = recipes_ == std::vector<std::string>{"all"};
    if (!memory_ && (all || recipes_.size() != 1))
      user_error("--recipe names several recipes: that goes with --memory");
    std::vector<Recipe> recipes;
    for (const std::string& name : all ? known_recipes() : recipes_) recipes.push_back(load_recipe(find_recipe(name)));
    return recipes;
  }

  CostQuestion read_question(const Recipe& recipe) const {
    CostQuestion q;
    q.model = load_llama_config(find_data_file("models", model_, "model"));
    q.recipe = recipe;
    q.device = device_ == "cpu" ? this_cpu() : load_device(find_data_file("devices", device_, "device"));
    q.assumptions.fused = fused_;
    q.assumptions.transposed_copies = !q.device.is_cpu;
    q.parallel = read_parallel(q.device);
    // FP8 is a way to travel: they are added up in F32.
    const bool codes = q.parallel.gradients == GradientFormat::FP8;
    q.optimizer = optimizer_layout(optimizer_, codes ? "f32" : gradients_);
    if (q.optimizer.gradient == 1) q.parallel.gradients = GradientFormat::FP8;
    q.recompute = read_recompute();
    if (seq_ < 0 || batch_ < 0 || micro_batch_ < 0) user_error("--seq, --batch and --micro-batch must not be negative");
    if (devices_ < 1) user_error("--devices is {}, must be at least 1", devices_);
    q.model.seq = seq_ > 0 ? seq_ : q.model.seq;
    q.batch = default_batch(q.model.seq);
    if (scaling_ == "strong") q.batch.sequences *= kStrongBatch;
    if (micro_batch_ > 0) q.batch.micro_sequences = micro_batch_;
    if (batch_ > 0) {
      q.batch.sequences = batch_;
      if (micro_batch_ == 0) q.batch.micro_sequences = std::min(q.batch.micro_sequences, batch_);
    } else {
      const std::int64_t micro = q.batch.micro_sequences;
      q.batch.sequences = std::max<std::int64_t>(1, q.batch.sequences / micro) * micro;
    }
    if (q.batch.sequences % q.batch.micro_sequences != 0) {
      user_error("--micro-batch {} does not divide --batch {}: choose a divisor", q.batch.micro_sequences,
                 q.batch.sequences);
    }
    const std::int64_t ranks = scaling_.empty() ? q.parallel.cluster.ranks() : 1;
    q.devices = static_cast<double>(ranks > 1 ? ranks : devices_);
    q.tokens = kTokensPerParameter * static_cast<double>(q.model.non_embedding_parameters());
    if (!tokens_.empty()) q.tokens = parse_count(tokens_, "--tokens");
    if (price_ >= 0) q.device.price_date.clear();
    q.usd_per_device_hour = price_ >= 0 ? price_ : q.device.usd_per_hour;
    return q;
  }

  Parallel read_parallel(DeviceSpec& device) const {
    Parallel p;
    const bool curve = !scaling_.empty();
    if (curve && scaling_ != "weak" && scaling_ != "strong") {
      user_error("--scaling is '{}', must be weak or strong", scaling_);
    }
    if (gpus_ < 0 || nodes_ < 0 || gpus_ > kScalingRanks || nodes_ > kScalingRanks) {
      user_error("--gpus {} and --nodes {} must be from 1 to {}", gpus_, nodes_, kScalingRanks);
    }
    if (zero_ < 0 || zero_ > 3) user_error("--zero is {}, must be from 0 to 3", zero_);
    p.cluster = {gpus_ > 0 ? gpus_ : curve ? kScalingGpus : 1, std::max<std::int64_t>(1, nodes_)};
    p.zero = static_cast<int>(zero_);
    p.gradients = read_gradient_format(gradients_);
    const bool several = curve || p.cluster.ranks() > 1;
    if (several && devices_ > 1) user_error("--devices is for runs whose exchange is not counted: leave it out");
    if (curve && memory_) user_error("--scaling and --memory are two tables: ask for one");
    const auto doubles = [](std::int64_t n) { return (n & (n - 1)) == 0; };
    if (curve && !(doubles(p.cluster.gpus) && doubles(p.cluster.nodes))) {
      user_error("--gpus {} and --nodes {}: a curve doubles the GPUs, so both must be powers of two", p.cluster.gpus,
                 p.cluster.nodes);
    }
    if (!several && p.gradients == GradientFormat::FP8) {
      user_error("--gradients fp8 is how they travel between GPUs: add --gpus, --nodes or --scaling");
    }
    if (node_link_ < 0 || network_ < 0) user_error("--node-link and --network must not be negative");
    if (node_link_ > 0) device.node_link.bandwidth = node_link_ * 1e9;
    if (network_ > 0) device.network_link.bandwidth = network_ * 1e9 / 8;
    if (several && !device.has_links()) {
      user_error("--device {} has no links between GPUs: name a device file with a table [links]", device_);
    }
    return p;
  }

  void print_curve(const CostQuestion& q) const {
    const Scaling scaling = scaling_ == "weak" ? Scaling::Weak : Scaling::Strong;
    const std::int64_t most = nodes_ > 0 ? q.parallel.cluster.ranks() : kScalingRanks;
    // A number of nodes that was asked for has to be reached.
    if (nodes_ > 0 && scaling == Scaling::Strong) share_of_batch(q.batch, most);
    const ScalingCurve curve = scaling_curve(q, scaling, most);
    fmt::print("{}", json_ ? scaling_json(q, scaling, curve) : scaling_text(q, scaling, curve));
  }

  Recompute read_recompute() const {
    for (const auto& [name, level] : kRecomputeNames) {
      if (name == recompute_) return level;
    }
    user_error("--recompute is '{}', must be none, block-parts or block", recompute_);
  }

  CostLoss predict_loss_of(const CostQuestion& q) const {
    CostLoss loss;
    const ScalingFit fit = load_law(find_data_file("laws", law_, "law"));
    for (const RecipeFit& recipe : fit.recipes) {
      if (recipe.recipe != q.recipe.name) continue;
      loss.known = true;
      loss.values = recipe.efficiency;
      loss.efficiency = "of the law's file";
    }
    if (eff_n_ >= 0 || eff_d_ >= 0) {
      if (eff_n_ == 0 || eff_d_ == 0) user_error("--eff-n and --eff-d must be above 0");
      loss.known = true;
      if (eff_n_ > 0) loss.values.n = eff_n_;
      if (eff_d_ > 0) loss.values.d = eff_d_;
      loss.efficiency = "given";
    }
    if (loss.known) {
      loss.law = fit.title.empty() ? law_ : fit.title;
      loss.prediction =
          predict(fit.law, static_cast<double>(q.model.non_embedding_parameters()), q.tokens, loss.values);
    }
    return loss;
  }

  std::vector<std::string> recipes_;
  std::string model_, device_ = "cpu", tokens_, optimizer_ = "adamw", gradients_ = "f32", recompute_ = "none",
                      law_ = "quartet", scaling_;
  std::int64_t batch_ = 0, micro_batch_ = 0, seq_ = 0, devices_ = 1, gpus_ = 0, nodes_ = 0, zero_ = 0;
  double price_ = -1, eff_n_ = -1, eff_d_ = -1, node_link_ = 0, network_ = 0;
  bool fused_ = false, json_ = false, memory_ = false;
};

}  // namespace

std::unique_ptr<Command> make_cost_command() { return std::make_unique<CostCommand>(); }

}  // namespace nibble
