#include "nibble/report/html.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "nibble/io/atomic_file.h"
#include "nibble/io/format.h"
#include "nibble/report/finding.h"
#include "nibble/report/page_assets.h"
#include "nibble/report/page_charts.h"
#include "nibble/report/svg.h"

namespace nibble {
namespace {

std::string with_minus(std::string text) {
  if (text.size() > 1 && text[0] == '-') text.replace(0, 1, "−");
  return text;
}

/// Numbers stay with their unit when a heading is broken into lines.
std::string keep_units(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ' && i + 1 < text.size() && text[i + 1] == '%') {
      out += "\u00a0";
    } else {
      out += text[i];
    }
  }
  return out;
}

/// A cell of a table; what was not logged is pale.
std::string cell(const std::string& text, const char* css_class = "") {
  const bool none = text == "-";
  return fmt::format("<td class=\"{}{}\">{}</td>", css_class, none ? " none" : "",
                     none ? "–" : escape_markup(with_minus(text)));
}

std::string swatch(const Comparison& comparison, std::size_t recipe) {
  return fmt::format("<span class=\"swatch k{}\"></span>", recipe_color(comparison, recipe));
}

std::string seeds_text(const std::vector<std::uint64_t>& seeds) {
  std::string text;
  for (std::uint64_t seed : seeds) text += (text.empty() ? "" : ", ") + std::to_string(seed);
  return text;
}

std::string header(const Comparison& comparison) {
  const Finding finding = state_finding(comparison);
  std::string out = fmt::format("<header><p class=\"kicker\">nibble report · <b>{}</b></p>\n<h1>{}</h1>\n",
                                escape_markup(comparison.title), keep_units(escape_markup(finding.headline)));
  if (!finding.verdict.empty())
    out += fmt::format("<p class=\"verdict\">{}</p>\n", keep_units(escape_markup(finding.verdict)));

  std::set<std::int64_t> parameters, steps, tokens;
  std::set<std::string> versions;
  for (const RunLog& run : comparison.logs) {
    if (run.parameters > 0) parameters.insert(run.parameters);
    if (!run.version.empty()) versions.insert(run.version);
    if (run.steps.empty()) continue;
    steps.insert(run.steps.back().step);
    tokens.insert(run.steps.back().tokens);
  }
  const auto range = [](const std::set<std::int64_t>& values, auto format) {
    return values.size() == 1 ? format(*values.begin()) : format(*values.begin()) + "–" + format(*values.rbegin());
  };
  const auto count = [](std::int64_t n) { return format_count(static_cast<double>(n)); };
  const auto fact = [&](const std::string& value, const char* name) {
    out += fmt::format("<li><b>{}</b> {}</li>\n", escape_markup(value), name);
  };
  out += "<ul class=\"facts\">\n";
  fact(std::to_string(comparison.results.size()), comparison.results.size() == 1 ? "run" : "runs");
  if (!parameters.empty()) fact(range(parameters, count), "parameters");
  if (!steps.empty()) fact(range(steps, format_integer), "steps");
  if (!tokens.empty() && *tokens.rbegin() > 0) fact(range(tokens, count), "tokens a run");
  if (!comparison.logs.empty() && !comparison.logs[0].started.empty()) fact(comparison.logs[0].started, "");
  for (const std::string& version : versions) fact("nibble " + version, "");
  return out + "</ul></header>\n";
}

