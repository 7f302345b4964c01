"""Latency bars, which keep their text readable at any width because they are HTML."""

from tfmetaprune.report.page_html import tag
from tfmetaprune.report.page_words import milliseconds, times


def draw_bars(bars):
    """Draws a bar for each measured model or file.

    Args:
      bars: of `page_summary.Bar`; not empty.
    """
    longest = max(bar.p90_ms or bar.latency_ms for bar in bars) or 1.0
    items = []
    for bar in bars:
        peers = [other for other in bars if other.is_original and _kind(other) == _kind(bar)]
        faster = "" if bar.is_original or not peers or not bar.latency_ms else f"{times(peers[0].latency_ms / bar.latency_ms)} as fast"
        spread = None
        if bar.p10_ms is not None and bar.p90_ms is not None:
            start, end = (100 * edge / longest for edge in (bar.p10_ms, bar.p90_ms))
            spread = tag("span", class_="spread", style=f"left:{start:.2f}%;width:{max(0.0, end - start):.2f}%")
        fill = tag("span", class_="fill", style=f"width:{100 * bar.latency_ms / longest:.2f}%")
        figures = [tag("strong", milliseconds(bar.latency_ms)), tag("span", faster, class_="muted") if faster else None]
        items.append(
            tag(
                "li", tag("span", bar.name, class_="bar-name"), tag("span", figures, class_="bar-value"),
                tag("span", fill, spread, class_="bar", aria_hidden="true"), class_="is-original" if bar.is_original else "is-pruned",
            )
        )  # fmt: skip
    return tag("ul", items, class_="bars")


def _kind(bar) -> str:
    return bar.name.rpartition(",")[0]
