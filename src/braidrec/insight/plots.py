"""Figures of what an insight found: each function takes data and a path, writes one PNG atomically and returns its path.

Every series has a colour (Okabe and Ito's, safe for colour-blind readers), and a marker, dash or hatch that tells it apart in
black and white.  Figures are drawn without pyplot: no global state, no display.  All raise DataError on data that cannot be
drawn and ConfigError on a path that does not end in .png.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import ConfigError, DataError
from braidrec.files import write_atomic
from braidrec.insight.discrepancy import Discrepancy, Separation

Values: TypeAlias = Mapping[str, Sequence[float | None]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 3)))
HATCHES = ("", "////", "....", "\\\\\\\\", "", "xxxx", "----", "oo")
MOST_BARS_OF = 5  # groups; more are drawn as lines
INK, FAINT = "#222222", "#DDDDDD"
BINS = 80
BELOW_TITLE = 0.93  # of the figure's height
SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "hatch.linewidth": 0.8,
    "text.parse_math": False,  # names are shown as they are, dollar signs included
}


def discrepancy_plot(series: Mapping[str, Discrepancy], path: Path | str, title: str) -> Path:
    """Kendall's tau by item bucket, one line per comparison, and the tau of all pairs beside them (PAD, Fig. 6).

    Raises DataError when the series do not have the same buckets, for then they are not of the same pairs.
    """
    _check_series({name: (*one.tau, one.tau_all) for name, one in series.items()}, -1, 1)
    buckets = next(iter(series.values())).buckets
    for name, one in series.items():
        if one.buckets != buckets:
            raise DataError(f"{name!r} has the buckets {one.buckets}, the first series {buckets}; draw taus of the same pairs")

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        every = len(buckets) + 0.6  # where the taus of all pairs stand
        _lines(
            axes,
            {name: (np.arange(len(buckets)), one.tau) for name, one in series.items()},
            {name: (every, one.tau_all) for name, one in series.items()},
        )
        axes.axvline(len(buckets) - 0.2, color=FAINT, linewidth=1)
        axes.set_xticks([*range(len(buckets)), every], [*_bucket_labels(len(buckets), buckets), "all"])
        values = [tau for one in series.values() for tau in (*one.tau, one.tau_all) if tau is not None]
        axes.set_ylim(-1.05 if min(values) < -0.3 else min(0, min(values)) - 0.05, 1.05)
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set_ylabel("Kendall's τ of the pairs' distances\n(1: same order)")
        axes.set_xlabel("item bucket by training frequency, hottest .. coldest")
        _name_lines(axes, {name: [*one.tau, one.tau_all] for name, one in series.items()}, [*range(len(buckets)), every])

    return save_plot(draw, path, title)


def bucket_plot(values: Values, labels: Sequence[str], path: Path | str, title: str, ylabel: str) -> Path:
    """A metric by item group, hottest group first: bars for up to five groups (PAD, Fig. 2), lines for more.

    values: per model, one number for each label, None where there is none    ylabel: the metric with its unit
    """
    _check_series(values, -math.inf, math.inf, len(labels))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        if len(labels) > MOST_BARS_OF:
            _lines(axes, {name: (np.arange(len(labels)), numbers) for name, numbers in values.items()})
            axes.set_xticks(range(len(labels)), _bucket_labels(len(labels), labels))
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, 0), high)
            _name_lines(axes, values, range(len(labels)))
        else:
            _bars(axes, values)
            axes.set_xticks(range(len(labels)), labels)
            axes.tick_params(axis="x", length=0)
            columns = len(values) if len(values) <= 4 else math.ceil(len(values) / 2)
            _legend(figure, axes, columns)
        axes.set_ylabel(ylabel)
        axes.set_xlabel("group of the target item, hottest .. coldest")

    return save_plot(draw, path, title)


def curve_plot(values: Values, labels: Sequence[str], path: Path | str, title: str, xlabel: str, ylabel: str) -> Path:
    """A metric by a setting, a line for each model.  values: one number for each label, None where there is none"""
    _check_series(values, -math.inf, math.inf, len(labels))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _lines(axes, {name: (np.arange(len(labels)), numbers) for name, numbers in values.items()})
        axes.set_xticks(range(len(labels)), labels)
        _name_lines(axes, values, range(len(labels)))
        axes.set_ylabel(ylabel)
        axes.set_xlabel(xlabel)

    return save_plot(draw, path, title)


def gate_plot(
    probabilities: NDArray[np.floating[Any]], names: Sequence[str], path: Path | str, title: str = "Gate by item bucket"
) -> Path:
    """The gate's probability of each expert by item bucket.

    probabilities (buckets, E), bucket 1 (hottest) first, rows that sum to 1    names: of the E experts
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(names) or not len(probabilities):
        raise DataError(
            f"probabilities have shape {probabilities.shape}; accepted: (buckets, {len(names)}), one column per name"
        )
    if len(set(names)) != len(names):
        raise DataError(f"names {tuple(names)} repeat one; every expert needs its own")
    values = {name: [float(value) for value in probabilities[:, column]] for column, name in enumerate(names)}
    _check_series(values, 0, 1)
    wrong = np.abs(probabilities.sum(axis=1) - 1) > 1e-3
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"probabilities: row {row} sums to {probabilities[row].sum():.4f}; accepted: 1, over all experts")

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        count = len(probabilities)
        _lines(axes, {name: (np.arange(count), numbers) for name, numbers in values.items()})
        axes.set_xticks(range(count), _bucket_labels(count, range(1, count + 1)))
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("gate probability (all experts: 1)")
        axes.set_xlabel("item bucket by training frequency, hottest .. coldest")
        _name_lines(axes, values, range(count))

    return save_plot(draw, path, title)


