"""Charts as inline SVG: coloured by side, shaped by family, readable in light and dark.

Colours are CSS variables and ``currentColor``, so the page's style decides them; nothing is said by
colour alone.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import benchmark.leaderboard.families as families
from benchmark.leaderboard.board import Row, format_interval, points
from benchmark.leaderboard.families import FAMILIES

if TYPE_CHECKING:
    from benchmark.leaderboard.board import Section

    from benchmark.statistics import Estimate


_WIDTH, _LINE = 400, 40  # of the contrast: pixels across, and per method
_SMALL, _HEIGHT = 370, 240  # of the compute chart
_SIGNED = "datum.value === 0 ? '0' : format(datum.value, '+')"


def glyph(family: str) -> str:
    """The mark of a family as a small inline SVG, hidden from screen readers: words stand by."""
    drawn = families.family(family)
    return (
        f'<svg class="glyph" viewBox="-1.3 -1.3 2.6 2.6" aria-hidden="true" focusable="false">'
        f'<path d="{drawn.mark}" fill="var({drawn.colour})"/></svg>'
    )


def reach(rows: Iterable[Row]) -> tuple[float, float]:
    """An axis, in percentage points, that holds zero and every interval of the gains."""
    ends = [0.0]
    for row in rows:
        ends += [100 * row.gain.low, 100 * row.gain.high] if row.gain else []
    low, high = min(ends), max(ends)
    margin = 0.04 * (high - low) or 1.0
    return (low - margin, high + margin)


def whisker(gain: Estimate, family: str, axis: tuple[float, float]) -> str:
    """One gain as dot and interval, for a table cell that says the numbers too."""
    low, high = axis

    def at(value: float) -> str:
        return f"{120 * (100 * value - low) / (high - low):.1f}"

    drawn = families.family(family)
    return (
        '<svg class="whisker" viewBox="0 0 120 16" aria-hidden="true" focusable="false">'
        f'<path class="zero" d="M{at(0)},0V16"/>'
        f'<path d="M{at(gain.low)},8H{at(gain.high)}" stroke="var({drawn.colour})"/>'
        f'<path transform="translate({at(gain.value)},8) scale(5)" d="{drawn.mark}" '
        f'fill="var({drawn.colour})"/></svg>'
    )


def gains(section: Section, axis: tuple[float, float]) -> str:
    """The contrast: every method's gain over the control, dot and 95 % interval.

    Zero is the control; dashed lines continue the floor and the ceiling (the other controls and
    the oracles). Returns "" where no row has a gain.
    """
    rows = [row for row in section.rows if row.gain]
    if not rows:
        return ""
    import altair as alt

    table = [_mark(row) for row in rows]
    y = alt.Y("method:N", sort=[row.method for row in rows], axis=None)
    base = alt.Chart(alt.Data(values=table)).encode(y=y)
    bounds = [mark for mark, row in zip(table, rows, strict=True) if not row.competes]
    scale = alt.Scale(domain=list(axis), nice=False, zero=False)
    axes = _axis(alt, labelExpr=_SIGNED, tickCount=6)
    x = alt.X("gain:Q", scale=scale, axis=axes)
    layers = [
        _rule(alt, [{"gain": 0.0}], strokeWidth=1.5, opacity=0.9),
        _rule(alt, bounds, strokeDash=[2, 3], opacity=0.45),
        base.mark_rule(strokeWidth=2.5).encode(
            x=alt.X("low:Q", scale=scale, axis=axes), x2="high:Q", color=_colour(alt)
        ),
        base.mark_point(filled=True, size=120, opacity=1).encode(
            x=x, color=_colour(alt), shape=_shape(alt)
        ),
        base.mark_text(align="left", dy=-14, limit=_WIDTH - 60).encode(
            x=alt.value(0), text="title:N"
        ),
        base.mark_text(align="right", dy=-14, fontWeight="bold").encode(
            x=alt.value(_WIDTH), text="text:N"
        ),
    ]
    chart = alt.layer(*layers).properties(width=_WIDTH, height=alt.Step(_LINE))
    summary = "; ".join(f"{row.title} {format_interval(row.gain)}" for row in rows if row.gain)
    return _svg(chart, f"Gain over the control on {section.contest.task}, in points: {summary}")


def compute(section: Section, axis: tuple[float, float]) -> str:
    """Gain against compute (TFLOPs, log axis), for methods that used any.

    Returns "" where there are fewer than two.
    """
    rows = [row for row in section.rows if row.gain and row.tflops > 0]
    if len(rows) < 2:
        return ""
    import altair as alt

    powers = [math.log10(row.tflops) for row in rows]
    pad = 0.15 * (max(powers) - min(powers)) or 0.5
    domain = [10 ** (min(powers) - pad), 10 ** (max(powers) + pad)]
    table = [{**_mark(row), "tflops": row.tflops} for row in rows]
    _place_labels(table, domain, axis)
    logarithm = alt.Scale(type="log", domain=domain, nice=False)
    scale = alt.Scale(domain=list(axis), nice=False, zero=False)
    costs = _axis(alt, title="TFLOPs of a trial", values=_ticks(*domain), format="~g")
    x = alt.X("tflops:Q", scale=logarithm, axis=costs)
    y = alt.Y("gain:Q", scale=scale, axis=_axis(alt, labelExpr=_SIGNED, tickCount=5))
    base = alt.Chart(alt.Data(values=table)).encode(x=x, color=_colour(alt))
    label = alt.Chart(alt.Data(values=table)).encode(
        x=alt.X("label_x:Q", scale=logarithm, axis=costs),
        y=alt.Y("label_y:Q", scale=scale),
        text="method:N",
    )
    layers = [
        alt.Chart(alt.Data(values=[{"gain": 0.0}])).mark_rule(strokeWidth=1.5).encode(y=y),
        base.mark_rule(strokeWidth=2, opacity=0.5).encode(y="low:Q", y2="high:Q"),
        *(
            label.transform_filter(f"datum.align === '{align}'").mark_text(align=align, fontSize=12)
            for align in ("left", "right")
        ),
        base.mark_point(filled=True, size=90, opacity=1).encode(y=y, shape=_shape(alt)),
    ]
    chart = alt.layer(*layers).properties(width=_SMALL, height=_HEIGHT)
    summary = "; ".join(
        f"{row.title} {row.tflops:.3g} TFLOPs, {points(row.gain.value)}" for row in rows if row.gain
    )
    return _svg(chart, f"Gain against compute on {section.contest.task}: {summary}")


def _mark(row: Row) -> dict[str, Any]:
    """One row of a chart's data, in percentage points."""
    assert row.gain is not None
    return {
        "method": row.method,
        "title": row.title,
        "family": row.family if row.family in FAMILIES else "control",
        "gain": 100 * row.gain.value,
        "low": 100 * row.gain.low,
        "high": 100 * row.gain.high,
        "text": points(row.gain.value),
    }


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two positive numbers; where that is one or none, 2s and 5s too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > 1:
            break
    return ticks


