"""EDK's figures from finished cells and the runs behind them, and its table of data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from braidrec.data.dataset import Dataset
from braidrec.data.splits import Positions
from braidrec.experiments.experiment import Extra, Made
from braidrec.experiments.material import open_data
from braidrec.insight.block_plots import bars_plot
from braidrec.insight.blocks import silhouette
from braidrec.insight.plots import curve_plot, map_plot
from braidrec.insight.strands import flat
from braidrec.ranking.build import table_layout
from braidrec.ranking.methods.edk import STAGE, Seen, seen_patterns
from braidrec.ranking.model import ClickModel
from braidrec.runs.run import Run
from braidrec.runs.tables import plain_table
from braidrec.shown import tell

if TYPE_CHECKING:
    from rich.table import Table

_ROW = "deepfm-edk"
_SIZED = 100_000  # test rows whose patterns are counted
_MAPPED, _WITH_PATTERNS = 2_000, 200  # of which the raw vectors are mapped, and the patterns

# -- Table 1 --------------------------------------------------------------------------------------------------------------

_COUNTED = ("users", "items", "rows", "fields", "features")


def counts(published: Mapping[str, tuple[int, int, int, int, int]], variants: Sequence[str]) -> Extra:
    """Data in print and as prepared here, and of each part the rows whose user or item the old logs have not seen."""

    def make(made: Made) -> Mapping[str, Any]:
        opened = {name: open_data(name, made.shop.prepared[name], tell) for name in variants}
        found = {name: dict(zip(_COUNTED, numbers, strict=True)) for name, numbers in published.items()}
        return {
            "counts": found | {name: _counted(data) for name, data in opened.items()},
            "unseen": {name: _unseen(data) for name, data in opened.items()},
        }

    return Extra(make, _counts_shown)


def _counted(data: Dataset) -> dict[str, int]:
    layout = table_layout(data)
    fields = len(layout.names) + len(layout.bags) + len(layout.numbers)
    return dict(zip(_COUNTED, (data.num_users, data.num_items, len(data.log), fields, layout.rows), strict=True))


def _unseen(data: Dataset) -> dict[str, dict[str, float]]:
    log, old = data.log, data.split["knowledge"]
    found: dict[str, dict[str, float]] = {"knowledge": {"rows": len(old)}}
    for part in ("knowledge_valid", "train", "valid", "test"):
        rows = data.split[part]
        shares = {kind: float((~np.isin(ids[rows], ids[old])).mean()) for kind, ids in (("user", log.user), ("item", log.item))}
        found[part] = {"rows": len(rows), **shares}
    return found


def _counts_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [
        (name, "printed" if name not in values["unseen"] else "here", *(f"{numbers[each]:,}" for each in _COUNTED))
        for name, numbers in values["counts"].items()
    ]
    unseen = [
        (name, part, f"{one['rows']:,}", *(f"{one[kind]:.1%}" if kind in one else "-" for kind in ("user", "item")))
        for name, parts in values["unseen"].items()
        for part, one in parts.items()
    ]
    return [
        plain_table("data sets", ("data", "", *_COUNTED), rows),
        plain_table("rows whose user or item the old logs have not seen", ("data", "part", "rows", "user", "item"), unseen),
    ]


# -- Figure 4 -------------------------------------------------------------------------------------------------------------


def by_patterns(rows: Mapping[int, str]) -> Extra:
    """AUC and log loss by the number of patterns.  rows: K -> name of the row"""
    labels = [str(count) for count in rows]

    def make(made: Made) -> Mapping[str, Any]:
        found = {
            metric.key: [made.entry(name)[f"test_{metric.key}"]["mean"] for name in rows.values()]
            for metric in made.rows[0].metrics
        }
        paths = [
            curve_plot(
                {"DeepFM": found[metric.key]},
                labels,
                made.figure(f"-{metric.key}"),
                f"{metric.title} by the number of patterns",
                "patterns",
                metric.title,
            )
            for metric in made.rows[0].metrics
        ]
        return {"patterns": list(rows), "by_patterns": found, "files": [path.name for path in paths]}

    return Extra(make, _by_patterns_shown)


def _by_patterns_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [(key, *(f"{number:.4f}" for number in numbers)) for key, numbers in values["by_patterns"].items()]
    return [plain_table("by the number of patterns", ("metric", *map(str, values["patterns"])), rows)]


# -- Figure 5 -------------------------------------------------------------------------------------------------------------

_SERIES = {"disentangled": "disentangled", "essential": "-sum I(s; y)", "input": "I(X; c)"}


def _losses(made: Made) -> Mapping[str, Any]:
    lines = map(json.loads, (made.run(_ROW).path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    checks = [line for line in lines if line["phase"] == STAGE]
    series = {name: [line["losses"][key] for line in checks] for key, name in _SERIES.items() if key in checks[0]["losses"]}
    epochs = [line["epoch"] for line in checks]
    labels = [f"{epoch:.1f}" for epoch in epochs]
    path = curve_plot(series, labels, made.figure(), "losses while knowledge is compressed", "epoch", "loss")
    return {"epochs": epochs, "losses": series, "files": [path.name]}


def _losses_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [(name, *(f"{value:.3f}" for value in line)) for name, line in values["losses"].items()]
    return [plain_table("losses by epoch", ("loss", *(f"{epoch:.1f}" for epoch in values["epochs"])), rows)]


LOSSES = Extra(_losses, _losses_shown)


# -- Figures 6 and 7 ------------------------------------------------------------------------------------------------------


def _some(run: Run, count: int) -> Positions:
    """Test rows at random, in order; all where there are no more."""
    rows = run.dataset.split["test"]
    return np.sort(np.random.default_rng(0).permutation(rows)[:count])


def _seen(run: Run, rows: Positions) -> Seen:
    model = cast(ClickModel, run.model)
    return seen_patterns(model.module, model.reading(run.dataset), rows)


def _sizes(made: Made) -> Mapping[str, Any]:
    run = made.run(_ROW)
    seen = _seen(run, _some(run, _SIZED))
    most = int(max(seen.sizes.max(), seen.open.max(), 1)) + 1
    halves, opened = (np.bincount(sizes.ravel(), minlength=most) / sizes.size for sizes in (seen.sizes, seen.open))
    series = {"gates above 0": opened.tolist(), "gates above one half": halves.tolist()}
    path = bars_plot(
        series, [str(size) for size in range(most)], made.figure(), "patterns by how many fields they keep", "share"
    )
    return {
        "sizes": halves.tolist(),
        "open": opened.tolist(),
        "effective": float(seen.effective.mean()),
        "test_rows": len(seen.sizes),
        "by_pattern": seen.sizes.mean(axis=0).tolist(),
        "files": [path.name],
    }


def _sizes_shown(values: Mapping[str, Any]) -> list[Table]:
    by_pattern = ", ".join(f"{size:.1f}" for size in sorted(values["by_pattern"]))
    title = f"patterns of {values['test_rows']:,} test rows by gates above one half; mean of each pattern: {by_pattern}"
    columns = {"above one half": values["sizes"]}
    if "open" in values:  # files of earlier versions count the others alone
        columns |= {"above 0": values["open"]}
        title += f"; as many even gates as theirs: {values['effective']:.2f}"
    rows = [(at, *(f"{share:.1%}" for share in shares)) for at, shares in enumerate(zip(*columns.values(), strict=True))]
    return [plain_table(title, ("gates", *columns), rows)]


SIZES = Extra(_sizes, _sizes_shown)


def _maps(made: Made) -> Mapping[str, Any]:
    """Test rows by the mean of their fields' vectors, coloured by label; patterns of some of them, by which they are."""
    run = made.run(_ROW)
    rows = _some(run, _MAPPED)
    seen, label = _seen(run, rows), run.dataset.log.label[rows].astype(np.int64)
    some = seen.patterns[_spread(len(rows), _WITH_PATTERNS)]
    count, patterns = some.shape[1], some.reshape(-1, some.shape[2])
    which = np.tile(np.arange(count), len(some))
    panels = {"instances": (flat(seen.raw), label), f"{count} patterns": (flat(patterns), which)}
    path = map_plot(panels, made.figure(), "test rows by t-SNE: their fields, by label; their patterns, by which")
    return {
        "told": {"instances by label": silhouette(seen.raw, label), "patterns by which": silhouette(patterns, which)},
        "cosine": _likeness(some),
        "drawn": [len(rows), len(patterns)],
        "files": [path.name],
    }


def _spread(count: int, some: int) -> NDArray[np.int64]:
    """Places, in order, of ``some`` of ``count`` rows drawn at random: the first ones would be of few users."""
    return np.sort(np.random.default_rng(1).permutation(count)[:some])


def _likeness(patterns: Any) -> float:
    """Mean cosine of two patterns of a row.  patterns (n, K, d)"""
    unit = patterns / np.maximum(np.linalg.norm(patterns, axis=2, keepdims=True), 1e-12)
    count = patterns.shape[1]
    both = np.square(unit.sum(axis=1)).sum(axis=1) - count
    return float(both.mean() / max(count * (count - 1), 1))


def _maps_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [(name, number, f"{told:.3f}") for (name, told), number in zip(values["told"].items(), values["drawn"], strict=True)]
    title = f"how far points of a group lie together; mean cosine of two patterns of a row: {values['cosine']:.3f}"
    return [plain_table(title, ("points", "number", "silhouette"), rows)]


MAPS = Extra(_maps, _maps_shown)