std::string result_table(const Comparison& comparison) {
  std::string out =
      "<section id=\"results\"><h2>Results</h2>\n<div class=\"scroll\"><table class=\"wide\"><thead>\n"
      "<tr class=\"group\"><th colspan=\"7\"></th><th colspan=\"6\" class=\"span\"><span>SNR, dB</span></th></tr>\n"
      "<tr><th class=\"text\">recipe</th><th class=\"text\">seeds</th><th>train loss</th><th>val loss</th><th>gap "
      "%</th>"
      "<th>tokens/s</th><th>clamped</th>";
  for (std::size_t o = 0; o < kOperands; ++o) {
    out += fmt::format("<th><abbr title=\"{}\">{}</abbr></th>", kOperandNames[o], kOperandShortNames[o]);
  }
  out += "</tr></thead>\n<tbody>\n";
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    const RecipeSummary& recipe = comparison.recipes[r];
    out += fmt::format("<tr><th class=\"text\">{}{}</th>", swatch(comparison, r), escape_markup(recipe.label));
    out += cell(seeds_text(recipe.seeds), "text") + cell(format_loss(recipe.train_loss)) +
           cell(format_loss(recipe.val_loss)) +
           cell(recipe.diverged ? "diverged" : format_gap(recipe.gap_percent), "strong") +
           cell(format_rate(recipe.tokens_per_second)) + cell(format_percent(recipe.clamped_share));
    for (const OperandQuality& operand : recipe.quality) out += cell(format_decibel(operand.snr_db));
    out += "</tr>\n";
  }
  out += "</tbody></table></div>\n";
  const bool several_seeds = std::any_of(comparison.recipes.begin(), comparison.recipes.end(),
                                         [](const RecipeSummary& recipe) { return recipe.seeds.size() > 1; });
  if (comparison.recipes.size() > 1) {
    std::string note = state_noise(comparison);
    if (several_seeds) {
      note = "Figures are means over seeds; " + note;
    } else {
      note[0] = 'N';
    }
    out += fmt::format("<p class=\"note\">{}</p>\n", escape_markup(note));
  }
  return out + final_gap_figure(comparison) + "</section>\n";
}

std::string legend(const Comparison& comparison) {
  if (comparison.recipes.size() < 2) return {};
  std::string out = "<div class=\"legend\">\n";
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    out += fmt::format("<span class=\"item\" data-series=\"{}\">{}<span>{}</span></span>\n", recipe_group(r),
                       swatch(comparison, r), escape_markup(comparison.recipes[r].label));
  }
  return out + "</div>\n";
}

std::string run_table(const Comparison& comparison) {
  std::string rows;
  for (std::size_t i = 0; i < comparison.results.size(); ++i) {
    const RunResult& result = comparison.results[i];
    const RunLog& run = comparison.logs[i];
    const std::int64_t steps = run.steps.empty() ? 0 : run.steps.back().step;
    const std::int64_t tokens = run.steps.empty() ? 0 : run.steps.back().tokens;
    rows += fmt::format("<tr><th class=\"text\">{}</th>", escape_markup(result.name)) + cell(result.recipe, "text") +
            cell(std::to_string(result.seed)) + cell(format_integer(steps)) +
            cell(format_count(static_cast<double>(tokens))) + cell(format_loss(result.train_loss)) +
            cell(format_loss(result.val_loss)) + cell(format_gap(result.gap_percent)) +
            cell(format_rate(result.tokens_per_second)) + "</tr>\n";
  }
  return "<details><summary>Every run</summary><div class=\"scroll\"><table><thead><tr><th class=\"text\">run</th>"
         "<th class=\"text\">recipe</th><th>seed</th><th>steps</th><th>tokens</th><th>train loss</th><th>val loss</th>"
         "<th>gap %</th><th>tokens/s</th></tr></thead>\n<tbody>\n" +
         rows + "</tbody></table></div></details>\n";
}

std::string settings_list(const SettingsGroup& group) {
  std::string out = fmt::format("<div><h3>{}</h3><dl class=\"settings\">\n", escape_markup(group.name));
  for (const auto& [key, value] : group.values) {
    out += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escape_markup(key), escape_markup(value));
  }
  return out + "</dl></div>\n";
}

