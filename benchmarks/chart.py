"""The chart: panels of bars as an SVG file, readable on light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from .catalogue import AGENTBUS, AGENTBUS_MANY, CATALOGUE
from .protocol import BODY_BYTES
from .results import AT_ONCE, CONSUME, PUBLISH, fan_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .figures import Spread
    from .results import Results

WIDTH, MARGIN = 860, 24
LABELS = 268
"""Room for the names: the longest one in a wide fallback font."""
VALUES = 64
"""Room behind the longest bar for its figure."""
TITLE, PANEL_HEAD, ROW, BAR, PANEL_GAP, FOOT = 52, 30, 27, 17, 22, 42

PANELS = (
    (PUBLISH, "publish, confirmed"),
    (CONSUME, "consume, handled and settled"),
    (fan_out(100), "one channel, 100 subscribers in two processes: deliveries"),
    (AT_ONCE, "requests answered, 100 at once"),
)

STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de } .title { fill: #1f2328; font-weight: 600; font-size: 17px }
  .text { fill: #1f2328 } .head { fill: #1f2328; font-weight: 600 } .quiet { fill: #59636e }
  .axis { stroke: #d0d7de } .whisker { stroke: #1f2328 }
  .own { fill: #0a6ebd } .peer { fill: #8b98a5 } .raw { fill: #d3dae1 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #3d444d } .title, .text, .head { fill: #f0f6fc } .quiet { fill: #9198a1 }
    .axis { stroke: #3d444d } .whisker { stroke: #f0f6fc }
    .own { fill: #2f81d6 } .peer { fill: #6b7885 } .raw { fill: #353d46 }
  }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """The candidates that have a figure for one measure, and where their bars stand."""

    title: str
    top: float
    spreads: dict[str, Spread]

    @property
    def bottom(self) -> float:
        return self.top + PANEL_HEAD + ROW * len(self.spreads)

    def x(self, rate: float) -> float:
        longest = max(spread.high for spread in self.spreads.values())
        return MARGIN + LABELS + rate / longest * (WIDTH - 2 * MARGIN - LABELS - VALUES)


def _kind(name: str) -> str:
    if name in (AGENTBUS, AGENTBUS_MANY):
        return "own"
    return "raw" if CATALOGUE[name].module in ("raw", "raw_many") else "peer"


def _figure(rate: float) -> str:
    return f"{rate / 1000:.0f}k" if rate >= 99_500 else f"{rate / 1000:.1f}k"


def _text(x: float, y: float, words: str, style: str = "text", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _row(panel: Panel, y: float, name: str, spread: Spread) -> Iterator[str]:
    """A name, a bar to the median, a thin line from the lowest to the highest round, the figure."""
    start, end, base = panel.x(0), panel.x(spread.median), y + BAR - 4
    yield _text(start - 12, base, CATALOGUE[name].title, "head" if _kind(name) == "own" else "text", "end")
    box = f'x="{start:.1f}" y="{y:.1f}" width="{max(1.5, end - start):.1f}" height="{BAR}" rx="2"'
    yield f'<rect {box} class="{_kind(name)}"/>'
    middle = y + BAR / 2
    yield _line(panel.x(spread.low), middle, panel.x(spread.high), middle, "whisker")
    yield _text(max(end, panel.x(spread.high)) + 8, base, _figure(spread.median))


def _drawn(panel: Panel) -> Iterator[str]:
    first = panel.top + PANEL_HEAD
    yield _text(panel.x(0), panel.top + 16, panel.title, "head")
    yield _line(panel.x(0), first - 5, panel.x(0), panel.bottom, "axis")
    for number, (name, spread) in enumerate(panel.spreads.items()):
        yield from _row(panel, first + ROW * number, name, spread)


def draw(results: Results, candidates: tuple[str, ...]) -> str:
    """The SVG text, candidates in the order given; a measure that nobody has gets no panel."""
    parts = [_text(MARGIN, 36, f"Messages per second, {BODY_BYTES}-byte bodies", "title")]
    bottom: float = TITLE
    for measure, title in PANELS:
        spreads = {name: spread for name in candidates if (spread := results.spread(name, measure))}
        if spreads:
            panel = Panel(title, bottom, spreads)
            parts.extend(_drawn(panel))
            bottom = panel.bottom + PANEL_GAP
    note = "At least once, same machine, same run. Bars: median of the rounds; lines: lowest to highest."
    parts.append(_text(MARGIN, bottom + 4, note, "quiet"))
    return _page(int(bottom) + FOOT - PANEL_GAP, parts)


def _page(height: int, parts: list[str]) -> str:
    frame = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" class="page"/>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif" '
        'font-size="13" role="img" aria-label="Messages per second of agentbus and its peers">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", frame, *parts, "</svg>", ""])
