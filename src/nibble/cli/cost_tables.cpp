#include "nibble/cli/cost_tables.h"

#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "nibble/cli/cost_parallel.h"
#include "nibble/cost/published.h"
#include "nibble/io/format.h"
#include "nibble/report/table.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

using Json = nlohmann::ordered_json;

std::string bytes_text(double bytes) { return bytes == 0 ? "0" : format_count(bytes) + "B"; }
std::string milliseconds(double seconds) {
  const double ms = seconds * 1e3;
  return fmt::format("{:.{}f}", ms, ms < 0.995 ? 3 : ms < 99.5 ? 2 : 1);
}
std::string share_text(double part, double whole) { return fmt::format("{:.1f}", 100 * part / whole); }

std::string step_table(const CostEstimate& e) {
  TextTable table;
  table.columns = {
      {"part", Align::Left}, {"", Align::Left}, {"runs on", Align::Left}, {"FLOPs"}, {"bytes"}, {"ms"}, {"%"}};
  double flops = 0;
  double bytes = 0;
  for (const StepPart& part : e.step.parts) {
    flops += part.flops;
    bytes += part.bytes;
    table.rows.push_back({part.name, part.product, part.path, format_count(part.flops), bytes_text(part.bytes),
                          milliseconds(part.seconds), share_text(part.seconds, e.step.seconds)});
  }
  table.rows.push_back({"step", "", "", format_count(flops), bytes_text(bytes), milliseconds(e.step.seconds), "100"});
  return format_table(table);
}

std::string layer_table(const CostEstimate& e) {
  TextTable table;
  table.columns = {{"product", Align::Left},
                   {"linear", Align::Left},
                   {"M x N x K"},
                   {"runs on", Align::Left},
                   {"ms"},
                   {"+ quantising"},
                   {"BF16 ms"},
                   {"speed-up"},
                   {"why", Align::Left}};
  for (const LayerProduct& row : e.layer.rows) {
    const double autocast = row.cost.seconds + row.quantise_seconds;
    table.rows.push_back({product_name(row.product), row.linear, fmt::format("{} x {} x {}", row.m, row.n, row.k),
                          unit_name(row.cost.path.unit), milliseconds(row.cost.seconds), milliseconds(autocast),
                          milliseconds(row.bf16_seconds), fmt::format("{:.2f}", row.bf16_seconds / autocast),
                          row.cost.path.why});
  }
  const LayerProducts& l = e.layer;
  table.rows.push_back(
      {"sum", "", "", "", milliseconds(l.prequantised_seconds()), milliseconds(l.autocast_seconds()),
       milliseconds(l.bf16_seconds()), fmt::format("{:.2f}", l.bf16_seconds() / l.autocast_seconds()),
       fmt::format("{:.2f} with operands quantised beforehand", l.bf16_seconds() / l.prequantised_seconds())});
  return format_table(table);
}

bool spreads(const CostQuestion& q) { return q.parallel.cluster.ranks() > 1; }

std::string memory_part(const CostQuestion& q, const CostEstimate& e) {
  const bool fits = e.memory.total() <= q.device.memory_bytes;
  return fmt::format("memory{}, recomputing {}\n{}\n{} into {} of memory; {} a pass at most\n",
                     spreads(q) ? " of a rank" : "", recompute_name(q.recompute), memory_table(e.memory),
                     fits ? "fits" : "does not fit", memory_text(q.device.memory_bytes),
                     e.largest_micro_batch == 1 ? std::string("1 sequence")
                                                : fmt::format("{} sequences", format_integer(e.largest_micro_batch)));
}

/// The accountings of Wang and Zhou for this model's shape.
WangSpeedup wang_of(const CostQuestion& q) {
  WangSpeedup wang{static_cast<double>(q.model.width), static_cast<double>(q.batch.seq)};
  const Clamp& clamp = q.recipe.base()[Operand::FpropX].quant.clamp;
  if (clamp.enabled()) wang.alpha = clamp.alpha;
  return wang;
}
ZhouCost zhou_of(const CostQuestion& q) {
  return {static_cast<double>(q.model.width), static_cast<double>(q.model.ffn), static_cast<double>(q.batch.seq)};
}

