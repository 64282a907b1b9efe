#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "nibble/io/atomic_file.h"
#include "nibble/io/file.h"
#include "nibble/io/format.h"
#include "nibble/report/league.h"
#include "nibble/report/page_assets.h"
#include "nibble/report/page_charts.h"
#include "nibble/report/svg_writer.h"
#include "nibble/report/table.h"

namespace nibble {

namespace {

using Json = nlohmann::ordered_json;
using Colors = std::map<std::string, int>;

constexpr const char* kColumns[] = {"recipe",           "seeds",    "train loss",  "val loss", "gap %", "+-",
                                    "theoretical cost", "tokens/s", "Pareto front"};
constexpr std::size_t kGapColumn = 4;

/// The same colour for a recipe at every size, 0 for the baseline.
Colors recipe_colors(const League& league) {
  Colors colors;
  int next = 0;
  for (const LeagueSize& size : league.sizes) {
    for (const LeagueEntry& entry : size.entries) {
      if (entry.is_baseline) {
        colors[entry.recipe] = 0;
      } else if (!colors.contains(entry.recipe)) {
        colors[entry.recipe] = 1 + next++ % (kSeriesColors - 1);
      }
    }
  }
  return colors;
}

std::string error_text(double error) { return std::isfinite(error) ? fmt::format("{:.2f}", error) : "-"; }
std::string cost_text(double cost) { return std::isfinite(cost) ? fmt::format("{:.3f}", cost) : "-"; }

std::string gap_with_error(const LeagueEntry& entry) {
  std::string text = format_gap(entry.gap_percent);
  if (std::isfinite(entry.gap_error)) text += fmt::format(" ± {:.2f}", entry.gap_error);
  return text + " %";
}

std::vector<std::string> cells_of(const LeagueEntry& entry) {
  std::string seeds;
  for (const std::uint64_t seed : entry.seeds) seeds += (seeds.empty() ? "" : ", ") + std::to_string(seed);
  return {entry.recipe,
          seeds,
          format_loss(entry.train_loss),
          format_loss(entry.val_loss),
          entry.diverged ? "diverged" : format_gap(entry.gap_percent),
          error_text(entry.gap_error),
          cost_text(entry.relative_cost),
          format_rate(entry.tokens_per_second),
          entry.pareto ? "yes" : ""};
}

std::string size_title(const LeagueSize& size) {
  return fmt::format("{}: {} parameters without embedding and head, {} tokens, {} steps", size.model,
                     format_count(size.parameters), format_count(static_cast<double>(size.tokens)),
                     format_integer(size.steps));
}

std::string noise_text(const LeagueSize& size) {
  if (std::isnan(size.noise_percent)) {
    const auto is_baseline = [&](const LeagueEntry& entry) { return entry.recipe == size.baseline; };
    const bool ran = std::any_of(size.entries.begin(), size.entries.end(), is_baseline);
    return fmt::format("{} {}: no measure of the noise", size.baseline, ran ? "ran with one seed" : "did not run");
  }
  return fmt::format("seeds of {} differ by {:.2f} % in validation loss", size.baseline, size.noise_percent);
}

std::string note(const LeagueSize& size) {
  std::string front;
  for (const LeagueEntry& entry : size.entries) {
    if (entry.pareto) front += (front.empty() ? "" : ", ") + entry.recipe;
  }
  return fmt::format(
      "Gap to {} of the same seed, mean over seeds and standard error; {}. Cost: time of a step in the "
      "theoretical model (BF16 = 1). Pareto front: {}. Data: {}.",
      size.baseline, noise_text(size), front.empty() ? "empty" : front, size.data);
}

/// Labels of a chart that leave each other and the points alone: those on the front first, then by gap.
class LabelPlaces {
 public:
  LabelPlaces(const LineChart& chart, double y_low, double y_high) : chart_(chart), low_(y_low), high_(y_high) {}
  void add_point(double x, double y) { taken_.push_back({px(x) - 4, py(y) - 4, px(x) + 4, py(y) + 4}); }
  bool take(double x, double y, const std::string& text) {
    const Box box{px(x) + 6, py(y) - 7, px(x) + 8 + kBoldWidth * static_cast<double>(display_width(text)), py(y) + 7};
    const auto meets = [&](const Box& b) {
      return box.left < b.right && b.left < box.right && box.top < b.bottom && b.top < box.bottom;
    };
    if (std::any_of(taken_.begin(), taken_.end(), meets)) return false;
    taken_.push_back(box);
    return true;
  }

