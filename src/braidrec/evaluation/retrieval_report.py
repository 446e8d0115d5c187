"""Full-catalogue ranking in numbers: what each row gains by its target's rank, and a model's report, slice by slice.

With one target per row, HR@k is recall@k, the best possible gain is 1, and nDCG@k is 1 / log2(rank + 1) within k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidrec.errors import DataError, suggest
from braidrec.evaluation.bootstrap import Clusters, cluster_by_user, resampled_mean
from braidrec.evaluation.metrics import Floats
from braidrec.evaluation.report import MIN_ROWS, Interval, _expect_keys, _read
from braidrec.evaluation.slices import Slices

if TYPE_CHECKING:
    from rich.table import Table

    from braidrec.evaluation.retrieval import Ranking

RetrievalMetric = Literal["hr", "ndcg", "mrr"]
METRICS: tuple[RetrievalMetric, ...] = get_args(RetrievalMetric)
TITLES = {"hr": "HR", "ndcg": "nDCG", "mrr": "MRR"}


def gains(ranks: ArrayLike, metric: RetrievalMetric, k: int) -> Floats:
    """What each row gains, in the shape of ``ranks`` (from 1): 0 beyond rank k; within, by metric:

    ``hr`` 1 (also recall)    ``ndcg`` 1 / log2(rank + 1)    ``mrr`` 1 / rank
    The metric of a set of rows is the mean.
    Raises DataError on another metric, k < 1 or a rank that is no whole number from 1 on.
    """
    rank = np.asarray(ranks)
    if not np.issubdtype(rank.dtype, np.integer) or (rank < 1).any():
        raise DataError(f"ranks are {rank.dtype}, the least {rank.min(initial=1)}; accepted: whole numbers from 1 on")
    if k < 1:
        raise DataError(f"k = {k}; accepted: 1 or more")
    within = rank <= k
    if metric == "hr":
        return within.astype(np.float64)
    if metric == "ndcg":
        return within / np.log2(rank + 1.0)
    if metric == "mrr":
        return within / rank
    raise DataError(f"metric '{metric}' is unknown{suggest(metric, METRICS)}")


def coverage(top: NDArray[np.integer[Any]], num_items: int) -> float:
    """Share of the catalogue that stands in at least one of the lists ``top`` (N, K); 0 marks an empty place."""
    return len(np.unique(top[top > 0])) / num_items


def novelty(top: NDArray[np.integer[Any]], counts: NDArray[np.int64]) -> float:
    """Mean surprise, in bits, of the items listed in ``top`` (N, K): -log2((count + 1) / (total + I)), every place alike.

    counts (I + 1,) training events of each item.  One is added to each count, so items never met have a finite surprise.
    nan where no list holds an item.
    """
    listed = top[top > 0]
    if not len(listed):
        return math.nan
    return float(np.mean(math.log2(counts[1:].sum() + len(counts) - 1) - np.log2(counts[listed] + 1.0)))


@dataclass(frozen=True)
class RetrievalSlice:
    """One slice.  values: by name, such as "ndcg@10"; None where ``reason`` says why."""

    name: str
    rows: int
    users: int
    values: Mapping[str, float] | None
    reason: str | None = None


@dataclass(frozen=True)
class RetrievalReport:
    """Results by slice, ``all`` first.

    at: the k of HR, nDCG and MRR    primary: the one of ``intervals`` (95 %, over users, of "hr@k" and "ndcg@k" of all rows;
    empty where these rows are too few) and of the lists behind coverage (share of items) and novelty (bits), which are None
    where the lists are shorter or empty    masked: share of rows whose target was no candidate, misses for any model
    """

    slices: tuple[RetrievalSlice, ...]
    at: tuple[int, ...]
    primary: int
    intervals: Mapping[str, Interval]
    coverage: float | None
    novelty: float | None
    masked: float

    def __getitem__(self, name: str) -> RetrievalSlice:
        for result in self.slices:
            if result.name == name:
                return result
        raise DataError(f"the report has no slice '{name}'{suggest(name, [result.name for result in self.slices])}")

    @property
    def ceiling(self) -> float:
        """The HR that a perfect model reaches."""
        return 1 - self.masked

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value (no nan in it), as ``files.write_json`` takes."""
        return asdict(self) | {"slices": [asdict(result) for result in self.slices], "at": list(self.at)}

    @classmethod
    def from_json(cls, value: Any) -> RetrievalReport:
        """The report that ``to_json`` gave.  Raises DataError naming a missing, unknown or wrongly typed key."""
        where = "retrieval report"
        _expect_keys(value, {"slices", "at", "primary", "intervals", "coverage", "novelty", "masked"}, where)
        at = tuple(
            _typed(k, (int,), f"{where}: at[{place}]") for place, k in enumerate(_typed(value["at"], (list,), f"{where}: at"))
        )
        names = _value_names(at)
        slices = []
        for place, entry in enumerate(_typed(value["slices"], (list,), f"{where}: slices")):
            here = f"{where}: slices[{place}]"
            _expect_keys(entry, {"name", "rows", "users", "values", "reason"}, here)
            if entry["values"] is not None:
                _expect_keys(entry["values"], names, f"{here}: values")
                for name, number in entry["values"].items():
                    _typed(number, (int, float), f"{here}: {name}")
            for name, kinds in (("name", (str,)), ("rows", (int,)), ("users", (int,)), ("reason", (str, type(None)))):
                _typed(entry[name], kinds, f"{here}: {name}")
            slices.append(RetrievalSlice(**entry))
        intervals = value["intervals"]
        if intervals != {}:
            _expect_keys(intervals, {f"{metric}@{value['primary']}" for metric in ("hr", "ndcg")}, f"{where}: intervals")
        return cls(
            tuple(slices),
            at,
            _typed(value["primary"], (int,), f"{where}: primary"),
            {name: _read(Interval, entry, f"{where}: {name}") for name, entry in intervals.items()},
            _typed(value["coverage"], (int, float, type(None)), f"{where}: coverage"),
            _typed(value["novelty"], (int, float, type(None)), f"{where}: novelty"),
            _typed(value["masked"], (int, float), f"{where}: masked"),
        )


