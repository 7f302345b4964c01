"""The network, block by block, coloured by what was removed; its layers as bars and as a table."""

from tfmetaprune.report.page_graph import make_blocks, make_nodes
from tfmetaprune.report.page_html import join, svg, tag
from tfmetaprune.report.page_layout import place
from tfmetaprune.report.page_words import MISSING, count, percent

NUM_SHADES = 6
_BOX, _CIRCLE, _DOT = (142.0, 40.0), (22.0, 22.0), (8.0, 8.0)
_MARGIN = 3.0
_SHOWN_BLOCKS = 36
_PHONE = 316  # width that a card has room for on a phone


def draw_network(network) -> list:
    """Draws one picture for each block of the network.

    Args:
      network: network.json.
    """
    nodes = make_nodes(network)
    cards = [_draw_block(nodes, block) for block in make_blocks(nodes)]
    shown = [tag("div", cards[:_SHOWN_BLOCKS], class_="blocks")]
    if len(cards) > _SHOWN_BLOCKS:
        more = tag("summary", f"The other {len(cards) - _SHOWN_BLOCKS} blocks")
        shown.append(tag("details", more, tag("div", cards[_SHOWN_BLOCKS:], class_="blocks")))
    swatches = [tag("span", class_=f"swatch g{shade}") for shade in range(NUM_SHADES)]
    colours = tag("span", swatches, class_="scale", aria_hidden="true")
    scale = tag("p", "Weights gone: 0\u202f%", colours, "100\u202f%", class_="scale-line")
    return [scale, *shown]


def draw_layer_bars(network) -> list:
    """Draws the MACs of each layer before and after as one chart of bars; its weights if no MACs were saved."""
    layers = [(call, call["macs"]) for call in network["calls"] if call["macs"][0]]
    what = "MACs"
    if all(before == after for _, (before, after) in layers):  # zeros save none
        layers = [(call, _weights(call)) for call in network["calls"] if call["macs"][0] and call["parameters"][0]]
        what = "weights that are not zero"
    if not layers:
        return []
    highest = max(before for _, (before, _) in layers)
    bars = []
    for index, (call, pair) in enumerate(layers):
        before, after = (100 * number / highest for number in pair)
        tip = f"{call['name']}\n{what} {_arrow(pair, count)} ({percent(pair[1] / pair[0], 0)} left)"
        bars.append(
            tag(
                "g", tag("path", class_="was", d=f"M{index + 0.08:.2f} 100v{-before:.1f}h.84v{before:.1f}z"),
                tag("path", class_="is", d=f"M{index + 0.08:.2f} 100v{-after:.1f}h.84v{after:.1f}z"),
                tag("path", class_="hit", d=f"M{index} 0h1v100h-1z"), data_tip=tip,
            )
        )  # fmt: skip
    label = f"{what[:1].upper()}{what[1:]} of {len(layers)} layers, in order, before and after; the table of all layers has the figures."
    picture = svg(len(layers), 100, bars, label=label, class_="layer-bars", preserveAspectRatio="none")
    caption = [tag("span", text) for text in (layers[0][0]["name"], f"{len(layers)} layers, in order", layers[-1][0]["name"])]
    legend = [tag("li", tag("span", class_=f"key {kind}"), text) for kind, text in (("was", f"{what} before"), ("is", "after"))]
    return [tag("ul", legend, class_="legend"), picture, tag("p", caption, class_="ends", aria_hidden="true")]


def layer_table(network):
    """Lists every layer with weights: what is in the pictures, in words."""
    rows = []
    for call in network["calls"]:
        if not call["parameters"][0]:
            continue
        before, left = _weights(call)
        rows.append(
            [
                call["name"], call["kind"], _arrow(call["width"]), _arrow(call["macs"], count) if call["macs"][0] else MISSING,
                percent(1 - left / before, 0), call["frozen"] or "",
            ]
        )  # fmt: skip
    head = ("Layer", "Kind", "Channels", "MACs", "Weights gone", "Must stay because")
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return table(head, rows, "Every layer with weights", text_columns=(1, 5), class_="layers")


def table(head, rows, caption, text_columns=(), class_=None):
    """Makes a table whose rows become cards on a phone; its first column names the rows."""
    columns = list(enumerate(head))
    sides = ["text" if index in (0, *text_columns) else None for index, _ in columns]
    header = [tag("th", title, role="columnheader", scope="col", class_=side) for title, side in zip(head, sides)]
    body = []
    for row in rows:
        classes = ["missing" if cell == MISSING else side for cell, side in zip(row, sides)]
        cells = [tag("td", row[index], role="cell", data_label=title, class_=classes[index]) for index, title in columns[1:]]
        body.append(tag("tr", tag("th", row[0], role="rowheader", scope="row"), cells, role="row"))
    return tag(
        "table", tag("caption", caption), tag("thead", tag("tr", header, role="row"), role="rowgroup"),
        tag("tbody", body, role="rowgroup"), role="table", class_=class_,
    )  # fmt: skip


def shade(share) -> int:
    """The class of colour of a share in [0, 1]."""
    return 0 if share <= 0.005 else min(NUM_SHADES - 1, 1 + int(share * (NUM_SHADES - 1)))