def histogram_plot(separations: Mapping[str, Separation], path: Path | str, title: str) -> Path:
    """80-bin histograms of all pairs, G_top and G_bottom, by ID distance above and by text distance below (PAD, Figs. 3, 7).

    One column per model, the AUC of text distance in its title.  Every histogram is scaled to its own peak, since the groups
    hold a tenth of the pairs each; every panel has its own range.
    """
    if not separations:
        raise DataError("there is nothing to draw: pass at least one separation")
    measures = {one.distance for one in separations.values()}
    if len(measures) > 1:
        raise DataError(f"the separations mix distances ({', '.join(sorted(measures))}); draw those of one measure together")
    measure = {"cosine": "cosine", "euclidean": "Euclidean"}[measures.pop()]

    def draw(figure: Any) -> None:
        panels = figure.subplots(2, len(separations), squeeze=False, sharey=True)
        for column, (name, one) in enumerate(separations.items()):
            for row, distances in enumerate((one.id_distance, one.text_distance)):
                _histograms(panels[row, column], distances, one)
            panels[0, column].set_title(name, fontweight="bold")
            panels[1, column].set_title(f"text AUC {one.auc:.2f}")
        for row, space in enumerate(("ID", "text")):
            panels[row, 0].set_ylabel(f"{space} distance\npairs per bin ÷ peak", fontsize=8)
        figure.supxlabel(f"{measure} distance of a pair", fontsize=9)
        _legend(figure, panels[0, 0], columns=3)

    return save_plot(draw, path, title, width=max(7.0, 1.75 * len(separations)))


def map_plot(
    panels: Mapping[str, tuple[NDArray[np.floating[Any]], NDArray[np.integer[Any]]]],
    path: Path | str,
    title: str,
    groups: Sequence[str] = (),
) -> Path:
    """Maps side by side: points (n, 2), coloured by their group (n,), 0 and up.  groups: their names, where they have such"""
    if not panels:
        raise DataError("there is nothing to draw: pass at least one map")
    for name, (points, group) in panels.items():
        if points.ndim != 2 or points.shape[1] != 2 or group.shape != (len(points),) or not np.isfinite(points).all():
            raise DataError(f"{name!r}: points {points.shape} in groups {group.shape}; accepted: finite (n, 2) and (n,)")

    def draw(figure: Any) -> None:
        for axes, (name, (points, group)) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for own in np.unique(group):
                x, y = points[group == own].T
                marker, colour = MARKERS[own % len(MARKERS)], COLOURS[own % len(COLOURS)]
                label = groups[own] if groups else None
                style = {"linestyle": "", "markeredgewidth": 0, "alpha": 0.7, "label": label}
                axes.plot(x, y, marker=marker, color=colour, markersize=2.2, **style)
            axes.set(xticks=[], yticks=[], title=name)
        if groups:
            named = axes.get_legend_handles_labels()
            figure.legend(*named, loc="outside lower center", ncols=len(groups), frameon=False, markerscale=3)

    return save_plot(draw, path, title, width=max(7.0, 3.5 * len(panels)))