std::string recipe_details(const Comparison& comparison, std::size_t r) {
  const RecipeSummary& recipe = comparison.recipes[r];
  const RunLog& run = comparison.logs[recipe.runs[0]];
  std::string body;
  if (!run.recipe_table.empty()) {
    const bool differ = std::any_of(run.recipe_table.begin(), run.recipe_table.end(),
                                    [](const RecipeOperand& operand) { return !operand.where.empty(); });
    body += fmt::format(
        "<div class=\"scroll\"><table><thead><tr><th class=\"text\">operand</th>{}"
        "<th class=\"text\">quantized as</th></tr></thead>\n<tbody>\n",
        differ ? "<th class=\"text\">only in</th>" : "");
    for (const RecipeOperand& operand : run.recipe_table) {
      body += fmt::format("<tr><th class=\"text\"><code>{}</code></th>{}<td class=\"text wrap\">{}</td></tr>\n",
                          escape_markup(operand.operand),
                          differ ? fmt::format("<td class=\"text\">{}</td>", escape_markup(operand.where)) : "",
                          escape_markup(operand.spec));
    }
    body += "</tbody></table></div>\n";
  }
  std::string products;
  for (const SettingsGroup& group : run.settings) {
    if (group.name != "paths") continue;
    for (const auto& [product, path] : group.values) products += (products.empty() ? "" : ", ") + product + " " + path;
  }
  if (!products.empty()) body += fmt::format("<p class=\"note\">Products ran as: {}.</p>\n", escape_markup(products));
  if (!run.recipe_text.empty()) body += fmt::format("<pre>{}</pre>\n", escape_markup(run.recipe_text));
  if (body.empty()) return {};
  return fmt::format("<details><summary>{}Recipe {}</summary><div>\n{}</div></details>\n", swatch(comparison, r),
                     escape_markup(recipe.label), body);
}

std::string differences(const Comparison& comparison) {
  const std::vector<SettingsDifference> rows = differing_settings(comparison.logs);
  if (rows.empty()) return {};
  std::string out =
      "<details open=\"open\"><summary>Settings that differ between the runs</summary>"
      "<div class=\"scroll\"><table><thead><tr><th class=\"text\">setting</th>";
  for (const RunLog& run : comparison.logs) out += fmt::format("<th>{}</th>", escape_markup(run.name));
  out += "</tr></thead>\n<tbody>\n";
  for (const SettingsDifference& row : rows) {
    out += fmt::format("<tr><th class=\"text\">{}</th>", escape_markup(row.key));
    for (const std::string& value : row.values) out += cell(value.empty() ? "-" : value);
    out += "</tr>\n";
  }
  return out + "</tbody></table></div></details>\n";
}

std::string settings_section(const Comparison& comparison) {
  if (comparison.logs.empty()) return {};
  const RunLog& first = comparison.logs[0];
  std::string groups;
  for (const SettingsGroup& group : first.settings) {
    if (group.name != "paths") groups += settings_list(group);
  }
  std::string out = "<section id=\"settings\"><h2>Settings</h2>\n" + differences(comparison);
  if (!groups.empty()) {
    const std::string whose =
        comparison.logs.size() == 1 ? "" : fmt::format(" <span>as in {}</span>", escape_markup(first.name));
    out += fmt::format(
        "<details><summary>Model, training, data and machine{}</summary><div class=\"columns\">\n{}"
        "</div></details>\n",
        whose, groups);
  }
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) out += recipe_details(comparison, r);
  return out + run_table(comparison) + "</section>\n";
}

