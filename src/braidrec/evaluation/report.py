"""What one model scores on one test set, slice by slice, and several of them side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from braidrec.errors import DataError, suggest
from braidrec.evaluation.bootstrap import Clusters, add_pairs, cluster_by_user, resampled_auc
from braidrec.evaluation.metrics import Floats, ScoreKind, auc, checked_rows, row_losses
from braidrec.evaluation.slices import Slices

if TYPE_CHECKING:
    from rich.table import Table

MIN_ROWS = 1_000


@dataclass(frozen=True)
class SliceResult:
    """One slice.  ``auc`` and ``log_loss`` (nats) are None where ``reason`` says why, or where scores have no log loss."""

    name: str
    rows: int
    positives: int
    auc: float | None
    log_loss: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Interval:
    """95 % percentile interval of the AUC of all rows over resamples of users; fewer clusters than users when pooled."""

    low: float
    high: float
    resamples: int
    clusters: int
    users: int


@dataclass(frozen=True)
class RankingReport:
    """Results by slice, ``all`` first; ``interval`` is None where the AUC of all rows is."""

    slices: tuple[SliceResult, ...]
    interval: Interval | None

    def __getitem__(self, name: str) -> SliceResult:
        for result in self.slices:
            if result.name == name:
                return result
        raise DataError(f"the report has no slice '{name}'{suggest(name, [result.name for result in self.slices])}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value (no nan in it), as ``files.write_json`` takes."""
        return {"slices": [asdict(result) for result in self.slices], "interval": self.interval and asdict(self.interval)}

    @classmethod
    def from_json(cls, value: Any) -> RankingReport:
        """The report that ``to_json`` gave.  Raises DataError naming a missing, unknown or wrongly typed key."""
        _expect_keys(value, {"slices", "interval"}, "ranking report")
        if not isinstance(value["slices"], list):
            raise DataError(f"ranking report: 'slices' is {value['slices']!r}; accepted: a list")
        slices = tuple(_read(SliceResult, entry, f"ranking report: slices[{at}]") for at, entry in enumerate(value["slices"]))
        interval = value["interval"]
        return cls(slices, None if interval is None else _read(Interval, interval, "ranking report: interval"))


def evaluate_ranking(
    labels: ArrayLike,
    scores: ArrayLike,
    slices: Slices,
    users: ArrayLike,
    *,
    kind: ScoreKind,
    weights: ArrayLike | None = None,
    resamples: int = 1_000,
    seed: int = 0,
    min_rows: int = MIN_ROWS,
) -> RankingReport:
    """AUC and log loss on every slice, with a bootstrap interval (rows clustered by user) for the AUC of all rows.

    labels (N,) 0/1    scores (N,), which ``kind`` calls logits, probabilities or (no log loss) scores    users (N,) ids
    weights (N,) sample weights, or None.  A slice of fewer than ``min_rows`` rows says "too few" in place of numbers.
    Raises DataError on rows that cannot be used or on lengths that differ.
    """
    label, score, weight = checked_rows(labels, scores, weights)
    if slices.rows != len(label):
        raise DataError(f"the slices cover {slices.rows:,} rows, labels {len(label):,}; cut the slices from the rows you score")
    loss = None if kind == "scores" else row_losses(label, score, kind)
    clusters = cluster_by_user(users, len(label))

    def result(name: str, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> SliceResult:
        rows, positives = int(mask.sum()), int(label[mask].sum())
        if rows < min_rows:
            return SliceResult(name, rows, positives, None, None, f"too few: {rows:,} rows, {min_rows:,} wanted")
        total = weight[mask].sum()
        mean_loss = None if loss is None or not total else float(loss[mask] @ weight[mask] / total)
        area = auc(label[mask], score[mask], weight[mask])
        if math.isnan(area):
            return SliceResult(name, rows, positives, None, mean_loss, "one class only: no pair to rank")
        return SliceResult(name, rows, positives, area, mean_loss)

    results = tuple(result(name, mask) for name, mask in slices.masks.items())
    interval = None
    if results[0].auc is not None:
        values = _bootstrap(label, score, weight, clusters, resamples, seed)
        low, high = np.quantile(values, (0.025, 0.975))
        interval = Interval(float(low), float(high), len(values), clusters.count, clusters.users)
    return RankingReport(results, interval)


def render(reports: Mapping[str, RankingReport]) -> Table:
    """Models as columns, slices as rows; cells hold AUC / log loss, the first row also the 95 % interval.

    Raises DataError when the reports are not about the same test rows.
    """
    from rich.markup import escape
    from rich.table import Table

    if not reports:
        raise DataError("render needs at least one report")
    rows = {name: [(part.name, part.rows, part.positives) for part in report.slices] for name, report in reports.items()}
    first, expected = next(iter(rows.items()))
    for name, found in rows.items():
        if found != expected:
            here, there = next(pair for pair in zip([*found, None], [*expected, None], strict=False) if pair[0] != pair[1])
            raise DataError(
                f"'{name}' and '{first}' were not evaluated on the same rows: "
                f"slice (name, rows, positives) {here} against {there}"
            )
    table = Table(caption="AUC / log loss, [95 % interval of AUC over users]")
    for title in ("slice", "rows", "positive"):
        table.add_column(title, justify="left" if title == "slice" else "right")
    for name in reports:
        table.add_column(escape(name), justify="right")
    for at, (slice_name, count, positives) in enumerate(expected):
        cells = [_cell(report.slices[at], report.interval if at == 0 else None) for report in reports.values()]
        table.add_row(slice_name.replace("_", " "), f"{count:,}", f"{positives:,}", *cells)
    return table


def _cell(result: SliceResult, interval: Interval | None) -> str:
    if result.auc is None:
        return (result.reason or "-").split(":")[0]
    numbers = f"{result.auc:.4f}" + ("" if result.log_loss is None else f" / {result.log_loss:.4f}")
    return numbers + (f"\n[{interval.low:.4f}, {interval.high:.4f}]" if interval else "")


def _bootstrap(label: Floats, score: Floats, weight: Floats, clusters: Clusters, resamples: int, seed: int) -> Floats:
    wins = np.zeros((clusters.count, clusters.count))
    add_pairs(wins, label, score, weight, clusters.index, 1.0)
    values = resampled_auc(wins, clusters.sum(weight * label), clusters.sum(weight * (1 - label)), resamples, seed)
    return values[~np.isnan(values)]


_JSON_TYPES = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "str | None": (str, type(None)),
    "float | None": (float, int, type(None)),
}


def _read(kind: type[Any], value: Any, where: str) -> Any:
    """Build a flat dataclass from a JSON object, checking keys and types."""
    _expect_keys(value, {part.name for part in fields(kind)}, where)
    for part in fields(kind):
        found = value[part.name]
        if isinstance(found, bool) or not isinstance(found, _JSON_TYPES[str(part.type)]):
            raise DataError(f"{where}: '{part.name}' is {found!r}; accepted: {part.type}")
    return kind(**value)


def _expect_keys(value: Any, names: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {type(value).__name__}; accepted: an object with the keys {', '.join(sorted(names))}")
    for key in sorted(value.keys() - names):
        raise DataError(f"{where}: unknown key '{key}'{suggest(key, names)}")
    for key in sorted(names - value.keys()):
        raise DataError(f"{where}: required key '{key}' is missing")