def _weights(call) -> list[int]:
    """How many parameters a call has before, and how many of them remain and are not zero."""
    return [call["parameters"][0], call["parameters"][1] if call["nonzero"] is None else call["nonzero"]]


def _arrow(pair, write=str) -> str:
    if pair is None:
        return MISSING
    return write(pair[0]) if pair[0] == pair[1] else f"{write(pair[0])} \u2192 {write(pair[1])}"


def _draw_block(nodes, block):
    """Draws one block as a card."""
    members = ([] if block.entry is None else [block.entry]) + list(block.nodes)
    local = {node: index for index, node in enumerate(members)}
    entry = 0 if block.entry is not None else -1
    sizes = [_DOT if index == entry else _CIRCLE if nodes[node].symbol else _BOX for index, node in enumerate(members)]
    edges = [(local[source], local[node]) for node in block.nodes for source in nodes[node].inputs if source in local]
    placement = place(sizes, edges, gap=12.0, row_gap=18.0)
    lines = [tag("path", class_="edge", d=_curve(path)) for path in placement.paths]
    shapes = []
    for index, node in enumerate(members):
        shapes.append(_draw_node(nodes[node], placement.centres[index], block.prefix, index == entry))
    macs = [sum(nodes[node].macs[side] for node in block.nodes) for side in (0, 1)]
    weights = sum(nodes[node].parameters[0] for node in block.nodes)
    gone = 1 - sum(nodes[node].remaining for node in block.nodes) / weights if weights else None
    words = [f"MACs {_arrow(macs, count)}"] if macs[0] else []
    words += [f"{percent(gone, 0)} of weights gone"] if gone is not None else []
    label = f"Block {block.title}: " + "; ".join(_sentence(nodes[node]) for node in block.nodes)
    width, height = placement.width + 2 * _MARGIN, placement.height + 2 * _MARGIN
    moved = tag("g", lines, shapes, transform=f"translate({_MARGIN} {_MARGIN})")
    picture = tag("div", svg(width, height, moved, label=label), class_="scroll")
    if width > _PHONE:  # can be moved there, with the keyboard too
        reached = {"tabindex": "0", "role": "group", "aria_label": f"Block {block.title}"}
        picture = tag("div", svg(width, height, moved, label=label), class_="scroll", **reached)
    caption = tag("figcaption", tag("b", block.title), tag("span", " \u00b7 ".join(words)))
    return tag("figure", caption, picture, class_="block" if width <= _PHONE else "block wide")


def _curve(path) -> str:
    """A path through points whose pieces leave and arrive vertically."""
    parts = [f"M{path[0][0]:.1f} {path[0][1]:.1f}"]
    for (x, y), (next_x, next_y) in zip(path, path[1:]):
        middle = (y + next_y) / 2
        straight = abs(x - next_x) < 0.5
        parts.append(f"V{next_y:.1f}" if straight else f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}")
    return "".join(parts)


def _draw_node(node, centre, prefix, is_entry):
    x, y = centre
    if is_entry:
        return tag("circle", class_="entry", cx=x, cy=y, r=4, data_tip=f"from {node.name}")
    if node.symbol:
        circle = tag("circle", class_="merge", cx=x, cy=y, r=10)
        symbol = tag("text", node.symbol, x=x, y=y + 4.5, text_anchor="middle", class_="symbol")
        return tag("g", circle, symbol, data_tip=_sentence(node).replace(", ", "\n"))
    width, height = _BOX
    left, top = x - width / 2, y - height / 2
    name = node.name.removeprefix(prefix) or node.name
    name = name if len(name) <= 17 else f"{name[:6]}\u2026{name[-10:]}"
    parts = [tag("rect", class_="box", x=left, y=top, width=width, height=height, rx=5)]
    if node.gone is not None:
        parts.append(tag("rect", class_=f"tint g{shade(node.gone)}", x=left, y=top, width=width, height=height, rx=5))
        kept = max(0.0, 1 - node.gone) * (width - 16)
        parts.append(tag("path", class_="track", d=f"M{left + 8:.1f} {top + height - 5:.1f}h{width - 16:.1f}"))
        parts.append(tag("path", class_="kept", d=f"M{left + 8:.1f} {top + height - 5:.1f}h{kept:.1f}"))
    parts.append(tag("text", name, x=left + 8, y=top + 14, class_="name"))
    channels = _arrow(node.width).replace(" ", "\u200a") if node.width else node.kind
    parts.append(tag("text", channels, x=left + 8, y=top + 28, class_="channels"))
    if node.gone is not None:
        sign = "\u2212" if node.gone >= 0.005 else ""
        parts.append(tag("text", f"{sign}{percent(node.gone, 0)}", x=left + width - 8, y=top + 28, text_anchor="end", class_="channels"))
    return tag("g", join(parts), data_tip=_sentence(node).replace(", ", "\n"))


def _sentence(node) -> str:
    parts = [f"{node.name} ({node.kind})"]
    if node.width:
        parts.append(f"channels {_arrow(node.width)}")
    if node.macs[0]:
        parts.append(f"MACs {_arrow(node.macs, count)}")
    if node.gone is not None:
        parts.append(f"{percent(node.gone, 0)} of weights gone")
    with_it = [call["kind"] for call in node.calls[1:]]
    if with_it:
        parts.append("then " + " / ".join(with_it[:5]))
    return ", ".join(parts)