def evaluate_retrieval(
    ranking: Ranking,
    users: ArrayLike,
    slices: Slices,
    counts: NDArray[np.int64],
    *,
    at: Sequence[int] = (1, 5, 10, 20),
    primary: int = 10,
    resamples: int = 1_000,
    seed: int = 0,
    min_rows: int = MIN_ROWS,
) -> RetrievalReport:
    """HR, nDCG and MRR at every k of ``at`` on every slice; for all rows also intervals, coverage and novelty at ``primary``.

    users (N,) ids, drawn with replacement for the intervals    counts (I + 1,) training events of each item
    A slice of fewer than ``min_rows`` rows says "too few" in place of numbers.
    Raises DataError on lengths that differ or on a ``primary`` that is not in ``at``.
    """
    if slices.rows != len(ranking.rank):
        raise DataError(
            f"the slices cover {slices.rows:,} rows, the ranking {len(ranking.rank):,}; cut the slices from the rows you rank"
        )
    if primary not in at:
        raise DataError(f"primary = {primary} is not among the k of the report; accepted: {', '.join(map(str, at))}")
    ids = np.asarray(users)
    clusters = cluster_by_user(ids, len(ranking.rank))
    by_row = {f"{metric}@{k}": gains(ranking.rank, metric, k) for metric in METRICS for k in at}

    def result(name: str, mask: NDArray[np.bool_]) -> RetrievalSlice:
        rows, people = int(mask.sum()), len(np.unique(ids[mask]))
        if rows < max(min_rows, 1):
            return RetrievalSlice(name, rows, people, None, f"too few: {rows:,} rows, {min_rows:,} wanted")
        return RetrievalSlice(name, rows, people, {key: float(gain[mask].mean()) for key, gain in by_row.items()})

    results = tuple(result(name, mask) for name, mask in slices.masks.items())
    enough = results[0].values is not None
    names = [f"{metric}@{primary}" for metric in ("hr", "ndcg")] if enough else []
    top = ranking.top[:, :primary]
    listed = top.shape[1] == primary and top.any()
    return RetrievalReport(
        results,
        tuple(at),
        primary,
        {name: _interval(by_row[name], clusters, resamples, seed) for name in names},
        coverage(top, len(counts) - 1) if listed else None,
        novelty(top, counts) if listed else None,
        float(ranking.masked.mean()) if len(ranking.masked) else 0.0,
    )


