#include "nibble/cli/cost_parallel.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "nibble/io/format.h"
#include "nibble/report/table.h"

namespace nibble {

namespace {

using Json = nlohmann::ordered_json;

std::string bytes_text(double bytes) { return bytes == 0 ? "0" : format_count(bytes) + "B"; }
std::string milliseconds(double seconds) { return fmt::format("{:.{}f}", seconds * 1e3, seconds < 0.0995 ? 2 : 1); }

std::string ranks_text(const Cluster& c) {
  return fmt::format("{} GPUs in {} node{}", c.ranks(), c.nodes, c.nodes == 1 ? "" : "s");
}

Json sent_json(const SentBytes& sent) {
  return {{"node", sent.node}, {"network", sent.network}, {"total", sent.total()}};
}

Json link_json(const Link& link) {
  return {{"bytes_per_second", link.bandwidth}, {"achieved", link.achieved}, {"latency_seconds", link.latency}};
}

const char* scaling_name(Scaling scaling) { return scaling == Scaling::Weak ? "weak" : "strong"; }

std::string links_text(const CostQuestion& q) {
  const Link& node = q.device.node_link;
  const Link& network = q.device.network_link;
  return fmt::format(
      "links      in a node {:g} GB/s x {:.2f}, {:g} us a step; between nodes {:g} Gbit/s x {:.2f} a GPU, {:g} us\n",
      node.bandwidth * 1e-9, node.achieved, node.latency * 1e6, network.bandwidth * 8e-9, network.achieved,
      network.latency * 1e6);
}

}  // namespace

std::string communication_text(const CostQuestion& q, const CostEstimate& e) {
  const ParallelCost& cost = e.parallel;
  TextTable table;
  table.columns = {{"a rank sends in a step", Align::Left}, {"in its node"}, {"to other nodes"}, {"bytes"}};
  const auto row = [&](const std::string& name, const SentBytes& sent) {
    if (sent.total() == 0) return;
    table.rows.push_back({name, bytes_text(sent.node), bytes_text(sent.network), bytes_text(sent.total())});
  };
  row(fmt::format("gradients, {}", gradient_format_name(q.parallel.gradients)), cost.gradients);
  row("amax of gradients", cost.amax);
  row("parameters after the update", cost.parameters);
  row("weights for the passes", cost.weights);
  row("sum", cost.sent());
  std::string out = fmt::format("communication of {}, ZeRO-{}\n{}{}", ranks_text(q.parallel.cluster), q.parallel.zero,
                                links_text(q), format_table(table));
  if (cost.bf16_weights > 0) {
    const double saved = 100 * (1 - cost.weights.total() / cost.bf16_weights);
    out += fmt::format("in BF16 the weights would be {}: {:.0f} % {}\n", bytes_text(cost.bf16_weights), std::abs(saved),
                       saved < 0 ? "more travels, since the recipe reads W itself" : "are saved");
  }
  out += fmt::format("step {} ms: communication {} ms, {} ms of it exposed ({:.1f} %)\n", milliseconds(cost.seconds),
                     milliseconds(cost.communication), milliseconds(cost.exposed), 100 * cost.exposed / cost.seconds);
  return out;
}

Json communication_json(const CostQuestion& q, const ParallelCost& cost) {
  return {{"gpus", q.parallel.cluster.gpus},
          {"nodes", q.parallel.cluster.nodes},
          {"ranks", q.parallel.cluster.ranks()},
          {"zero", q.parallel.zero},
          {"gradients", gradient_format_name(q.parallel.gradients)},
          {"node_link", link_json(q.device.node_link)},
          {"network_link", link_json(q.device.network_link)},
          {"bytes_sent",
           {{"gradients", sent_json(cost.gradients)},
            {"amax", sent_json(cost.amax)},
            {"parameters", sent_json(cost.parameters)},
            {"weights", sent_json(cost.weights)},
            {"sum", sent_json(cost.sent())}}},
          {"bf16_weight_bytes", cost.bf16_weights},
          {"communication_seconds", cost.communication},
          {"exposed_seconds", cost.exposed},
          {"step_seconds", cost.seconds}};
}

std::string scaling_text(const CostQuestion& q, Scaling scaling, const ScalingCurve& curve) {
  TextTable table;
  table.columns = {{"GPUs"},    {"nodes"},      {"sequences a GPU"}, {"tokens/s"},     {"efficiency %"},
                   {"step ms"}, {"exposed ms"}, {"sent a GPU"},      {"memory a GPU"}, {"fits", Align::Left}};
  for (const ScalingRow& row : curve.rows) {
    table.rows.push_back({format_integer(row.cluster.ranks()), format_integer(row.cluster.nodes),
                          format_integer(row.batch.sequences), format_rate(row.tokens_per_second),
                          fmt::format("{:.1f}", 100 * row.efficiency), milliseconds(row.cost.seconds),
                          milliseconds(row.cost.exposed), bytes_text(row.cost.sent().total()),
                          memory_text(row.memory_bytes), row.memory_bytes <= q.device.memory_bytes ? "yes" : "no"});
  }
  std::string out = fmt::format(
      "{} scaling of {}, {}, on {}: {} sequences of {} a step {}, {} a pass; {}, ZeRO-{}, gradients in {}\n{}{}",
      scaling_name(scaling), q.model.name, q.recipe.name, q.device.title, q.batch.sequences, q.batch.seq,
      scaling == Scaling::Weak ? "and GPU" : "in all", q.batch.micro_sequences, q.optimizer.name, q.parallel.zero,
      gradient_format_name(q.parallel.gradients), links_text(q), format_table(table));
  if (!curve.ended.empty()) out += fmt::format("it ends here: {}\n", curve.ended);
  return out;
}

std::string scaling_json(const CostQuestion& q, Scaling scaling, const ScalingCurve& curve) {
  Json rows = Json::array();
  for (const ScalingRow& row : curve.rows) {
    CostQuestion at = q;
    at.parallel.cluster = row.cluster;
    Json json = communication_json(at, row.cost);
    for (const char* common : {"zero", "gradients", "node_link", "network_link"}) json.erase(common);
    json["sequences"] = row.batch.sequences;
    json["tokens_per_second"] = row.tokens_per_second;
    json["efficiency"] = row.efficiency;
    json["memory_bytes"] = row.memory_bytes;
    rows.push_back(json);
  }
  Json sources = Json::object();
  for (const auto& [table, source] : q.device.sources) sources[table] = source;
  const Json json = {
      {"scaling", scaling_name(scaling)},
      {"model", q.model.name},
      {"recipe", q.recipe.name},
      {"device",
       {{"name", q.device.name},
        {"title", q.device.title},
        {"memory_bytes", q.device.memory_bytes},
        {"sources", sources}}},
      {"batch", {{"sequences", q.batch.sequences}, {"micro_sequences", q.batch.micro_sequences}, {"seq", q.batch.seq}}},
      {"optimizer", q.optimizer.name},
      {"zero", q.parallel.zero},
      {"gradients", gradient_format_name(q.parallel.gradients)},
      {"node_link", link_json(q.device.node_link)},
      {"network_link", link_json(q.device.network_link)},
      {"rows", rows},
      {"ended", curve.ended.empty() ? Json(nullptr) : Json(curve.ended)}};
  return json.dump(2) + "\n";
}

}  // namespace nibble
