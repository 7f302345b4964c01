"""The picture of accuracy against speed-up, in one size for phones and one for wider screens."""

import math

from tfmetaprune.report.page_html import svg, tag
from tfmetaprune.report.page_words import percent, times

_TICKS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 10, 42
NUM_STYLES = 5


def draw_curves(curves, points) -> list:
    """Draws the curves twice, see above, and their legend.

    Args:
      curves: method -> list of (speed-up, accuracy in [0, 1]); not empty.
      points: label -> (speed-up, accuracy), hollow marks in the style of the curve in the same place.
    """
    label = "Accuracy against speed-up. " + " ".join(
        f"{method}: {', '.join(f'{percent(accuracy)} at {times(speedup)}' for speedup, accuracy in curve)}."
        for method, curve in {**curves, **{label: [point] for label, point in points.items()}}.items()
    )
    pictures = [_draw(curves, points, width, height, label, size) for width, height, size in ((340, 270, "narrow"), (860, 380, "wide"))]
    items = [tag("li", _sample(index), method) for index, method in enumerate(curves)]
    items += [tag("li", _sample(index, hollow=True), method) for index, method in enumerate(points)]
    return [tag("ul", items, class_="legend"), *pictures]


def _draw(curves, points, width, height, label, size):
    everything = [point for curve in curves.values() for point in curve] + list(points.values())
    low, high = (limit(speedup for speedup, _ in everything) for limit in (min, max))
    span = math.log(max(high / low, 1.02))
    floor = 0.0 if min(accuracy for _, accuracy in everything) < 0.5 else 0.1 * math.floor(10 * min(a for _, a in everything) - 0.5)

    def at(speedup, accuracy):
        x = _LEFT + 8 + (width - _LEFT - _RIGHT - 16) * math.log(speedup / low) / span
        return x, _TOP + (height - _TOP - _BOTTOM) * (1 - (accuracy - floor) / (1 - floor))

    grid, steps = [], 5
    for step in range(steps + 1):
        share = floor + (1 - floor) * step / steps
        y = at(low, share)[1]
        grid.append(tag("path", class_="grid", d=f"M{_LEFT} {y:.1f}H{width - _RIGHT}"))
        grid.append(tag("text", f"{100 * share:.0f}", x=_LEFT - 8, y=y + 4, text_anchor="end"))
    base, last = height - _BOTTOM, -100.0
    for tick in [tick for tick in _TICKS if low / 1.02 <= tick <= high * 1.02]:
        x = at(tick, floor)[0]
        if x - last > 30:
            grid.append(tag("text", f"{tick:g}\u00d7", x=x, y=base + 18, text_anchor="middle"))
            grid.append(tag("path", class_="tick", d=f"M{x:.1f} {base}v5"))
            last = x
    middle = (_LEFT + width - _RIGHT) / 2
    grid.append(tag("text", "Speed-up (MACs before / after)", x=middle, y=height - 4, text_anchor="middle"))
    drawn = []
    for index, (method, curve) in list(enumerate(curves.items()))[::-1]:
        places = [at(*point) for point in curve]
        drawn.append(tag("path", class_=f"line c{index % NUM_STYLES}", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)))
        for (x, y), (speedup, accuracy) in zip(places, curve):
            drawn.append(_mark(index, x, y, tip=f"{method}\n{percent(accuracy)} at {times(speedup)}"))
    for index, (method, point) in list(enumerate(points.items()))[::-1]:
        drawn.append(_mark(index, *at(*point), hollow=True, tip=f"{method}\n{percent(point[1])} at {times(point[0])}"))
    return svg(width, height, grid, drawn, label=label, class_=f"chart {size}")


def _sample(index, hollow=False):
    """The mark of the legend."""
    line = None if hollow else tag("path", class_=f"line c{index % NUM_STYLES}", d="M1 7h28")
    return tag("svg", line, _mark(index, 15, 7, hollow), viewBox="0 0 30 14", width=30, height=14, aria_hidden="true")


def _mark(index, x, y, hollow=False, tip=None):
    """Circle, square, triangle, diamond, cross: told apart without colours."""
    size = 6.5 if hollow else 4.5
    shape = (
        f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0z",
        f"M{x - size:.1f} {y - size:.1f}h{2 * size}v{2 * size}h{-2 * size}z",
        f"M{x:.1f} {y - 1.2 * size:.1f}l{1.2 * size} {2.1 * size}h{-2.4 * size}z",
        f"M{x:.1f} {y - 1.3 * size:.1f}l{1.3 * size} {1.3 * size}l{-1.3 * size} {1.3 * size}l{-1.3 * size} {-1.3 * size}z",
        f"M{x - size:.1f} {y - size:.1f}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}",
    )[index % NUM_STYLES]
    return tag("path", class_=f"mark c{index % NUM_STYLES}{' hollow' if hollow else ''}", d=shape, data_tip=tip)
