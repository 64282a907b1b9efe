#include "nibble/report/page_assets.h"

namespace nibble {

// Series colours: k0 is ink for the baseline; k1-k7 keep their distance under the three common colour-vision
// deficiencies (after Okabe and Ito) and reach 3:1 against their background, darker on light, lighter on dark.
std::string_view page_style() {
  return R"css(
:root {
  color-scheme: light dark;
  --surface: #fbfaf8; --panel: #ffffff; --ink: #1d1c1a; --muted: #68655f; --line: #e6e3dd; --axis: #b9b5ad;
  --heat: #c2500c;
  --k0: #3b3935; --k1: #0068a8; --k2: #c2500c; --k3: #00805c; --k4: #a3437f; --k5: #8a6a00; --k6: #4a5ec4; --k7: #2a8aa6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --surface: #141516; --panel: #1b1c1e; --ink: #e8e6e1; --muted: #a29f98; --line: #2d2e31; --axis: #55565a;
    --heat: #f08a45;
    --k0: #d6d3cc; --k1: #5fb4ee; --k2: #f58b4c; --k3: #3cc596; --k4: #e08cc0; --k5: #d9b53c; --k6: #96a5f5; --k7: #62c6dc;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--surface); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 28px 64px; }
header .kicker { margin: 0 0 10px; color: var(--muted); font-size: 14px; }
header .kicker b { color: var(--ink); font-weight: 600; }
h1 { margin: 0 0 12px; max-width: 30em; font-size: clamp(22px, 3.1vw, 32px); line-height: 1.22; font-weight: 650;
  letter-spacing: -0.012em; text-wrap: balance; }
header .verdict { margin: 0; max-width: 46em; font-size: 17px; color: var(--muted); }
h2 { margin: 56px 0 6px; font-size: 20px; font-weight: 650; letter-spacing: -0.006em; }
h3 { margin: 24px 0 6px; font-size: 15px; font-weight: 650; }
section > p, .note { margin: 0 0 14px; max-width: 46em; color: var(--muted); font-size: 15px; }
section > p.note, .note { font-size: 13.5px; margin: 8px 0 14px; max-width: 62em; }
.facts { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 22px 0 0; padding: 0; list-style: none; font-size: 14px; color: var(--muted); }
.facts b { color: var(--ink); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
table.wide { width: 100%; }
th, td { padding: 7px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; vertical-align: top; }
th { font-weight: 500; color: var(--muted); vertical-align: bottom; }
th abbr { text-decoration: none; border-bottom: 1px dotted var(--axis); }
th.text, td.text { text-align: left; }
td.wrap { white-space: normal; min-width: 16em; }
thead .group th { border-bottom: 0; padding-bottom: 0; font-size: 12.5px; }
thead .group th.span { text-align: center; } thead .group th.span span { display: block; border-bottom: 1px solid var(--line); }
tbody th { color: var(--ink); font-weight: 600; }
td.strong { font-weight: 650; }
td.none { color: var(--axis); }
.swatch { display: inline-block; width: 10px; height: 10px; margin-right: 8px; border-radius: 50%; background: currentColor; }
.k0 { color: var(--k0); } .k1 { color: var(--k1); } .k2 { color: var(--k2); } .k3 { color: var(--k3); }
.k4 { color: var(--k4); } .k5 { color: var(--k5); } .k6 { color: var(--k6); } .k7 { color: var(--k7); }
.legend { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 4px 6px; margin: 36px -8px -28px; padding: 8px;
  background: var(--surface); font-size: 14px; }
.legend .item { display: inline-flex; align-items: center; padding: 3px 10px; border: 1px solid transparent; border-radius: 99px;
  background: none; font: inherit; }
.legend .item span:last-child { color: var(--ink); }
.legend button.item { border-color: var(--line); cursor: pointer; }
.legend button.item:hover { border-color: var(--axis); }
.legend button[aria-pressed="false"] { opacity: .45; text-decoration: line-through; }
.grid { display: grid; gap: 18px; align-items: start; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); }
.grid.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0; padding: 16px 16px 10px; background: var(--panel); border: 1px solid var(--line); border-radius: 10px; min-width: 0; }
figure + figure { margin: 0; }
figcaption { margin: 0 0 8px; font-size: 14px; color: var(--muted); }
figcaption b { color: var(--ink); font-weight: 600; }
figcaption small { display: block; font-size: 13px; }
.stack { display: grid; gap: 18px; grid-template-columns: minmax(0, 1fr); }
.stack .heat { width: auto; max-width: 100%; }
.choose { display: none; flex-wrap: wrap; gap: 4px 6px; margin: 0 0 14px; font-size: 14px; }
.choose.live { display: flex; }
.choose button { padding: 3px 12px; border: 1px solid var(--line); border-radius: 99px; background: none; color: var(--muted);
  font: inherit; cursor: pointer; }
.choose button:hover { border-color: var(--axis); }
.choose button[aria-pressed="true"] { border-color: var(--ink); color: var(--ink); font-weight: 600; }
.plot { display: block; width: 100%; height: auto; overflow: visible; }
.plot text { font-size: 12px; fill: var(--muted); font-family: inherit; font-variant-numeric: tabular-nums; }
.plot text.direct { fill: currentColor; font-weight: 600; }
.plot text.halo { paint-order: stroke; stroke: var(--panel); stroke-width: 3px; }
.plot text.value { fill: var(--ink); }
.plot text.cell-text { fill: var(--ink); font-size: 11.5px; pointer-events: none; }
.plot line.grid { stroke: var(--line); }
.plot line.axis { stroke: var(--axis); }
.plot line.zero { stroke: var(--axis); stroke-width: 1.5; }
.plot .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.plot .line.faint { stroke-width: 1; opacity: .45; }
.plot .dash1 { stroke-dasharray: 6 4; } .plot .dash2 { stroke-dasharray: 1.5 4; } .plot .dash3 { stroke-dasharray: 8 3 2 3; }
.plot .dots circle, .plot .label circle { fill: currentColor; }
.plot .dots circle { stroke: var(--panel); stroke-width: 1; }
.plot .leader { fill: none; stroke: currentColor; opacity: .5; }
.plot .band { fill: var(--k0); opacity: .13; }
.plot .bar { fill: currentColor; opacity: .82; }
.plot .mark circle { fill: currentColor; stroke: var(--panel); stroke-width: 1.2; }
.plot .mark.hollow circle { fill: var(--panel); stroke: currentColor; stroke-width: 1.6; }
.plot .range { stroke: currentColor; stroke-width: 2; opacity: .4; }
.plot .cell { fill: var(--heat); }
.plot .panel-frame { fill: none; stroke: var(--line); }
.plot .event-line { stroke: currentColor; opacity: .55; stroke-dasharray: 3 3; }
.plot text.event-text { fill: currentColor; font-size: 11.5px; }
.plot .level { stroke: var(--ink); opacity: .6; stroke-dasharray: 7 4; }
.plot .cursor { stroke: var(--axis); stroke-dasharray: 2 3; }
.plot .off, .off { display: none; }
.narrow { display: none; }
@media (max-width: 700px) {
  main { padding: 24px 14px 48px; }
  figure { padding: 12px 8px 6px; }
  figcaption { padding: 0 4px; }
  .wide-only { display: none; }
  .narrow { display: block; }
  h2 { margin-top: 44px; }
  .legend { margin-bottom: -18px; }
}
details { margin: 10px 0; border: 1px solid var(--line); border-radius: 10px; background: var(--panel); }
summary { padding: 10px 14px; cursor: pointer; font-weight: 600; font-size: 15px; }
summary span { color: var(--muted); font-weight: 400; }
details > div { padding: 0 14px 14px; }
pre { margin: 8px 0; padding: 12px 14px; overflow-x: auto; background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .92em; }
dl.settings { display: grid; grid-template-columns: max-content 1fr; gap: 3px 20px; margin: 4px 0 0; font-size: 14px; }
dl.settings dt { color: var(--muted); } dl.settings dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.columns { display: grid; gap: 8px 40px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
footer { margin-top: 56px; padding-top: 14px; border-top: 1px solid var(--line); color: var(--muted); font-size: 13px; }
#readout { position: fixed; z-index: 3; pointer-events: none; padding: 7px 10px; background: var(--panel); border: 1px solid var(--axis);
  border-radius: 8px; font-size: 13px; line-height: 1.45; font-variant-numeric: tabular-nums; box-shadow: 0 4px 14px rgb(0 0 0 / .16); }
#readout div { display: flex; gap: 14px; justify-content: space-between; }
@media print { .legend { position: static; } figure, details { break-inside: avoid; } }
)css";
}

}  // namespace nibble
