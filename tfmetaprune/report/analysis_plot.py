"""The picture of an `Analysis`: each statistic by layer, before and after."""

import numpy as np

_BEFORE, _AFTER = "#555555", "#d55e00"
_HISTOGRAMS = {"saliency": "Saliency of a channel / mean of its layer", "bn_scale": "|gamma| of BatchNormalization"}


def plot_analysis(path, analysis, statistics):
    """Draws one panel for every statistic that any layer has, and a histogram for each kind of value.

    Args:
      path: the PNG file to write.
      analysis: an `analysis.Analysis`.
      statistics: name -> what it is.
    """
    from matplotlib.figure import Figure

    shown = [name for name in statistics if analysis.mean(name) is not None]
    histograms = [key for key in _HISTOGRAMS if any(key in layer.values for layer in analysis.layers)]
    columns = 3
    rows = -(-(len(shown) + len(histograms)) // columns)
    figure = Figure(figsize=(5 * columns, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, name in zip(panels, shown):
        _draw_statistic(panel, analysis, name, f"{name.replace('_', ' ')}: {statistics[name]}")
    for panel, key in zip(panels[len(shown) :], histograms):
        _draw_histogram(panel, analysis, key)
    for panel in panels[len(shown) + len(histograms) :]:
        panel.set_visible(False)
    panels[0].legend(loc="best", framealpha=0.8, edgecolor="none", fontsize=8)
    figure.savefig(path, dpi=120)


def _draw_statistic(panel, analysis, name, title):
    layers = [layer for layer in analysis.layers if name in layer.statistics]
    positions = np.arange(len(layers))
    before, after = np.transpose([layer.statistics[name] for layer in layers])
    panel.vlines(positions, before, after, color=_AFTER, linewidth=1, alpha=0.5)
    panel.plot(positions, before, "o", color=_BEFORE, markersize=5, label="before")
    panel.plot(positions, after, "D", color=_AFTER, markersize=4, label="after")
    step = -(-len(layers) // 24)
    names = [layer.layer if len(layer.layer) < 25 else "..." + layer.layer[-21:] for layer in layers]
    panel.set_xticks(positions[::step], names[::step], rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    panel.tick_params(axis="y", labelsize=8)
    panel.set_title(_wrap(title), loc="left", fontsize=9)
    panel.margins(y=0.15)
    if name.endswith("_small"):  # a share
        panel.set_ylim(0, max(0.1, 1.15 * max(before.max(), after.max())))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_histogram(panel, analysis, key):
    pairs = [layer.values[key] for layer in analysis.layers if key in layer.values]
    before, after = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    edges = np.histogram_bin_edges(np.concatenate([before, after]), 30)
    for values, colour, filled in ((before, _BEFORE, True), (after, _AFTER, False)):
        panel.hist(values, edges, color=colour, histtype="stepfilled" if filled else "step", alpha=0.35 if filled else 1, linewidth=1.8)
    panel.set_title(_wrap(_HISTOGRAMS[key]), loc="left", fontsize=9)
    panel.set_ylabel("channels", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _wrap(text, width=60) -> str:
    head, _, tail = text[:width].rpartition(" ")
    return text if len(text) <= width else f"{head}\n{tail}{text[width:]}"