def render_retrieval(reports: Mapping[str, RetrievalReport], k: int | None = None) -> Table:
    """Models as columns, slices as rows; cells hold HR@k / nDCG@k in per cent, the first row also the 95 % intervals.

    k: the reports' ``primary`` when left out.  Below the slices: MRR@k, coverage, novelty, and the share of targets that no
    model can reach.  Raises DataError when the reports are not about the same rows or lack this k.
    """
    from rich.markup import escape
    from rich.table import Table

    if not reports:
        raise DataError("render_retrieval needs at least one report")
    rows = {name: [(part.name, part.rows, part.users) for part in report.slices] for name, report in reports.items()}
    first, expected = next(iter(rows.items()))
    k = reports[first].primary if k is None else k
    for name, report in reports.items():
        if rows[name] != expected:
            pairs = zip([*rows[name], None], [*expected, None], strict=False)
            here, there = next(pair for pair in pairs if pair[0] != pair[1])
            raise DataError(
                f"'{name}' and '{first}' were not evaluated on the same rows: slice (name, rows, users) {here} against {there}"
            )
        if k not in report.at:
            raise DataError(f"'{name}' was not evaluated at {k}; its report has k = {', '.join(map(str, report.at))}")
    shown = list(reports.values())
    table = Table(caption=f"HR@{k} / nDCG@{k} in %, [95 % interval over users]")
    for title in ("slice", "rows", "users"):
        table.add_column(title, justify="left" if title == "slice" else "right")
    for name in reports:
        table.add_column(escape(name), justify="right")
    for place, (slice_name, count, people) in enumerate(expected):
        cells = [_cell(report, report.slices[place], k) for report in shown]
        table.add_row(slice_name.replace("_", " "), f"{count:,}", f"{people:,}", *cells, end_section=place + 1 == len(expected))
    whole = [report.slices[0].values for report in shown]
    lists = shown[0].primary
    for title, cells in (
        (f"MRR@{k}, %", [_percent(None if values is None else values[f"mrr@{k}"]) for values in whole]),
        (f"coverage@{lists}, %", [_percent(report.coverage) for report in shown]),
        (f"novelty@{lists}, bits", ["-" if report.novelty is None else f"{report.novelty:.2f}" for report in shown]),
        ("out of reach, %", [_percent(report.masked) for report in shown]),
    ):
        table.add_row(title, "", "", *cells)
    return table


def _cell(report: RetrievalReport, result: RetrievalSlice, k: int) -> str:
    if result.values is None:
        return (result.reason or "-").split(":")[0]
    cell = f"{_percent(result.values[f'hr@{k}'])} / {_percent(result.values[f'ndcg@{k}'])}"
    if result is report.slices[0] and k == report.primary:
        for name in ("hr", "ndcg"):
            interval = report.intervals[f"{name}@{k}"]
            cell += f"\n{TITLES[name]} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return cell


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.4f}"


def _interval(gain: Floats, clusters: Clusters, resamples: int, seed: int) -> Interval:
    values = resampled_mean(clusters.sum(gain), clusters.sum(np.ones(len(gain))), resamples, seed)
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high), len(values), clusters.count, clusters.users)


def _value_names(at: Sequence[int]) -> set[str]:
    return {f"{metric}@{k}" for metric in METRICS for k in at}


def _typed(value: Any, kinds: tuple[type[Any], ...], where: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, kinds):
        accepted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise DataError(f"{where} is {value!r}; accepted: {accepted}")
    return value
