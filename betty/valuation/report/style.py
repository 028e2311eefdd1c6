"""The style sheet of a report, light or dark as the reader's system is."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f3; --card: #ffffff; --ink: #1c1c1a; --second: #5a5a55; --faint: #8b8b84; --edge: #e3e2dc;
  --grid: #ecebe6; --helpful: #2a6fc9; --harmful: #d9572b; --soft-helpful: #e8f0fb; --soft-harmful: #fcece5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161615; --card: #20201e; --ink: #f0efea; --second: #b8b7b0; --faint: #86857e; --edge: #34342f;
    --grid: #2c2c29; --helpful: #6ba4ee; --harmful: #f08559; --soft-helpful: #1d2b3f; --soft-harmful: #3d261c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 40px 24px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 4px; }
h3 { font-size: 13px; margin: 0 0 8px; font-weight: 600; }
p { margin: 0; }
.lead { color: var(--second); max-width: 76ch; margin-bottom: 14px; }
dl.facts { display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 20px 0 0; }
dl.facts dt { color: var(--faint); font-size: 12px; }
dl.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 18px; margin-top: 14px; }
.words li { margin: 4px 0; } ul.words { margin: 0; padding-left: 18px; }
.note { color: var(--second); font-size: 13px; margin-top: 8px; }
.query { display: grid; grid-template-columns: minmax(110px, 190px) 1fr; gap: 22px; }
.asked { border-right: 1px solid var(--edge); padding-right: 18px; }
.asked .image { width: 112px; }
.asked .text { font-size: 14px; }
.sides { display: grid; gap: 16px; min-width: 0; }
.sides h3::before { content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 50%;
  margin-right: 7px; }
.side.helpful h3::before { background: var(--helpful); } .side.harmful h3::before { background: var(--harmful); }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: 10px; }
.row.wide { grid-template-columns: 1fr; gap: 6px; }
.example { min-width: 0; font-size: 12px; }
.row.wide .example { display: grid; grid-template-columns: 130px 1fr; gap: 12px; align-items: baseline; }
.row.wide .example .what { order: 2; }
.what { overflow-x: auto; }
.image { display: block; width: 100%; max-width: 112px; height: auto; border-radius: 5px;
  border: 1px solid var(--edge); }
.image.small { image-rendering: pixelated; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
.none { color: var(--faint); font-size: 12px; }
.caption { display: flex; justify-content: space-between; gap: 6px; margin-top: 4px; max-width: 112px;
  color: var(--second); }
.row.wide .caption { margin: 0; max-width: none; }
.caption b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.score { font-variant-numeric: tabular-nums; color: var(--second); white-space: nowrap; }
.bar { height: 4px; border-radius: 2px; margin-top: 3px; max-width: 112px; }
.row.wide .bar { max-width: none; }
.helpful .bar { background: var(--soft-helpful); } .harmful .bar { background: var(--soft-harmful); }
.bar i { display: block; height: 100%; border-radius: 2px; }
.helpful .bar i { background: var(--helpful); } .harmful .bar i { background: var(--harmful); }
table.numbers { border-collapse: collapse; font-size: 11px; font-variant-numeric: tabular-nums; }
table.numbers th { text-align: left; font-weight: 400; color: var(--faint); padding: 0 10px 0 0; }
table.numbers td { text-align: right; padding: 0; } table.numbers td.rest { color: var(--faint); text-align: left; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 14px; align-items: start; }
.chart { margin: 0; } .chart svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--faint); font-size: 12px; margin-top: 4px; }
svg text { font-family: inherit; font-size: 12px; fill: var(--second); font-variant-numeric: tabular-nums; }
svg .name { fill: var(--ink); } svg .tick { font-size: 11px; fill: var(--faint); }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--faint); stroke-width: 1; }
svg .zero { stroke: var(--faint); stroke-dasharray: 3 3; }
svg .fill.helpful { fill: var(--helpful); } svg .fill.harmful { fill: var(--harmful); }
svg .fill.random { fill: var(--faint); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .line.helpful { stroke: var(--helpful); } svg .line.random { stroke: var(--faint); }
svg .point.plain { fill: var(--helpful); fill-opacity: 0.45; }
svg .point.marked { fill: var(--harmful); stroke: var(--card); stroke-width: 1; }
table.compared { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; }
table.compared th, table.compared td { text-align: right; padding: 3px 0 3px 14px; border-top: 1px solid var(--grid); }
table.compared tr.head th { color: var(--faint); padding-top: 10px; border-top: 0; }
table.compared th:first-child { text-align: left; padding-left: 0; font-weight: 400; }
footer { margin-top: 44px; color: var(--faint); font-size: 12px; }
@media (max-width: 760px) {
  .query, .pair { grid-template-columns: 1fr; }
  .asked { border-right: 0; border-bottom: 1px solid var(--edge); padding: 0 0 14px; }
}
@media print { body { background: #fff; padding: 0; } .card { break-inside: avoid; } }
"""
