#include "nibble/inspect/text.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "nibble/io/format.h"
#include "nibble/io/run_log.h"
#include "nibble/recipe/names.h"
#include "nibble/report/table.h"

namespace nibble {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kTensorKeys = {"x", "w", "dy"};

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

double share(std::int64_t part, std::int64_t all) {
  return static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(all, 1));
}

std::string percent(double value) { return fmt::format("{:.1f} %", 100 * value); }

double largest_share(const LayerTelemetry& layer, std::int64_t QuantQuality::*part) {
  double largest = 0;
  for (const QuantQuality& q : layer.operands) largest = std::max(largest, share(q.*part, q.count));
  return largest;
}

std::string cosine_text(const ProductQuality& product) {
  return product.count == 0 ? "exact" : fmt::format("{:.4f}", product.cosine());
}

bool has_estimator(const RecipeInspection& recipe) {
  return std::any_of(recipe.telemetry.layers.begin(), recipe.telemetry.layers.end(),
                     [](const LayerTelemetry& layer) { return layer.estimated_gradient; });
}

std::string source_table(const Inspection& inspection) {
  TextTable table;
  table.columns = {{"layer", Align::Left},
                   {"kurtosis X"},
                   {"W"},
                   {"dY"},
                   {"energy in top 1 %"},
                   {"top channels of X (RMS over the median)", Align::Left}};
  for (const LayerSource& layer : inspection.layers) {
    std::vector<std::string> row = {layer.layer};
    for (const TensorFigures& f : layer.tensors) row.push_back(fmt::format("{:.1f}", f.kurtosis));
    row.push_back(format_percent(layer.channels.top_energy));
    row.push_back(channels_text(layer.channels));
    table.rows.push_back(std::move(row));
  }
  return "Before quantisation (normal values have a kurtosis of 3)\n\n" + format_table(table);
}

std::string recipe_table(const RecipeInspection& recipe) {
  TextTable table;
  table.columns = {{"layer", Align::Left}};
  for (const char* name : kOperandShortNames) table.columns.push_back({name});
  for (const char* name : {"underflow", "clipped", "fprop", "dgrad", "wgrad"}) table.columns.push_back({name});
  for (std::size_t i = 0; i < recipe.telemetry.layers.size(); ++i) {
    const LayerTelemetry& layer = recipe.telemetry.layers[i];
    std::vector<std::string> row = {layer.layer};
    for (std::size_t o = 0; o < kOperands; ++o) row.push_back(snr_text(recipe, i, o));
    row.push_back(format_percent(largest_share(layer, &QuantQuality::underflow)));
    row.push_back(format_percent(largest_share(layer, &QuantQuality::clipped)));
    for (std::size_t p = 0; p < kProducts; ++p) {
      row.push_back(cosine_text(layer.products[p]) + (p == 2 && layer.estimated_gradient ? "*" : ""));
    }
    table.rows.push_back(std::move(row));
  }
  return fmt::format(
      "{}: SNR of the operands in dB, the largest underflow and clipped share among them, cosine of the products\n\n{}",
      recipe.recipe, format_table(table));
}

std::string error_table(const Inspection& inspection) {
  TextTable table;
  table.columns = {{"layer", Align::Left}};
  for (const RecipeInspection& recipe : inspection.recipes) table.columns.push_back({recipe.recipe});
  for (std::size_t i = 0; i < inspection.layers.size(); ++i) {
    std::vector<std::string> row = {inspection.layers[i].layer};
    for (const RecipeInspection& recipe : inspection.recipes) {
      row.push_back(errors_text(recipe.telemetry.layers[i]));
    }
    table.rows.push_back(std::move(row));
  }
  return "Relative error of fprop / dgrad / wgrad in per cent\n\n" + format_table(table);
}

Json tensor_json(const TensorFigures& f) {
  return {{"rows", f.rows},
          {"cols", f.cols},
          {"rms", number(f.rms)},
          {"amax", number(f.amax)},
          {"kurtosis", number(f.kurtosis)}};
}

Json source_json(const LayerSource& layer) {
  Json json = {{"layer", layer.layer}};
  for (std::size_t t = 0; t < kTensorKeys.size(); ++t) json[kTensorKeys[t]] = tensor_json(layer.tensors[t]);
  Json top = Json::array();
  for (const ChannelFigures::Channel& c : layer.channels.top) {
    top.push_back({{"channel", c.channel}, {"over_median", number(c.over_median)}});
  }
  json["top_channels"] = std::move(top);
  json["top_energy"] = number(layer.channels.top_energy);
  return json;
}

Json operand_json(const QuantQuality& q, bool quantised, bool reused) {
  Json json = {{"quantised", quantised}, {"reused", reused}};
  if (!quantised || q.count == 0) return json;
  json["snr_db"] = number(q.snr_db());
  json["cosine"] = number(q.cosine());
  json["relative_mse"] = number(q.relative_mse());
  json["underflow"] = share(q.underflow, q.count);
  json["clamped"] = q.clamped_share();
  json["clipped"] = share(q.clipped, q.count);
  json["bias"] = number(q.bias());
  json["scale_saturated"] = share(q.scale_saturated, q.blocks);
  json["scale_underflow"] = share(q.scale_underflow, q.blocks);
  return json;
}

Json histogram_json(const Histogram& h) {
  return {{"element", name_of(element_names(), h.element)},
          {"edge", h.edge},
          {"counts", h.counts},
          {"zeros", h.zeros},
          {"below", h.below},
          {"above", h.above},
          {"count", h.count}};
}

