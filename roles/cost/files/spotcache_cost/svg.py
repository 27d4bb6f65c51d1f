"""The ways as a picture: a bar for each, in the parts that it is made of."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from spotcache_cost import words
from spotcache_cost.model import GROUPS
from spotcache_cost.prices import Rate
from spotcache_cost.ways import Row

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 1040, 380, 110, 84, 26
# Told apart also by those who see no red or no green, and by their order.
_COLOURS = {
    "compute": "#2c7fb8",
    "disks": "#d95f0e",
    "backups": "#7fcdbb",
    "names": "#756bb1",
    "requests": "#fec44f",
    "network": "#969696",
    "other": "#1b7837",
}
_STEPS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def _text(x: float, y: float, said: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(said)}</text>'


def amount(usd: float, rate: Rate) -> str:
    """An amount for a person: yen have no parts."""
    value = usd * rate.per_usd
    return f"{value:,.0f} {rate.currency}" if rate.per_usd >= 50 else f"{value:,.2f} {rate.currency}"


def picture(rows: Sequence[Row], rate: Rate) -> str:
    """The SVG of a table of rows."""
    most = max((row.estimate.usd for row in rows), default=1.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    bottom = _TOP + _ROW * len(rows)
    told = "; ".join(f"{words.name(row)}: {amount(row.estimate.usd, rate)}" for row in rows)
    size = f'viewBox="0 0 {_WIDTH} {bottom + 44}" width="{_WIDTH}" height="{bottom + 44}"'
    look = 'role="img" aria-labelledby="title told" font-family="sans-serif" font-size="13" fill="#222"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}>',
        '<title id="title">What a Redis costs a month</title>',
        f'<desc id="told">{escape(told)}</desc>',
        f'<rect width="{_WIDTH}" height="{bottom + 44}" fill="#fff"/>',
        _text(20, 30, "What a Redis costs a month", ' font-size="18" font-weight="bold"'),
    ]
    x = 20.0
    for group in GROUPS:
        parts.append(f'<rect x="{x:.1f}" y="46" width="12" height="12" fill="{_COLOURS[group]}"/>')
        parts.append(_text(x + 17, 57, words.column(group)))
        x += 36 + 8 * len(words.column(group))
    step = next((one for one in _STEPS if most / one <= 8), _STEPS[-1])
    mark = 0.0
    while mark <= most:
        at = _LEFT + mark * scale
        parts.append(f'<line x1="{at:.1f}" y1="{_TOP - 6}" x2="{at:.1f}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(_text(at, bottom + 18, f"{mark:g}", ' text-anchor="middle" fill="#666"'))
        mark += step
    parts.append(_text(_LEFT, bottom + 36, "USD", ' fill="#666"'))
    for index, row in enumerate(rows):
        top = _TOP + _ROW * index
        parts.append(_text(_LEFT - 8, top + 16, words.name(row), ' text-anchor="end"'))
        at = float(_LEFT)
        for group in GROUPS:
            width = row.estimate.group(group) * scale
            if width > 0:
                parts.append(
                    f'<rect x="{at:.2f}" y="{top + 4}" width="{width:.2f}" height="17" fill="{_COLOURS[group]}"/>'
                )
            at += width
        parts.append(_text(at + 6, top + 16, amount(row.estimate.usd, rate)))
    return "\n".join([*parts, "</svg>"]) + "\n"