 private:
  struct Box {
    double left, top, right, bottom;
  };
  // The drawing's margins are not known here; three quarters of the width are the frame in all cases.
  double px(double x) const { return (x - chart_.x.low) / (chart_.x.high - chart_.x.low) * 0.75 * chart_.width; }
  double py(double y) const { return (high_ - y) / std::max(high_ - low_, 1e-9) * (chart_.height - 80); }
  const LineChart& chart_;
  double low_, high_;
  std::vector<Box> taken_;
};

LineChart cost_chart(const LeagueSize& size, const Colors& colors, int width) {
  LineChart chart;
  chart.title = fmt::format("Gap over theoretical cost, {}", size.model);
  chart.width = width;
  chart.height = std::clamp(64 + 25 * static_cast<int>(size.entries.size()), 300, 640);  // that of gap_rows
  chart.x.label = "theoretical cost of a step, BF16 = 1";
  chart.y.label = fmt::format("gap to {}, %", size.baseline);
  chart.zero_line = true;
  double low = 1;
  double high = 1;
  double low_gap = 0;
  double high_gap = 0;
  std::vector<const LeagueEntry*> front;
  for (const LeagueEntry& entry : size.entries) {
    if (!std::isfinite(entry.gap_percent) || !std::isfinite(entry.relative_cost)) continue;
    low = std::min(low, entry.relative_cost);
    high = std::max(high, entry.relative_cost);
    low_gap = std::min(low_gap, entry.gap_percent);
    high_gap = std::max(high_gap, entry.gap_percent);
    if (entry.pareto) front.push_back(&entry);
  }
  // A margin, so that labels stand beside their points and not in the margin of the drawing.
  const double margin = std::max(0.06 * (high - low), 0.02);
  chart.x.low = low - margin;
  chart.x.high = high + margin;
  std::sort(front.begin(), front.end(),
            [](const LeagueEntry* a, const LeagueEntry* b) { return a->relative_cost < b->relative_cost; });
  Series line{.name = "Pareto front", .color = 0, .dash = 2};
  for (const LeagueEntry* entry : front) {
    line.curve.x.push_back(entry->relative_cost);
    line.curve.y.push_back(entry->gap_percent);
  }
  chart.series.push_back(std::move(line));
  LabelPlaces places(chart, low_gap, high_gap);
  std::vector<const LeagueEntry*> shown;
  for (const LeagueEntry& entry : size.entries) {
    if (!std::isfinite(entry.gap_percent) || !std::isfinite(entry.relative_cost)) continue;
    places.add_point(entry.relative_cost, entry.gap_percent);
    shown.push_back(&entry);
  }
  std::stable_partition(shown.begin(), shown.end(), [](const LeagueEntry* e) { return e->pareto; });
  std::map<std::string, bool> labelled;
  for (const LeagueEntry* e : shown) labelled[e->recipe] = places.take(e->relative_cost, e->gap_percent, e->recipe);
  for (const LeagueEntry* one : shown) {
    const LeagueEntry& entry = *one;
    const int color = colors.at(entry.recipe);
    const double x = entry.relative_cost;
    if (std::isfinite(entry.gap_error)) {
      chart.series.push_back(
          {.name = entry.recipe,
           .group = entry.recipe,
           .color = color,
           .faint = true,
           .curve = {{x, x}, {entry.gap_percent - entry.gap_error, entry.gap_percent + entry.gap_error}}});
    }
    chart.series.push_back({.name = entry.recipe,
                            .label = labelled.at(entry.recipe) ? entry.recipe : "",
                            .group = entry.recipe,
                            .color = color,
                            .line = false,
                            .markers = true,
                            .curve = {{x}, {entry.gap_percent}}});
  }
  return chart;
}

RowPlot gap_rows(const LeagueSize& size, const Colors& colors, int width) {
  RowPlot plot;
  plot.title = fmt::format("Gaps with their standard errors, {}", size.model);
  plot.width = width;
  plot.x = {.label = fmt::format("gap to {} in validation loss, %", size.baseline), .from_zero = true};
  for (const LeagueEntry& entry : size.entries) {
    if (entry.is_baseline) continue;
    const int color = colors.at(entry.recipe);
    Row row{.label = entry.recipe + (entry.pareto ? " *" : ""),
            .text = entry.diverged ? "diverged" : gap_with_error(entry),
            .color = color,
            .group = entry.recipe};
    if (std::isfinite(entry.gap_percent)) {
      RowMark mark{.value = entry.gap_percent, .color = color, .group = entry.recipe};
      mark.tip = fmt::format("{}: {}", entry.recipe, gap_with_error(entry));
      if (std::isfinite(entry.gap_error)) {
        mark.low = entry.gap_percent - entry.gap_error;
        mark.high = entry.gap_percent + entry.gap_error;
      }
      row.marks.push_back(std::move(mark));
    }
    plot.rows.push_back(std::move(row));
  }
  if (std::isfinite(size.noise_percent)) {
    plot.band_low = -size.noise_percent;
    plot.band_high = size.noise_percent;
    plot.band_label = "noise";
  }
  return plot;
}

/// Height of a drawing, read from its viewBox.
double drawing_height(const std::string& drawing) {
  const std::size_t at = drawing.find(" height=\"");
  return at == std::string::npos ? 0 : std::stod(drawing.substr(at + 9));
}

std::string placed(const std::string& drawing, double x, double y) {
  return fmt::format("<svg x=\"{}\" y=\"{}\" {}", coordinate(x), coordinate(y), drawing.substr(5));
}

std::string page_table(const LeagueSize& size, const Colors& colors) {
  std::string out = "<div class=\"scroll\"><table class=\"wide\"><thead><tr>";
  for (const char* column : kColumns) {
    const bool text = std::string_view(column) == "recipe" || std::string_view(column) == "seeds";
    const std::string shown = std::string_view(column) == "+-" ? "±" : column;
    out += fmt::format("<th{}>{}</th>", text ? " class=\"text\"" : "", shown);
  }
  out += "</tr></thead>\n<tbody>\n";
  for (const LeagueEntry& entry : size.entries) {
    const std::vector<std::string> cells = cells_of(entry);
    out += fmt::format("<tr><th class=\"text\"><span class=\"swatch k{}\"></span>{}</th><td class=\"text\">{}</td>",
                       colors.at(entry.recipe), escape_markup(cells[0]), escape_markup(cells[1]));
    for (std::size_t i = 2; i < cells.size(); ++i) {
      out += fmt::format("<td{}>{}</td>", i == kGapColumn ? " class=\"strong\"" : "",
                         cells[i] == "-" ? "–" : escape_markup(cells[i]));
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

std::string league_headline(const League& league) {
  std::string text;
  for (const LeagueSize& size : league.sizes) {
    for (const LeagueEntry& entry : size.entries) {
      if (entry.is_baseline || !std::isfinite(entry.gap_percent)) continue;
      text += fmt::format("{} {} parameters {} is closest to {} ({})", text.empty() ? "At" : ", at",
                          format_count(size.parameters), entry.recipe, size.baseline, gap_with_error(entry));
      break;
    }
  }
  return text.empty() ? "No recipe has a gap to its baseline." : text + ".";
}

std::string league_text(const League& league) {
  std::string out;
  for (const LeagueSize& size : league.sizes) {
    TextTable table;
    for (const char* column : kColumns) {
      const std::string_view name = column;
      table.columns.push_back({column, name == "recipe" || name == "seeds" ? Align::Left : Align::Right});
    }
    for (const LeagueEntry& entry : size.entries) table.rows.push_back(cells_of(entry));
    out += size_title(size) + "\n\n" + format_table(table) + "\n" + note(size) + "\n\n";
  }
  return out + league_headline(league) + "\n";
}

std::string league_markdown(const League& league) {
  const auto escaped = [](const std::string& text) {
    std::string out;
    for (const char c : text) {
      if (c == '|') out += '\\';
      out += c;
    }
    return out;
  };
  std::string out = "# League\n\n" + league_headline(league) + "\n";
  for (const LeagueSize& size : league.sizes) {
    out += "\n## " + size_title(size) + "\n\n|";
    for (const char* column : kColumns) out += fmt::format(" {} |", std::string_view(column) == "+-" ? "±" : column);
    out += "\n|---|---|---:|---:|---:|---:|---:|---:|---|\n";
    for (const LeagueEntry& entry : size.entries) {
      out += "|";
      for (const std::string& cell : cells_of(entry)) out += fmt::format(" {} |", escaped(cell));
      out += "\n";
    }
    out += "\n" + note(size) + "\n";
  }
  out += "\n![gap over cost](league.svg)\n";
  return out;
}

std::string league_json(const League& league) {
  Json sizes = Json::array();
  for (const LeagueSize& size : league.sizes) {
    Json entries = Json::array();
    for (const LeagueEntry& e : size.entries) {
      entries.push_back({{"recipe", e.recipe},
                         {"baseline", e.is_baseline},
                         {"seeds", e.seeds},
                         {"train_loss", number(e.train_loss)},
                         {"val_loss", number(e.val_loss)},
                         {"gap_percent", number(e.gap_percent)},
                         {"gap_standard_error", number(e.gap_error)},
                         {"relative_cost", number(e.relative_cost)},
                         {"tokens_per_second", number(e.tokens_per_second)},
                         {"diverged", e.diverged},
                         {"pareto", e.pareto}});
    }
    sizes.push_back({{"model", size.model},
                     {"non_embedding_parameters", size.parameters},
                     {"steps", size.steps},
                     {"tokens", size.tokens},
                     {"data", size.data},
                     {"baseline", size.baseline},
                     {"noise_percent", number(size.noise_percent)},
                     {"entries", entries}});
  }
  const Json json = {{"sources", league.sources}, {"headline", league_headline(league)}, {"sizes", sizes}};
  return json.dump(1) + "\n";
}

std::string league_svg(const League& league) {
  constexpr double kMargin = 24;
  constexpr int kHalf = 560;
  const Colors colors = recipe_colors(league);
  std::string body;
  double y = kMargin;
  for (const LeagueSize& size : league.sizes) {
    body += text_element(kMargin, y + 6, Anchor::Start, "name", size_title(size));
    y += 24;
    const std::string left = draw(cost_chart(size, colors, kHalf));
    const std::string right = draw(gap_rows(size, colors, kHalf));
    body += placed(left, kMargin, y) + placed(right, kHalf + 2 * kMargin, y);
    y += std::max(drawing_height(left), drawing_height(right)) + kMargin;
  }
  const double width = 2 * kHalf + 3 * kMargin;
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" role=\"img\" aria-label=\"{2}\">\n<style>{3}svg {{ font-family: system-ui, sans-serif; }}"
      "</style>\n<rect width=\"{0}\" height=\"{1}\" style=\"fill: var(--surface)\"/>\n{4}</svg>\n",
      coordinate(width), coordinate(y), escape_markup(league_headline(league)), page_style(), body);
}

std::string league_page(const League& league) {
  const Colors colors = recipe_colors(league);
  std::string body = fmt::format("<header><p class=\"kicker\">nibble league</p>\n<h1>{}</h1></header>\n",
                                 escape_markup(league_headline(league)));
  for (const LeagueSize& size : league.sizes) {
    body += fmt::format(
        "<section><h2>{}</h2>\n{}<p class=\"note\">{}</p>\n<div class=\"grid\">\n{}{}</div></section>\n",
        escape_markup(size_title(size)), page_table(size, colors), escape_markup(note(size)),
        figure("<b>Gap over theoretical cost</b> · dotted: Pareto front", draw(cost_chart(size, colors, 520))),
        figure("<b>Gaps and standard errors</b> · *: on the Pareto front", draw(gap_rows(size, colors, 520))));
  }
  std::string command = "nibble league --compare";
  for (const std::string& source : league.sources) command += " " + source;
  body += fmt::format("<section><h2>How to reproduce</h2>\n<pre>{}</pre></section>\n", escape_markup(command));
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'\"/>\n"
      "<title>nibble league</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}"
      "<footer>Written by nibble from compare.json; this page needs no network.</footer>\n"
      "</main>\n<script>{}</script>\n</body>\n</html>\n",
      page_style(), body, page_script());
}

void write_league(const League& league, const std::filesystem::path& directory) {
  make_directories(directory);
  write_file_atomic(directory / "league.md", league_markdown(league));
  write_file_atomic(directory / "league.json", league_json(league));
  write_file_atomic(directory / "league.svg", league_svg(league));
  write_file_atomic(directory / "league.html", league_page(league));
}

}  // namespace nibble