/// A word of a shell command, quoted where the shell would take it apart.
std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
    return std::isalnum(c) || std::string_view("-_./=,:+@%").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) return word;
  std::string quoted = "'";
  for (char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string compare_command(const Comparison& comparison) {
  if (!comparison.command.empty()) return comparison.command;
  std::string recipes;
  std::size_t seeds = 1;
  for (const RecipeSummary& recipe : comparison.recipes) {
    recipes += (recipes.empty() ? "" : ",") + recipe.label;
    seeds = std::max(seeds, recipe.seeds.size());
  }
  return fmt::format("nibble compare --config compare.toml --recipes {} --seeds {} --out {}", shell_word(recipes),
                     seeds, shell_word("runs/" + comparison.title));
}

std::string reproduce_section(const Comparison& comparison) {
  std::string out = "<section id=\"reproduce\"><h2>How to reproduce</h2>\n";
  if (!comparison.config_text.empty()) {
    out += fmt::format(
        "<p>Save the configuration below as <code>compare.toml</code>, then run</p>\n<pre>{}</pre>\n"
        "<details><summary>compare.toml</summary><div><pre>{}</pre></div></details>\n",
        escape_markup(compare_command(comparison)), escape_markup(comparison.config_text));
  } else {
    std::string commands;
    for (const RunLog& run : comparison.logs) {
      if (!run.command.empty()) commands += run.command + "\n";
    }
    if (!commands.empty())
      out += fmt::format("<p>The runs were started with</p>\n<pre>{}</pre>\n", escape_markup(commands));
    out +=
        "<p>The recipes and settings above are complete: with the same settings, recipe, seed and data a run "
        "repeats its losses.</p>\n";
  }
  std::string directories;
  std::set<std::string> parents;
  for (const RunLog& run : comparison.logs) {
    const std::filesystem::path parent = run.directory.parent_path();
    const std::string path = comparison.config_text.empty() ? run.directory.string() : parent.string();
    if (parents.insert(path).second) directories += fmt::format(" {}", shell_word(path));
  }
  if (!directories.empty()) {
    out += fmt::format("<p>This page is rebuilt from the logs with</p>\n<pre>nibble report{}</pre>\n",
                       escape_markup(directories));
  }
  return out + "</section>\n";
}

constexpr const char* kReadingGuide = R"html(<details><summary>How to read this page</summary><div>
<p class="note">A linear layer Y = X Wᵀ has three matrix products, each with two operands that a recipe may quantize:</p>
<div class="scroll"><table><thead><tr><th class="text">product</th><th class="text">equation</th><th class="text">operands</th></tr></thead><tbody>
<tr><th class="text">fprop, forward</th><td class="text">Y = X Wᵀ</td><td class="text">FA fprop.x = X, FW fprop.w = W</td></tr>
<tr><th class="text">dgrad, input gradient</th><td class="text">dX = dY W</td><td class="text">DG dgrad.dy = dY, DW dgrad.w = W</td></tr>
<tr><th class="text">wgrad, weight gradient</th><td class="text">dW = dYᵀ X</td><td class="text">GG wgrad.dy = dY, GX wgrad.x = X</td></tr>
</tbody></table></div>
<p class="note"><b>Gap</b>: 100 (loss / loss of the baseline − 1), against the run with the same seed, and so the same data order and initial weights. <b>Noise</b>: by how much the baseline changes when only its seed does, in the same unit; a gap smaller than that says nothing. <b>SNR</b>: signal-to-noise ratio of a quantized operand against its source, in dB; “exact” means no rounding error. <b>Underflow</b>: share of nonzero elements that became zero. <b>Clamped</b>: share of elements that the clamp changed. <b>Clipped</b>: share of elements beyond the largest value that their block can hold. <b>Bias</b>: mean of q − x over the mean of |x|.</p>
</div></details>
)html";

}  // namespace

std::string report_page(const Comparison& comparison) {
  std::string body = header(comparison) + result_table(comparison) + kReadingGuide;
  if (!comparison.logs.empty()) {
    body += legend(comparison) + loss_section(comparison) + gap_section(comparison) + alarm_section(comparison) +
            quality_section(comparison) + speed_section(comparison) + optimization_section(comparison) +
            settings_section(comparison) + reproduce_section(comparison);
  }
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'\"/>\n"
      "<title>{} · nibble report</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}"
      "<footer>Written by nibble from run.json, metrics.jsonl and compare.json; this page needs no network.</footer>\n"
      "</main>\n<script>{}</script>\n</body>\n</html>\n",
      escape_markup(comparison.title), page_style(), body, page_script());
}

void write_report(const std::vector<std::filesystem::path>& directories, const std::filesystem::path& out) {
  write_file_atomic(out, report_page(load_comparison(directories)));
}

}  // namespace nibble