std::string published_text(const CostQuestion& q) {
  const WangSpeedup wang = wang_of(q);
  const ZhouCost zhou = zhou_of(q);
  return fmt::format(
             "Wang et al. 2025, FP4 in all products of a GPT layer of this width and length: ideal {:.3f}x; with DGE "
             "({:.3f} %) and OCC at alpha = {:g} {:.3f}x by the printed formula (OCC {:.2f} %), {:.3f}x as the printed "
             "figure has it ({:.2f} %)\n",
             wang.ideal(), 100 * wang.dge_share(), wang.alpha, wang.printed_formula(),
             100 * wang.printed_formula_occ_share(), wang.printed_figure(), 100 * wang.printed_figure_occ_share()) +
         fmt::format(
             "Zhou et al. 2025, forward shares FFN {:.1f} %, attention linears {:.1f} %, core {:.1f} %: all FP4 {:.1f} "
             "% of "
             "the 16-bit cost at rates 1/2/4, FP8 with FP4 FFN forward {:.1f} %; at 1/1.4/2 {:.1f} % and {:.1f} %\n",
             100 * zhou.ffn_share(), 100 * zhou.attention_linear_share(), 100 * zhou.core_share(),
             100 * zhou.relative(4, 4, 4), 100 * zhou.relative(4, 2, 2), 100 * zhou.relative(2, 2, 2),
             100 * zhou.relative(2, 1.4, 1.4));
}

std::string assumptions_text(const CostQuestion& q) {
  const DeviceSpec& d = q.device;
  std::string rates;
  for (const Unit unit : {Unit::Fp4, Unit::Fp8, Unit::Bf16, Unit::Int8, Unit::F32}) {
    if (!d.has(unit)) continue;
    rates += fmt::format("{}{} {:.4g} x {:.2f}", rates.empty() ? "" : ", ", unit_name(unit),
                         d.peak[static_cast<std::size_t>(unit)] * 1e-12, d.achieved[static_cast<std::size_t>(unit)]);
  }
  std::string out = fmt::format("rates      {} TFLOP/s (dense peak x share reached)\n", rates);
  out += fmt::format(
      "memory     {} at {:.0f} GB/s, elementwise {:.2f} and quantisers {:.2f} of it; {}\n", bytes_text(d.memory_bytes),
      d.bandwidth * 1e-9, d.bandwidth_achieved, d.quantise_achieved,
      q.assumptions.fused ? "fused: sources are read once" : "unfused: a tensor's amax is a pass of its own (--fused)");
  return out;
}

std::string prediction_text(const CostQuestion& q, const CostEstimate& e) {
  std::string out = fmt::format("{} tokens/s predicted", format_rate(e.tokens_per_second));
  if (spreads(q)) {
    out += fmt::format(" on {:g} GPUs", q.devices);
  } else if (q.devices > 1) {
    out += fmt::format(" on {:g} devices (perfect scaling)", q.devices);
  }
  out += fmt::format(", {:.1f} % of the 16-bit peak in model FLOPs; {} tokens take {}", 100 * e.model_flops_share,
                     format_count(q.tokens), format_duration(e.run_seconds));
  if (q.usd_per_device_hour > 0) {
    out += fmt::format(" and {} USD at {:g} USD a device and hour", format_integer(std::llround(e.run_usd)),
                       q.usd_per_device_hour);
    if (!q.device.price_date.empty()) out += fmt::format(" (list price of {})", q.device.price_date);
  }
  return out + "\n";
}

std::string loss_text(const CostLoss& loss) {
  if (!loss.known) return {};
  return fmt::format("loss by the law '{}' with effN {:.3g}, effD {:.3g} ({}): {:.4f} nats, {} % above BF16's {:.4f}\n",
                     loss.law, loss.values.n, loss.values.d, loss.efficiency, loss.prediction.loss,
                     format_gap(loss.prediction.gap_percent()), loss.prediction.baseline_loss);
}

Json parts_json(const std::vector<StepPart>& parts) {
  Json list = Json::array();
  for (const StepPart& p : parts) {
    list.push_back({{"part", p.name},
                    {"product", p.product},
                    {"path", p.path},
                    {"flops", p.flops},
                    {"bytes", p.bytes},
                    {"seconds", p.seconds}});
  }
  return list;
}

