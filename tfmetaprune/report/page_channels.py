"""Which channels went where: a picture of every layer, one mark a channel."""

from tfmetaprune.report.page_html import svg, tag
from tfmetaprune.report.page_words import percent

COLUMNS = 32, 64  # of narrow layers, and of wide ones
NUM_TONES = 4
_CELL = 5
_NARROW = 128
_SHOWN = 12


def draw_channels(network) -> list:
    """Draws a picture for each kernel that makes channels of its own.

    Args:
      network: network.json.
    """
    pictures = [
        _draw(call["name"] if len(call["made"]) == 1 else f"{call['name']} \u00b7 {made['weight']}", made, call)
        for call in network["calls"]
        for made in call["made"]
        if made["kept"]
    ]
    sparse = any(made["zeros"] is not None for call in network["calls"] for made in call["made"])
    dropped = any("0" in made["kept"] for call in network["calls"] for made in call["made"])
    meaning = "zeros among its weights: few to all" if sparse else "L2 norm before pruning: small to large"
    tones = [tag("span", class_=f"swatch t{tone}") for tone in (range(NUM_TONES)[::-1] if sparse else range(NUM_TONES))]
    legend = [tag("li", tag("span", tones, class_="scale", aria_hidden="true"), f"kept ({meaning})")]
    if dropped:
        legend.append(tag("li", tag("span", class_="swatch dropped", aria_hidden="true"), "removed"))
    parts = [tag("ul", legend, class_="legend"), tag("div", pictures[:_SHOWN], class_="pictures")]
    if len(pictures) > _SHOWN:
        more = tag("summary", f"The other {len(pictures) - _SHOWN} layers")
        parts.append(tag("details", more, tag("div", pictures[_SHOWN:], class_="pictures")))
    return parts


def _draw(name, made, call):
    size, kept = len(made["kept"]), made["kept"].count("1")
    classes = _classes(made)
    columns = COLUMNS[size > _NARROW]
    rows = -(-size // columns)
    runs = {}
    for row in range(rows):
        cells = classes[row * columns : (row + 1) * columns]
        start = 0
        for column in range(1, len(cells) + 1):
            if column == len(cells) or cells[column] != cells[start]:
                run = f"M{_CELL * start} {_CELL * row + 2}h{_CELL * (column - start) - 1}"
                runs.setdefault(cells[start], []).append(run)
                start = column
    paths = [tag("path", class_=f"cells {kind}", d="".join(parts)) for kind, parts in sorted(runs.items())]
    words = f"{kept} of {size} channels stay" if kept < size else f"all {size} channels stay"
    if made["zeros"] is not None:
        words += f", {percent(made['sparsity'], 0)} zeros"
    why = f" ({call['frozen']})" if kept == size and call["frozen"] else ""
    width, height = _CELL * columns, _CELL * rows
    picture = svg(width, height, paths, label=f"{name}: {words}{why}", class_="strip")
    return tag("figure", tag("figcaption", tag("b", name), tag("span", words + why)), picture, class_="picture")


def _classes(made) -> list[str]:
    """The class of each channel's mark: its tone, or "dropped"."""
    zeros = iter(made["zeros"] or "")
    result = []
    for norm, kept in zip(made["norms"], made["kept"], strict=True):
        if kept != "1":
            result.append("dropped")
        elif made["zeros"] is None:
            result.append(f"t{_tone(norm)}")
        else:
            result.append(f"t{NUM_TONES - 1 - _tone(next(zeros))}")
    return result


def _tone(digit) -> int:
    return min(NUM_TONES - 1, int(digit) * NUM_TONES // 10)
