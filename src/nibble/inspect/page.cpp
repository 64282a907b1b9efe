#include "nibble/inspect/page.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/inspect/text.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/format.h"
#include "nibble/io/run_log.h"
#include "nibble/recipe/names.h"
#include "nibble/report/page_assets.h"
#include "nibble/report/page_charts.h"

namespace nibble {

namespace {

constexpr std::array kPictureNames = {"activations X", "weights W", "gradient dY"};

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
};

double snr_of(const RecipeInspection& recipe, std::size_t layer, std::size_t operand) {
  const QuantQuality& q = recipe.telemetry.layers[layer].operands[operand];
  return recipe.quantised[layer][operand] && q.count > 0 ? q.snr_db() : std::numeric_limits<double>::infinity();
}

/// Over all recipes, so that one colour means one SNR on the whole page.
Range snr_range(const Inspection& inspection) {
  Range range;
  for (const RecipeInspection& recipe : inspection.recipes) {
    for (std::size_t i = 0; i < inspection.layers.size(); ++i) {
      for (std::size_t o = 0; o < kOperands; ++o) {
        const double snr = snr_of(recipe, i, o);
        if (!std::isfinite(snr)) continue;
        range.low = std::min(range.low, snr);
        range.high = std::max(range.high, snr);
      }
    }
  }
  return range;
}

std::string heat_map(const Inspection& inspection, const RecipeInspection& recipe, const Range& range) {
  HeatMap map;
  map.title = fmt::format("Signal-to-noise ratio in dB of {} per layer and operand", recipe.recipe);
  map.pale = range.high;
  map.strong = range.low;
  map.columns.assign(kOperandShortNames.begin(), kOperandShortNames.end());
  for (std::size_t i = 0; i < inspection.layers.size(); ++i) {
    map.rows.push_back(inspection.layers[i].layer);
    std::vector<HeatCell>& cells = map.cells.emplace_back();
    for (std::size_t o = 0; o < kOperands; ++o) {
      const QuantQuality& q = recipe.telemetry.layers[i].operands[o];
      const auto n = static_cast<double>(std::max<std::int64_t>(q.count, 1));
      const std::string snr = snr_text(recipe, i, o);
      std::string tip = fmt::format("{} {}: {}", inspection.layers[i].layer, kOperandNames[o], snr);
      if (recipe.quantised[i][o]) {
        tip +=
            fmt::format(", underflow {}, clamped {}, clipped {}", format_percent(static_cast<double>(q.underflow) / n),
                        format_percent(q.clamped_share()), format_percent(static_cast<double>(q.clipped) / n));
      }
      cells.push_back({snr_of(recipe, i, o), snr, tip});
    }
  }
  return draw(map);
}

std::string table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<div class=\"scroll\"><table class=\"wide\"><thead><tr>";
  for (std::size_t c = 0; c < header.size(); ++c) {
    out += fmt::format("<th{}>{}</th>", c == 0 ? " class=\"text\"" : "", escape_markup(header[c]));
  }
  out += "</tr></thead>\n<tbody>\n";
  for (const std::vector<std::string>& row : rows) {
    out += fmt::format("<tr><th class=\"text\">{}</th>", escape_markup(row[0]));
    for (std::size_t c = 1; c < row.size(); ++c) out += fmt::format("<td>{}</td>", escape_markup(row[c]));
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string error_section(const Inspection& inspection) {
  std::vector<std::string> header = {"layer"};
  for (const RecipeInspection& recipe : inspection.recipes) header.push_back(recipe.recipe);
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < inspection.layers.size(); ++i) {
    std::vector<std::string>& row = rows.emplace_back();
    row.push_back(inspection.layers[i].layer);
    for (const RecipeInspection& recipe : inspection.recipes) {
      row.push_back(errors_text(recipe.telemetry.layers[i]));
    }
  }
  return fmt::format(
      "<section><h2>Errors of the products</h2>\n<p class=\"note\">Relative error of fprop / dgrad / wgrad in per "
      "cent, against the product of the unquantised operands. *: a gradient estimator changes the weight gradient on "
      "purpose.</p>\n{}</section>\n",
      table(header, rows));
}

std::string outlier_section(const Inspection& inspection) {
  std::vector<std::vector<std::string>> rows;
  for (const LayerSource& layer : inspection.layers) {
    std::vector<std::string>& row = rows.emplace_back();
    row.push_back(layer.layer);
    for (const TensorFigures& f : layer.tensors) row.push_back(fmt::format("{:.1f}", f.kurtosis));
    row.push_back(format_percent(layer.channels.top_energy));
    row.push_back(channels_text(layer.channels));
  }
  return fmt::format(
      "<section><h2>Outliers</h2>\n<p class=\"note\">Before quantisation, in a pass in BF16. Normal values have a "
      "kurtosis of 3. Channels of X by their RMS over the median of all channels.</p>\n{}</section>\n",
      table({"layer", "kurtosis X", "W", "dY", "energy in top 1 %", "top channels"}, rows));
}

std::string heat_section(const Inspection& inspection) {
  const Range range = snr_range(inspection);
  std::string figures;
  for (std::size_t r = 0; r < inspection.recipes.size(); ++r) {
    const RecipeInspection& recipe = inspection.recipes[r];
    figures += figure(fmt::format("<b>{}</b> · loss {}", escape_markup(recipe.recipe), format_loss(recipe.loss)),
                      heat_map(inspection, recipe, range));
  }
  return fmt::format(
      "<section><h2>Signal-to-noise ratio</h2>\n<p class=\"note\">In dB, a row a layer, a column an operand: FA and FW "
      "are X and W of fprop, DG and DW dY and W of dgrad, GG and GX dY and X of wgrad. The stronger the colour, the "
      "worse.</p>\n<div class=\"stack\">\n{}</div></section>\n",
      figures);
}

std::string picture(const RecipeInspection& recipe, std::size_t layer, std::size_t t) {
  const Histogram& h = recipe.histograms[layer][t];
  const bool quantised = has_scale(h.element);
  const std::string unit = quantised ? "x / s" : "x / RMS";
  const std::string format = quantised ? name_of(element_names(), h.element) : "not quantised";
  std::string caption = fmt::format("<b>{}</b> · {} · {}", kPictureNames[t], format, unit);
  const std::int64_t outside = h.below + h.above;
  if (outside > 0) caption += fmt::format(" · {} beyond the drawing", format_integer(outside));
  if (h.zeros > 0) caption += fmt::format(" · {} zeros", format_integer(h.zeros));
  const std::string title =
      fmt::format("{}, {}: histogram of {}", recipe.telemetry.layers[layer].layer, kPictureNames[t], unit);
  return figure(caption, draw(h, title, static_cast<int>(t) + 1));
}

std::string histogram_section(const RecipeInspection& recipe) {
  std::string layers;
  for (std::size_t i = 0; i < recipe.histograms.size(); ++i) {
    std::string pictures;
    for (std::size_t t = 0; t < kPictureNames.size(); ++t) pictures += picture(recipe, i, t);
    layers += fmt::format("<h3>{}</h3>\n<div class=\"grid small\">\n{}</div>\n",
                          escape_markup(recipe.telemetry.layers[i].layer), pictures);
  }
  return fmt::format("<details><summary>{} <span>histograms of {} layers</span></summary><div>\n{}</div></details>\n",
                     escape_markup(recipe.recipe), recipe.histograms.size(), layers);
}

}  // namespace