Json layer_json(const LayerProducts& layer) {
  Json list = Json::array();
  for (const LayerProduct& r : layer.rows) {
    list.push_back({{"product", product_name(r.product)},
                    {"linear", r.linear},
                    {"m", r.m},
                    {"n", r.n},
                    {"k", r.k},
                    {"path", unit_name(r.cost.path.unit)},
                    {"why", r.cost.path.why},
                    {"flops", r.cost.flops},
                    {"seconds", r.cost.seconds},
                    {"quantise_bytes", r.quantise_bytes},
                    {"quantise_seconds", r.quantise_seconds},
                    {"bf16_seconds", r.bf16_seconds}});
  }
  return list;
}

Json memory_json(const CostQuestion& q, const CostEstimate& e) {
  Json memory = Json::object();
  for (const MemoryPart& part : e.memory.parts) memory[part.name] = part.bytes;
  return {{"parts", memory},
          {"total", e.memory.total()},
          {"device", q.device.memory_bytes},
          {"largest_micro_batch", e.largest_micro_batch}};
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

double CostLoss::token_factor() const {
  return known ? prediction.catch_up_factor : std::numeric_limits<double>::quiet_NaN();
}

std::string cost_text(const CostQuestion& q, const CostEstimate& e, const CostLoss& loss) {
  std::string out = fmt::format(
      "model      {}: {} parameters, {} without embedding and head\nrecipe     {}: {}\ndevice     {}: {}\n"
      "step       {} sequences of {} = {} tokens a device, {} sequences a pass; {} optimizer, {:g} bytes a "
      "parameter\n{}\n",
      q.model.name, format_count(static_cast<double>(q.model.parameters())),
      format_count(static_cast<double>(q.model.non_embedding_parameters())), q.recipe.name, q.recipe.title,
      q.device.name, q.device.title, q.batch.sequences, q.batch.seq, format_integer(q.batch.sequences * q.batch.seq),
      q.batch.micro_sequences, q.optimizer.name, q.optimizer.bytes(), assumptions_text(q));
  out += step_table(e) + "\n";
  out += fmt::format("the twelve products of block {}, one pass of {} tokens\n", e.layer_index,
                     format_integer(q.batch.micro_sequences * q.batch.seq));
  out += layer_table(e) + "\n" + memory_part(q, e) + "\n";
  if (spreads(q)) out += communication_text(q, e) + "\n";
  out += prediction_text(q, e);
  out += fmt::format("speed-up of the step: {:.2f}x over BF16, {:.2f}x over FP8; theoretical relative cost {:.3f}\n",
                     e.speedup_over_bf16(), e.speedup_over_fp8(), e.theoretical_cost);
  out += published_text(q) + loss_text(loss) + "\n";
  return out + worth_sentence(q, e, loss.token_factor()) + "\n";
}

std::string memory_matrix(const CostQuestion& question, const std::vector<Recipe>& recipes) {
  constexpr std::array kLevels = {Recompute::None, Recompute::BlockParts, Recompute::Block};
  TextTable table;
  table.columns = {{"recipe", Align::Left}, {"optimizer", Align::Left}, {"gradients", Align::Left}};
  for (const Recompute level : kLevels) table.columns.push_back({fmt::format("recompute {}", recompute_name(level))});
  table.columns.push_back({"sequences that fit"});
  CostQuestion q = question;
  Sharding sharding = q.parallel.sharding();
  for (const Recipe& recipe : recipes) {
    for (const auto& [optimizer, gradients] :
         {std::pair{"adamw", "f32"}, {"adamw", "bf16"}, {"adamw-fp8", "f32"}, {"adamw-fp8", "bf16"}}) {
      q.optimizer = optimizer_layout(optimizer, gradients);
      // The rows vary the stored gradient; what travels is FP8 where that was asked for.
      if (q.parallel.gradients != GradientFormat::FP8) {
        sharding.travelling_gradient = gradient_format_bytes(read_gradient_format(gradients));
      }
      std::vector<std::string> row = {recipe.name, optimizer, gradients};
      std::string most;
      for (const Recompute level : kLevels) {
        row.push_back(
            memory_text(memory_cost(q.model, recipe, q.batch, q.optimizer, level, q.device, sharding).total()));
        most += fmt::format("{}{}", most.empty() ? "" : " / ",
                            largest_micro_batch(q.model, recipe, q.batch, q.optimizer, level, q.device, sharding));
      }
      row.push_back(most);
      table.rows.push_back(row);
    }
  }
  const std::string ranks =
      spreads(q) ? fmt::format(", each of {} with ZeRO-{}", q.parallel.cluster.ranks(), q.parallel.zero) : "";
  return fmt::format("memory of {} on {} ({}){}, {} sequences of {} a pass\n{}", q.model.name, q.device.title,
                     memory_text(q.device.memory_bytes), ranks, q.batch.micro_sequences, q.batch.seq,
                     format_table(table));
}

std::string cost_json(const CostQuestion& q, const CostEstimate& e, const CostLoss& loss) {
  const WangSpeedup wang = wang_of(q);
  const ZhouCost zhou = zhou_of(q);
  const Worth worth = judge_worth(e, loss.token_factor());
  Json sources = Json::object();
  for (const auto& [table, source] : q.device.sources) {
    if (spreads(q) || table != "links") sources[table] = source;
  }
  Json json = {
      {"model", q.model.name},
      {"parameters", q.model.parameters()},
      {"non_embedding_parameters", q.model.non_embedding_parameters()},
      {"recipe", q.recipe.name},
      {"device", {{"name", q.device.name}, {"title", q.device.title}, {"sources", sources}}},
      {"batch", {{"sequences", q.batch.sequences}, {"micro_sequences", q.batch.micro_sequences}, {"seq", q.batch.seq}}},
      {"optimizer", {{"name", q.optimizer.name}, {"bytes_per_parameter", q.optimizer.bytes()}}},
      {"recompute", recompute_name(q.recompute)},
      {"fused", q.assumptions.fused},
      {"step",
       {{"parts", parts_json(e.step.parts)},
        {"tokens", e.step.tokens},
        {"model_flops", e.step.model_flops},
        {"seconds", e.step.seconds}}},
      {"layer", layer_json(e.layer)},
      {"memory", memory_json(q, e)},
      {"tokens_per_second", e.tokens_per_second},
      {"model_flops_share", e.model_flops_share},
      {"run",
       {{"tokens", q.tokens},
        {"devices", q.devices},
        {"seconds", e.run_seconds},
        {"usd_per_device_hour", q.usd_per_device_hour},
        {"usd", e.run_usd}}},
      {"speedup_over_bf16", e.speedup_over_bf16()},
      {"speedup_over_fp8", e.speedup_over_fp8()},
      {"theoretical_cost", e.theoretical_cost},
      {"wang_accounting",
       {{"ideal", wang.ideal()},
        {"dge_share", wang.dge_share()},
        {"printed_formula", wang.printed_formula()},
        {"printed_formula_occ_share", wang.printed_formula_occ_share()},
        {"printed_figure", wang.printed_figure()},
        {"printed_figure_occ_share", wang.printed_figure_occ_share()}}},
      {"zhou_accounting",
       {{"ffn_share", zhou.ffn_share()},
        {"attention_linear_share", zhou.attention_linear_share()},
        {"core_share", zhou.core_share()},
        {"all_fp4_1_2_4", zhou.relative(4, 4, 4)},
        {"mixed_1_2_4", zhou.relative(4, 2, 2)},
        {"all_fp4_1_1.4_2", zhou.relative(2, 2, 2)},
        {"mixed_1_1.4_2", zhou.relative(2, 1.4, 1.4)}}},
      {"worth",
       {{"loss_known", worth.loss_known},
        {"worth_it", worth.worth_it},
        {"time_to_equal_loss_over_bf16", finite(worth.time_to_equal_loss)},
        {"time_to_equal_loss_over_fp8", finite(worth.time_to_equal_loss_fp8)},
        {"sentence", worth_sentence(q, e, loss.token_factor())}}}};
  if (spreads(q)) json["parallel"] = communication_json(q, e.parallel);
  if (loss.known) {
    json["loss"] = {{"law", loss.law},
                    {"eff_n", loss.values.n},
                    {"eff_d", loss.values.d},
                    {"loss", loss.prediction.loss},
                    {"bf16_loss", loss.prediction.baseline_loss},
                    {"token_factor", finite(loss.prediction.catch_up_factor)}};
  }
  return json.dump(2) + "\n";
}

}  // namespace nibble