Json layer_json(const RecipeInspection& recipe, std::size_t i) {
  const LayerTelemetry& layer = recipe.telemetry.layers[i];
  Json operands = Json::object();
  for (std::size_t o = 0; o < kOperands; ++o) {
    operands[kOperandNames[o]] = operand_json(layer.operands[o], recipe.quantised[i][o], layer.reused[o]);
  }
  Json products = Json::object();
  for (std::size_t p = 0; p < kProducts; ++p) {
    const ProductQuality& q = layer.products[p];
    products[kProductNames[p]] = q.count == 0 ? Json{{"quantised", false}}
                                              : Json{{"quantised", true},
                                                     {"cosine", number(q.cosine())},
                                                     {"magnitude", number(q.magnitude())},
                                                     {"relative_error", number(relative_error(q))}};
  }
  Json histograms = Json::object();
  for (std::size_t t = 0; t < kTensorKeys.size(); ++t) {
    histograms[kTensorKeys[t]] = histogram_json(recipe.histograms[i][t]);
  }
  return {{"layer", layer.layer},
          {"operands", operands},
          {"products", products},
          {"estimated_gradient", layer.estimated_gradient},
          {"histograms", histograms}};
}

}  // namespace

std::string snr_text(const RecipeInspection& recipe, std::size_t layer, std::size_t operand) {
  if (!recipe.quantised[layer][operand]) return "exact";
  const QuantQuality& q = recipe.telemetry.layers[layer].operands[operand];
  return q.count == 0 ? "-" : format_decibel(q.snr_db());
}

std::string errors_text(const LayerTelemetry& layer) {
  std::string text;
  for (std::size_t p = 0; p < kProducts; ++p) {
    const ProductQuality& q = layer.products[p];
    text += fmt::format("{}{}", p == 0 ? "" : " / ",
                        q.count == 0 ? "exact" : fmt::format("{:.1f}", 100 * relative_error(q)));
  }
  return text + (layer.estimated_gradient ? "*" : "");
}

std::string channels_text(const ChannelFigures& channels) {
  std::string text;
  for (const ChannelFigures::Channel& c : channels.top) {
    text += fmt::format("{}{} (x {:.1f})", text.empty() ? "" : ", ", c.channel, c.over_median);
  }
  return text;
}

std::string worst_layer_sentence(const Inspection& inspection, const RecipeInspection& recipe) {
  const auto worst = worst_layer(recipe);
  if (!worst) return fmt::format("{} hurts no layer: all products that can be judged are exact.", recipe.recipe);
  std::string others;
  const LayerTelemetry& layer = recipe.telemetry.layers[worst->layer];
  for (std::size_t p = 0; p < kProducts; ++p) {
    const ProductQuality& q = layer.products[p];
    if (p == worst->product) continue;
    others +=
        fmt::format("{}{} {}{}", others.empty() ? "" : ", ", kProductNames[p],
                    q.count == 0 ? "exact" : percent(relative_error(q)), p == 2 && layer.estimated_gradient ? "*" : "");
  }
  return fmt::format("{} hurts {} most: {} is off by {} there ({}).", recipe.recipe,
                     inspection.layers[worst->layer].layer, kProductNames[worst->product], percent(worst->error),
                     others);
}

std::string inspection_text(const Inspection& inspection) {
  std::string out = fmt::format("{} ({}, step {}), {} sequences of {} tokens\n\n", inspection.checkpoint,
                                inspection.model, inspection.step, inspection.sequences, inspection.seq);
  out += source_table(inspection) + "\n";
  for (const RecipeInspection& recipe : inspection.recipes) out += recipe_table(recipe) + "\n";
  if (inspection.recipes.size() > 1) out += error_table(inspection) + "\n";
  if (std::any_of(inspection.recipes.begin(), inspection.recipes.end(), has_estimator)) {
    out += "*: a gradient estimator changes this weight gradient on purpose; its distance is not an error\n\n";
  }
  for (const RecipeInspection& recipe : inspection.recipes) {
    out += fmt::format("{} Loss {}, in BF16 {}.\n", worst_layer_sentence(inspection, recipe), format_loss(recipe.loss),
                       format_loss(inspection.loss));
  }
  return out;
}

std::string inspection_json(const Inspection& inspection) {
  Json layers = Json::array();
  for (const LayerSource& layer : inspection.layers) layers.push_back(source_json(layer));
  Json recipes = Json::array();
  for (const RecipeInspection& recipe : inspection.recipes) {
    Json of_layers = Json::array();
    for (std::size_t i = 0; i < inspection.layers.size(); ++i) of_layers.push_back(layer_json(recipe, i));
    Json worst;
    if (const auto w = worst_layer(recipe)) {
      worst = {{"layer", inspection.layers[w->layer].layer},
               {"product", kProductNames[w->product]},
               {"relative_error", number(w->error)}};
    }
    recipes.push_back(
        {{"recipe", recipe.recipe}, {"loss", number(recipe.loss)}, {"worst", worst}, {"layers", of_layers}});
  }
  const Json json = {{"checkpoint", inspection.checkpoint},
                     {"model", inspection.model},
                     {"step", inspection.step},
                     {"sequences", inspection.sequences},
                     {"seq", inspection.seq},
                     {"loss_bf16", number(inspection.loss)},
                     {"layers", layers},
                     {"recipes", recipes}};
  return json.dump() + "\n";
}

}  // namespace nibble