std::string inspection_page(const Inspection& inspection) {
  std::string sentences;
  for (const RecipeInspection& recipe : inspection.recipes) {
    sentences += fmt::format("<p>{}</p>\n", escape_markup(worst_layer_sentence(inspection, recipe)));
  }
  std::string histograms;
  for (const RecipeInspection& recipe : inspection.recipes) histograms += histogram_section(recipe);
  const std::string title = fmt::format("{} at step {}", inspection.model, format_integer(inspection.step));
  const std::string body = fmt::format(
      "<header><p class=\"kicker\">nibble inspect</p>\n<h1>{}</h1>\n<p class=\"note\">{} · {} sequences of {} tokens · "
      "loss in BF16 {}</p></header>\n<section>\n{}</section>\n{}{}{}"
      "<section><h2>Histograms</h2>\n<p class=\"note\">Values before rounding in units of their own scale s, with the "
      "values of the format as lines over them; operands that are not quantised in units of their RMS. Counts on a "
      "logarithmic scale.</p>\n{}</section>\n",
      escape_markup(title), escape_markup(inspection.checkpoint), inspection.sequences, inspection.seq,
      format_loss(inspection.loss), sentences, heat_section(inspection), error_section(inspection),
      outlier_section(inspection), histograms);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
      "<title>nibble inspect</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}"
      "<footer>Written by nibble; this page needs no network.</footer>\n</main>\n</body>\n</html>\n",
      page_style(), body);
}

void write_inspection(const Inspection& inspection, const std::filesystem::path& directory) {
  make_directories(directory);
  write_file_atomic(directory / "inspect.html", inspection_page(inspection));
  write_file_atomic(directory / "inspect.json", inspection_json(inspection));
}

}  // namespace nibble