def _place_labels(
    table: Sequence[dict[str, Any]], domain: Sequence[float], axis: tuple[float, float]
) -> None:
    """Adds to every mark where its label goes, in the units of the axes, and which side it is
    aligned to: the first place around the mark that covers neither a mark nor another label."""
    # Marks are placed in pixels first, since whether two things overlap is a question of pixels.
    left, right = (math.log10(end) for end in domain)
    for mark in table:
        mark["x"] = _SMALL * (math.log10(mark["tflops"]) - left) / (right - left)
        mark["y"] = _HEIGHT * (axis[1] - mark["gain"]) / (axis[1] - axis[0])
    taken = [(mark["x"] - 7, mark["y"] - 7, mark["x"] + 7, mark["y"] + 7) for mark in table]
    for mark in table:
        long = 7 * len(mark["method"])
        # Beside the mark on either side, then ever farther above and below it.
        places = [
            (x, mark["y"] + up, x - long if align == "right" else x)
            for up in (0, -13, 13, -26, 26, -39, 39)
            for align, x in (("left", mark["x"] + 10), ("right", mark["x"] - 10))
        ]
        boxes = [(start, y - 6, start + long, y + 6) for _, y, start in places]
        free = [
            0 <= box[0] and box[2] <= _SMALL + 10 and not any(_meet(box, other) for other in taken)
            for box in boxes
        ]
        # Where nothing is free the first place must do: a label that overlaps beats none.
        best = free.index(True) if any(free) else 0
        at_x, at_y, start = places[best]
        mark["align"] = "left" if start == at_x else "right"
        mark["label_x"] = 10 ** (left + at_x / _SMALL * (right - left))
        mark["label_y"] = axis[1] - at_y / _HEIGHT * (axis[1] - axis[0])
        taken.append(boxes[best])


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rule(alt: Any, values: list[dict[str, Any]], **style: Any) -> Any:
    return alt.Chart(alt.Data(values=values)).mark_rule(**style).encode(x="gain:Q")


def _colour(alt: Any) -> Any:
    shades = [f"var({drawn.colour})" for drawn in FAMILIES.values()]
    return alt.Color("family:N", scale=alt.Scale(domain=list(FAMILIES), range=shades), legend=None)


def _shape(alt: Any) -> Any:
    marks = [drawn.mark for drawn in FAMILIES.values()]
    return alt.Shape("family:N", scale=alt.Scale(domain=list(FAMILIES), range=marks), legend=None)


def _axis(alt: Any, title: str | None = None, **more: Any) -> Any:
    return alt.Axis(title=title, **more)


def _svg(chart: Any, label: str) -> str:
    """The chart drawn by vl-convert, named for screen readers as one image."""
    import vl_convert

    ink = "currentColor"
    axis = {
        "labelColor": ink,
        "titleColor": ink,
        "gridColor": ink,
        "gridOpacity": 0.1,
        "domain": False,
        "ticks": False,
        "labelPadding": 8,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    }
    config = {
        "background": "transparent",
        "font": "inherit",
        "view": {"stroke": None},
        "axis": axis,
        "text": {"color": ink, "fontSize": 13},
        "rule": {"color": ink},
    }
    drawn = vl_convert.vegalite_to_svg(json.dumps(chart.to_dict() | {"config": config}))
    drawn = re.sub(r' (role="graphics-|aria-[a-z]+=")[^"]*"', "", drawn)  # one image, one name
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
