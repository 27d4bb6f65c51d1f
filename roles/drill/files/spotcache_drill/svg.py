"""A drill's timeline as a picture: one row for each thing that happened, on one axis of seconds."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 960, 190, 110, 96, 30
_STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)
# From which event to which a bar reaches, what it is called, and its colour.
_BARS = (
    ("notice seen", "off the host", "last backup", "#2c7fb8"),
    ("host gone", "first read", "next host", "#d95f0e"),
    ("new host", "restored", "boot and restore", "#7a7a7a"),
)


def step_for(seconds: float) -> float:
    """The distance of the axis' marks: at most ten of them."""
    return next((step for step in _STEPS if seconds / step <= 10), _STEPS[-1])


def _text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(words)}</text>'


def picture(run: Mapping[str, Any]) -> str:
    """The SVG of one entry of report.json."""
    events: Sequence[Mapping[str, Any]] = run["timeline"]
    start = float(run["injected_at"])
    first: float = min([0.0, *(event["at"] - start for event in events)])
    last: float = max([1.0, *(event["at"] - start for event in events)])
    scale = (_WIDTH - _LEFT - _RIGHT) / (last - first)
    height = _TOP + _ROW * (len(events) + 2)
    bottom = _TOP + _ROW * len(events)

    def x(seconds: float) -> float:
        return _LEFT + (seconds - first) * scale

    title = f"Drill: {run['kind']}, host {run['host']}"
    told = "; ".join(f"{event['name']} at {event['at'] - start:.1f} s" for event in events)
    lost = "unknown" if run["acknowledged_lost"] is None else str(run["acknowledged_lost"])
    out = "unknown" if run["outage_s"] is None else f"{run['outage_s']:.1f} s"
    below = f"acknowledged writes lost: {lost}    without service: {out}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title told" font-family="sans-serif" font-size="13" fill="#222">'
    )
    parts = [
        head,
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="told">{escape(told)}; {escape(below)}</desc>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        _text(20, 30, title, ' font-size="18" font-weight="bold"'),
        _text(20, 54, below),
    ]
    step = step_for(last - first)
    mark = -(-first // step) * step
    while mark <= last:
        parts.append(f'<line x1="{x(mark):.1f}" y1="{_TOP - 12}" x2="{x(mark):.1f}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(_text(x(mark), bottom + 18, f"{mark:g} s", ' text-anchor="middle" fill="#555"'))
        mark += step
    at = {event["name"]: event["at"] - start for event in events}
    rows = {event["name"]: number for number, event in enumerate(events)}
    for begin, end, name, colour in _BARS:
        if begin in at and end in at and at[end] >= at[begin]:
            y = _TOP + _ROW * rows[begin]
            wide = max(1.0, (at[end] - at[begin]) * scale)
            parts.append(
                f'<rect x="{x(at[begin]):.1f}" y="{y + 3}" width="{wide:.1f}" height="{_ROW - 12}" rx="3" '
                f'fill="{colour}" fill-opacity="0.35"><title>{escape(name)}: {at[end] - at[begin]:.1f} s</title></rect>'
            )
    for number, event in enumerate(events):
        seconds, y = event["at"] - start, _TOP + _ROW * number + 12
        parts.append(_text(_LEFT - 12, y + 4, event["name"], ' text-anchor="end"'))
        parts.append(f'<circle cx="{x(seconds):.1f}" cy="{y}" r="5" fill="#222"/>')
        parts.append(_text(x(seconds) + 10, y + 4, f"{seconds:+.1f} s"))
    return "\n".join([*parts, "</svg>"]) + "\n"
