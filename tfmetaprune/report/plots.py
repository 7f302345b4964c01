"""Plots, written as files; the same figures make the same file. Matplotlib's global state is left as it is."""

# told apart by colour-blind people, too (Okabe and Ito, and two more)
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999", "#882255")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
_STYLES = ("-", "--", ":")  # once the colours are used up
_GREY = "#555555"
_TICKS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def plot_accuracy_curves(path, curves, *, points=None, title=None, chance=None, lowest=0.0):
    """Draws accuracy against MACs speed-up, one line a method.

    Args:
      path: the file to write, of a kind that its ending tells: PNG, SVG, PDF.
      curves: label -> list of (speedup, accuracy in [0, 1]); the first label is drawn on top.
      points: label -> (speedup, accuracy), drawn as single hollow markers in the colour of the curve in the same place.
      title: above the plot.
      chance: accuracy of guessing, drawn as a dotted line.
      lowest: accuracy at the foot of the axis.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    is_crowded = len(curves) + len(points or {}) > 4  # then the legend goes beside the lines
    figure = Figure(figsize=(9 if is_crowded else 7, 4.4), layout="constrained")
    axes = figure.subplots()
    for index, (label, curve) in enumerate(curves.items()):
        speedups, accuracies = zip(*curve)
        style = {"color": _COLORS[index % len(_COLORS)], "marker": _MARKERS[index % len(_MARKERS)], "zorder": 10 - index}
        dashes = _STYLES[index // len(_COLORS) % len(_STYLES)]
        axes.plot(speedups, [100 * accuracy for accuracy in accuracies], dashes, label=label, linewidth=2, **style)
    for index, (label, (speedup, accuracy)) in enumerate((points or {}).items()):
        axes.plot(
            speedup, 100 * accuracy, color=_COLORS[index % len(_COLORS)], marker=_MARKERS[index % len(_MARKERS)], markersize=11,
            linestyle="none", markerfacecolor="none", markeredgewidth=1.8, label=label, zorder=20 - index,
        )  # fmt: skip
    if chance is not None:
        axes.axhline(100 * chance, color=_GREY, linestyle=":", linewidth=1, label="guessing", zorder=0)
    reached = [speedup for curve in curves.values() for speedup, _ in curve]
    ticks = [tick for tick in _TICKS if min(reached) / 1.05 <= tick <= max(reached) * 1.05]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}\u00d7" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(reached) / 1.06, max(reached) * 1.06)
    axes.set_ylim(100 * lowest, 100 + 2 * (1 - lowest))
    axes.set_xlabel("Speed-up (MACs before / MACs after)")
    axes.set_ylabel("Accuracy (%)")
    axes.set_title(title or "", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if is_crowded:
        figure.legend(loc="outside right upper", frameon=False)
    else:
        axes.legend(loc="lower left", framealpha=1, edgecolor="none").set_zorder(30)
    is_svg = str(path).endswith(".svg")
    with rc_context({"svg.hashsalt": "tfmetaprune"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if is_svg else None)