def similarity_plot(panels: Mapping[str, NDArray[np.floating[Any]]], path: Path | str, title: str) -> Path:
    """Matrices of cosines (n, n) side by side on one scale from -1 to 1."""
    if not panels:
        raise DataError("there is nothing to draw: pass at least one matrix")
    for name, matrix in panels.items():
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
            raise DataError(f"{name!r}: a matrix {matrix.shape}; accepted: finite cosines (n, n)")

    def draw(figure: Any) -> None:
        from matplotlib import colormaps

        colours = colormaps["RdBu_r"].resampled(32)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, matrix) in zip(grid, panels.items(), strict=True):
            image = axes.imshow(matrix, vmin=-1, vmax=1, cmap=colours, interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=name)
        figure.colorbar(image, ax=list(grid), shrink=0.8, label="cosine")

    return save_plot(draw, path, title, width=max(7.0, 2.6 * len(panels)), height=3.0)


def _histograms(axes: Any, distances: NDArray[np.floating[Any]], one: Separation) -> None:
    low, high = float(distances.min()), float(distances.max())
    edges = np.linspace(low, high if high > low else low + 1e-6, BINS + 1)
    top, bottom = "G_top: farthest by ID", "G_bottom: nearest by ID"
    for label, mask, style in (
        ("all pairs", slice(None), {"fill": True, "facecolor": FAINT, "edgecolor": "#999999", "linewidth": 0.6}),
        (bottom, one.bottom, {"color": COLOURS[1], "linestyle": (0, (3, 1)), "linewidth": 1.3}),
        (top, one.top, {"color": COLOURS[0], "linewidth": 1.3}),
    ):
        count = np.histogram(distances[mask], edges)[0]
        axes.stairs(count / max(count.max(), 1), edges, label=label, **style)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 1])
    axes.locator_params(axis="x", nbins=5)


def _lines(
    axes: Any,
    series: Mapping[str, tuple[Any, Sequence[float | None]]],
    beside: Mapping[str, tuple[float, float | None]] | None = None,
) -> None:
    """One line per series with gaps where a value is None; ``beside`` adds a lone marker in the same style."""
    for index, (name, (x, numbers)) in enumerate(series.items()):
        style = {
            "color": COLOURS[index],
            "marker": MARKERS[index],
            "markersize": 5.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        axes.plot(x, _with_gaps(numbers), linestyle=DASHES[index], linewidth=1.6, clip_on=False, zorder=3, **style)
        if beside is not None:
            axes.plot([beside[name][0]], _with_gaps([beside[name][1]]), linestyle="", clip_on=False, zorder=3, **style)
    axes.grid(axis="y")


def _name_lines(axes: Any, values: Values, x: Sequence[float]) -> None:
    """The names to the right of the lines, at the height of each line's last value, moved apart where they would overlap."""
    from sklearn.isotonic import isotonic_regression

    low, high = axes.get_ylim()
    ends = {name: max(place for place, value in enumerate(numbers) if value is not None) for name, numbers in values.items()}
    height = {name: (float(values[name][end] or 0) - low) / (high - low) for name, end in ends.items()}
    index = {name: place for place, name in enumerate(values)}
    names = sorted(values, key=lambda name: height[name])
    steps = min(0.065, 0.98 / len(names)) * np.arange(len(names))
    # the nearest heights, in the least-squares sense, that keep one step between neighbours and stay inside the axes
    moved = isotonic_regression([height[name] for name in names] - steps, y_min=0.01, y_max=0.99 - float(steps[-1])) + steps
    right = x[-1] + 0.06 * (x[-1] - x[0] or 1)
    for name, y in zip(names, moved, strict=True):
        at = low + y * (high - low)
        axes.plot(
            [x[ends[name]], right], [values[name][ends[name]], at], color="#AAAAAA", linewidth=0.6, clip_on=False, zorder=1
        )
        axes.annotate(
            name, (right, at), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8.5, annotation_clip=False
        )
        axes.plot([right], [at], color=COLOURS[index[name]], marker=MARKERS[index[name]], markersize=5, clip_on=False)
    axes.set_xlim(x[0] - 0.3, x[-1] + 0.3)


def _bars(axes: Any, values: Values) -> None:
    """Bars side by side in each group, with their numbers while there is room; a dash where there is no value."""
    width = 0.8 / len(values)
    groups = len(next(iter(values.values())))
    size = min(8.0, 130 / (len(values) * groups))
    largest = max(abs(value) for numbers in values.values() for value in numbers if value is not None)
    decimals = min(max(2 - math.floor(math.log10(largest or 1)), 0), 6)  # three digits of the largest number
    for index, (name, numbers) in enumerate(values.items()):
        x = np.arange(groups) + (index - (len(values) - 1) / 2) * width
        axes.bar(
            x,
            [value or 0 for value in numbers],
            width * 0.94,
            label=name,
            color=COLOURS[index],
            hatch=HATCHES[index],
            edgecolor="white",
            linewidth=0,
        )
        for place, value in zip(x, numbers, strict=True):
            if size >= 5:
                text = "–" if value is None else f"{value:.{decimals}f}"
                below = value is not None and value < 0
                axes.annotate(
                    text,
                    (place, value or 0),
                    xytext=(0, -2 if below else 2),
                    textcoords="offset points",
                    ha="center",
                    va="top" if below else "bottom",
                    fontsize=size,
                )
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.grid(axis="y")


def _legend(figure: Any, axes: Any, columns: int) -> None:
    """One legend between the title and all axes, for what ``axes`` shows."""
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0, BELOW_TITLE + 0.01),
        ncols=columns,
        frameon=False,
        columnspacing=1.4,
    )
    legend.set_in_layout(False)
    rows = math.ceil(len(labels) / columns)
    figure.get_layout_engine().set(rect=(0, 0, 1, BELOW_TITLE - 0.02 - 0.047 * rows))


