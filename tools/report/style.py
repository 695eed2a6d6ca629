"""The style sheet of a report: one column, light or dark as the reader's system is."""

STYLE = """
:root {
  --paper: #fdfdfc; --ink: #1b1c1e; --faint: #62666c; --rule: #d9dadb; --wash: #f3f3f1;
  --blue: #1f6fb4; --orange: #c25a0c; --green: #1a7f52; --alarm: #a8201a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141517; --ink: #e6e6e4; --faint: #9b9fa6; --rule: #37393d; --wash: #1d1f22;
    --blue: #6cb0ee; --orange: #f0944d; --green: #5cc795; --alarm: #ff8a80;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
}
main { max-width: 66rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1, h2 { font-weight: 600; line-height: 1.2; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: 1.25rem; margin: 0 0 1.6rem; color: var(--faint); }
h2 {
  font-size: 1.3rem; margin: 3.6rem 0 1rem; padding-top: 0.9rem; border-top: 1px solid var(--rule);
}
p { max-width: 42rem; margin: 0 0 1rem; }
.result { max-width: 46rem; margin: 0 0 1.3rem; overflow-wrap: anywhere; }
.result strong { display: block; font-size: 1.2rem; font-weight: 600; line-height: 1.3; }
.result:first-of-type strong { font-size: clamp(1.6rem, 1.1rem + 2.2vw, 2.3rem); line-height: 1.2; }
.result span { display: block; margin-top: 0.35rem; color: var(--faint); }
.failed strong { color: var(--alarm); }
.notes {
  max-width: 46rem; margin: 1.8rem 0 0; padding: 0.8rem 1rem 0.8rem 2rem; background: var(--wash);
  border-left: 3px solid var(--orange); font-size: 0.92rem;
}
.notes, .open { overflow-wrap: anywhere; }
.open { max-width: 42rem; padding-left: 1.2rem; margin: 0; }
.open li { margin-bottom: 0.35rem; }
.caption { font-size: 0.88rem; line-height: 1.45; color: var(--faint); }
table, dl, svg text, summary {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
.scroll { overflow-x: auto; margin: 0 0 0.9rem; }
table {
  border-collapse: collapse; width: 100%; font-size: 0.88rem; line-height: 1.4;
  font-variant-numeric: tabular-nums lining-nums;
}
th, td { padding: 0.4rem 0.9rem 0.4rem 0; text-align: left; vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--faint); font-weight: 500; border-bottom: 1px solid var(--ink); }
thead th, .numbers td { white-space: nowrap; }
tbody th { font-weight: 500; min-width: 8rem; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
td small { color: var(--faint); font-size: inherit; }
th small, td small + small { display: block; color: var(--faint); font-weight: 400; }
.main { font-weight: 650; }
.main th { font-weight: 650; }
.main small { font-weight: 400; }
.chance > * { color: var(--faint); }
.environment { width: auto; min-width: min(100%, 34rem); }
.environment td { min-width: 10rem; overflow-wrap: anywhere; }
.environment tbody th { color: var(--faint); font-weight: 400; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 0.9rem 1.6rem;
  margin: 0 0 1.8rem; font-size: 0.88rem; line-height: 1.4;
}
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums lining-nums; }
figure { margin: 0 0 0.9rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.2rem; }
.bars { max-width: 30rem; }
svg { display: block; width: 100%; height: auto; max-width: 34rem; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.sheet img { display: block; max-width: 100%; height: auto; border-radius: 2px; }
.sheet { margin-top: 1.8rem; }
details { margin-top: 1.4rem; }
summary { cursor: pointer; font-size: 0.88rem; color: var(--faint); }
pre {
  overflow-x: auto; padding: 0.9rem 1rem; background: var(--wash); line-height: 1.5;
  font: 0.82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
@media (max-width: 40rem) {
  body { font-size: 16px; }
  main { padding: 1.8rem 1rem 3rem; }
  h2 { margin-top: 2.6rem; }
  .facts { grid-template-columns: 1fr 1fr; }
}
@media print { main { max-width: none; padding: 0; } section, figure { break-inside: avoid; } }
"""
