"""HTML and SVG elements as text: whatever is not made by `tag` is escaped."""

import html
import math

VOID = frozenset({"br", "col", "hr", "img", "link", "meta", "wbr"})


class Markup(str):
    """Text that is HTML already."""


def tag(name, /, *children, **attributes) -> Markup:
    """Makes an element.

    Args:
      name: of the element.
      *children: `Markup`, other text (which is escaped), lists of these; None is left out.
      **attributes: its attributes; an underscore stands for a hyphen, a trailing one goes (`class_`); None is left out, True is
        an attribute without a value, floats are written with two decimals at most.

    Example:
      >>> tag("p", "a < b", tag("br"), class_="small", data_tip="x")
      '<p class="small" data-tip="x">a &lt; b<br></p>'
    """
    pairs = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(_text(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Markup(f"<{name}{pairs}>")
    return Markup(f"<{name}{pairs}>{join(children)}</{name}>")


def join(children) -> Markup:
    """Writes children one after the other, see `tag`."""
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(join(child))
        elif child is not None:
            parts.append(html.escape(_text(child), quote=False))
    return Markup("".join(parts))


def svg(width, height, *children, label, **attributes) -> Markup:
    """Makes a picture for screen readers, too.

    Args:
      width: of its coordinates, in CSS pixels at its natural size.
      height: likewise.
      *children: what is in it.
      label: what it shows, in words.
      **attributes: more attributes.
    """
    box = f"0 0 {_text(width)} {_text(height)}"
    return tag("svg", *children, viewBox=box, width=width, height=height, role="img", aria_label=label, **attributes)


def _text(value) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return "0"
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