def _bucket_labels(count: int, names: Sequence[Any]) -> list[str]:
    """The names, with "hottest" under the first and "coldest" under the last."""
    under = {0: "\nhottest", count - 1: "\ncoldest"} if count > 1 else {}
    return [f"{name}{under.get(place, '')}" for place, name in enumerate(names)]


def _with_gaps(numbers: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in numbers]


def _check_series(values: Values, low: float, high: float, length: int | None = None) -> None:
    """Raise DataError, naming series and place, where numbers are missing, too many, or outside [low, high]."""
    if not values:
        raise DataError("there is nothing to draw: pass at least one series")
    if len(values) > len(COLOURS):
        raise DataError(
            f"{len(values)} series cannot be told apart in one figure; accepted: up to {len(COLOURS)}, draw several figures"
        )
    for name, numbers in values.items():
        if length is not None and len(numbers) != length:
            raise DataError(
                f"{name!r} has {len(numbers)} values for {length} labels; pass one per label, None where there is none"
            )
        if all(value is None for value in numbers):
            raise DataError(f"{name!r} has no value at all; leave it out")
        for place, value in enumerate(numbers):
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise DataError(f"{name!r}: value {place} is {value}; accepted: a finite number in [{low}, {high}], or None")


def save_plot(draw: Callable[[Any], None], path: Path | str, title: str, width: float = 7.0, height: float = 4.0) -> Path:
    """Draw on a fresh figure of ``width`` x ``height`` inches at 150 dpi; a PNG of 256 colours is put in place in one step."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL import Image

    path, below = Path(path), 1 - (1 - BELOW_TITLE) * 4 / height
    if path.suffix != ".png":
        raise ConfigError(f"{path}: plots are written as PNG; give a name that ends in .png")
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), dpi=150, layout=ConstrainedLayoutEngine(rect=(0, 0, 1, below)))
        FigureCanvasAgg(figure)
        figure.text(0.012, 1 - 0.06 / height, title, va="top", fontsize=11, fontweight="bold")
        draw(figure)
        drawn = BytesIO()
        figure.savefig(drawn, format="png")
    few = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)  # a third of the bytes
    write_atomic(path, lambda temporary: few.save(temporary, format="png", optimize=True))
    return path
