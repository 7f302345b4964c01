"""Histograms of weights and of BatchNormalization scales: original, after the metanetwork, in the pruned network."""

from tfmetaprune.report.page_html import svg, tag
from tfmetaprune.report.page_words import percent

STAGES = {"before": "original", "metanetwork": "after the metanetwork", "after": "pruned"}
_TITLES = {"weights": "Weights of all layers, in units of each layer\u2019s range", "scale": "Scales \u03b3 of all normalisations"}
_WIDTH, _HEIGHT = 320, 120
_HEADROOM = 1.2  # a peak of the pruned network's zeros may stand out by no more


def draw_histograms(network) -> list:
    """Draws one histogram over all layers for each kind of value, and all layers' own behind a fold.

    Args:
      network: network.json.
    """
    kinds = {
        kind: [(call["name"], call["histograms"][kind]) for call in network["calls"] if kind in call["histograms"]] for kind in _TITLES
    }
    kinds = {kind: layers for kind, layers in kinds.items() if layers}
    if not kinds:
        return []
    stages = [stage for stage in STAGES if any(one[stage] for layers in kinds.values() for _, one in layers)]
    legend = [tag("li", tag("span", class_=f"key h-{stage}", aria_hidden="true"), STAGES[stage]) for stage in stages]
    large = [_draw(_TITLES[kind], _together(kind, layers)) for kind, layers in kinds.items()]
    small = [_draw(name, one) for layers in kinds.values() for name, one in layers]
    parts = [tag("ul", legend, class_="legend"), tag("div", large, class_="histograms large")]
    changes = {call["name"]: call["change"] for call in network["calls"] if call["change"] is not None}
    if changes:
        most = max(changes, key=changes.get)
        mean = sum(changes.values()) / len(changes)
        words = f"The metanetwork changes a layer\u2019s weights by {percent(mean)} of their norm on average, "
        words += f"most in {most} ({percent(changes[most])})."
        parts.append(tag("p", words, class_="note"))
    summary = tag("summary", f"All {len(small)} histograms, layer by layer")
    return [*parts, tag("details", summary, tag("div", small, class_="histograms"))]


def _together(kind, layers) -> dict:
    """One histogram of all layers: of weights in units of each layer's range, of scales as they are."""
    bins = len(layers[0][1]["before"])
    low, high = -1.0, 1.0
    if kind == "scale":
        low, high = min(one["range"][0] for _, one in layers), max(one["range"][1] for _, one in layers)
    total = {"range": [low, high]}
    for stage in STAGES:
        if not any(one[stage] for _, one in layers):
            total[stage] = None
            continue
        counts = [0] * bins
        for _, one in layers:
            own_low, own_high = (low, high) if kind == "weights" else one["range"]
            for index, number in enumerate(one[stage] or one["before"]):
                value = own_low + (index + 0.5) * (own_high - own_low) / bins
                counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += number
        total[stage] = counts
    return total


def _draw(title, histogram):
    shares = {stage: [number / max(sum(histogram[stage]), 1) for number in histogram[stage]] for stage in STAGES if histogram[stage]}
    highest = max(max(values) for stage, values in shares.items() if stage != "after" or len(shares) == 1)
    highest = min(_HEADROOM * highest, max(max(values) for values in shares.values())) or 1.0
    paths = []
    for stage, values in shares.items():
        step = _WIDTH / len(values)
        heights = [_HEIGHT * min(1.0, value / highest) for value in values]
        line = "".join(f"V{_HEIGHT - height:.1f}h{step:.2f}" for height in heights)
        end = f"V{_HEIGHT}z" if stage == "before" else f"V{_HEIGHT}"
        paths.append(tag("path", class_=f"h-{stage}", d=f"M0 {_HEIGHT}{line}{end}"))
    low, high = histogram["range"]
    ends = [f"{end:.3g}".replace("-", "\u2212") for end in ([low, 0.0, high] if low == -high else [low, high])]
    label = f"Histogram of {title}: " + ", ".join(f"{STAGES[stage]} {_spread(values, low, high)}" for stage, values in shares.items())
    picture = svg(_WIDTH, _HEIGHT, paths, label=label, class_="histogram", preserveAspectRatio="none")
    axis = tag("p", [tag("span", end) for end in ends], class_="ends", aria_hidden="true")
    return tag("figure", tag("figcaption", tag("b", title)), picture, axis)


def _spread(shares, low, high) -> str:
    """Mean and standard deviation of a histogram, in words."""
    values = [low + (index + 0.5) * (high - low) / len(shares) for index in range(len(shares))]
    mean = sum(value * share for value, share in zip(values, shares))
    deviation = sum((value - mean) ** 2 * share for value, share in zip(values, shares)) ** 0.5
    return f"has mean {mean:.3g}, standard deviation {deviation:.3g}"
