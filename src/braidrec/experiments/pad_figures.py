"""PAD's figures from finished cells and from the runs behind them, and its table of data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from braidrec.data.popularity import frequency_buckets, training_counts
from braidrec.data.sequences import training_ends
from braidrec.experiments.experiment import Extra, Made
from braidrec.insight.discrepancy import discrepancy, separation
from braidrec.insight.pairs import Pairs, pairs_of
from braidrec.insight.plots import bucket_plot, discrepancy_plot, gate_plot, histogram_plot
from braidrec.runs.knowledge import KnowledgeBases
from braidrec.runs.run import Run
from braidrec.runs.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

Vectors = NDArray[np.float32]

TITLES = {"sasrec": "SASRec", "sasrec-smem": "SMEM", "sasrec-ctrl": "CTRL", "sasrec-pad": "PAD"}
SEPARATED = ("sasrec", "sasrec-smem", "sasrec-ctrl", "sasrec-pad")
MOVED = (
    "sasrec-pad",
    "sasrec-pad-non-anchored",
    "sasrec-pad-anchored-frozen",
    "sasrec-pad-only-id",
    "sasrec-pad-only-aligned",
)
SINGLE_AND_TRIPLE = {
    "sasrec": "SE-BCE",
    "sasrec-pad-only-id": "SE-BCE-Tune",
    "sasrec-pad-only-aligned": "SE-BCE-Align-Tune",
    "sasrec-pad": "TE-BCE-Align-Tune",
}
GROUPS = ("warm", "median", "cold")
BUCKETS = 10  # of item frequency, as in the paper
SPACES_NOTE = (
    "id and text are both sides of the aligned expert in SMEM and PAD; SASRec and CTRL end as id models, whose text side is "
    "the text as it was read"
)


_COUNTED = ("users", "items", "interactions")


def data_counts(published: Mapping[str, tuple[int, int, int]]) -> Extra:
    """Table 1: users, items and interactions (U, I, N) in print and as prepared."""

    def make(made: Made) -> Mapping[str, Any]:
        found = made.open_data().manifest["counts"]
        here = dict(zip(_COUNTED, (found["users"], found["items"], found["events"]), strict=True))
        values = {data: {"published": dict(zip(_COUNTED, printed, strict=True))} for data, printed in published.items()}
        values[made.data] = {**values.get(made.data, {}), "measured": here}
        return {"counts": values}

    return Extra(make, _counts_shown)


def _counts_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [
        (data, where, *(numbers[name] for name in _COUNTED))
        for data, sides in values["counts"].items()
        for where, numbers in sides.items()
    ]
    return [plain_table("data sets", ("data", "", *_COUNTED), rows)]


def _item_groups(made: Made) -> Mapping[str, Any]:
    values: dict[str, Any] = {}
    plots = []
    for metric, title in (("hr@10", "HR@10"), ("ndcg@10", "nDCG@10")):
        bars = {}
        for row in made.rows:
            slices = made.entry(row.name)["slices"]
            bars[TITLES[row.name]] = [_percent(slices[group][metric]) for group in GROUPS]
        gains = [None if not base or value is None else value / base - 1 for base, value in zip(*bars.values(), strict=True)]
        values[metric] = bars | {"gain": gains, "rows": [slices[group]["rows"] for group in GROUPS]}
        figure = made.figure(f"-{title.lower()[:-3]}")
        plots.append(bucket_plot(bars, GROUPS, figure, f"{title} by item group", f"{title}, x100"))
    return {"groups": values, "files": [path.name for path in plots]}


def _groups_shown(values: Mapping[str, Any]) -> list[Table]:
    models = [name for name in next(iter(values["groups"].values())) if name not in ("gain", "rows")]
    rows = [
        (
            {"hr@10": "HR@10", "ndcg@10": "nDCG@10"}[metric],
            group,
            found["rows"][at],
            *(_number(found[model][at]) for model in models),
            _gain(found["gain"][at]),
        )
        for metric, found in values["groups"].items()
        for at, group in enumerate(GROUPS)
    ]
    return [plain_table("by item group, x100", ("metric", "items", "test rows", *models, "gain"), rows)]


# Figure 2: both models by how often training met the target, from the cells of all seeds.
ITEM_GROUPS = Extra(_item_groups, _groups_shown)


def _gate(made: Made) -> Mapping[str, Any]:
    found = made.entry("sasrec-pad")["gate"]
    path = gate_plot(np.array(found["shares"]), found["experts"], made.figure(), "PAD: share of each expert by item bucket")
    return {"gate": found, "files": [path.name]}


def _gate_shown(values: Mapping[str, Any]) -> list[Table]:
    found = values["gate"]
    rows = [(f"{bucket}", *(f"{share:.3f}" for share in row)) for bucket, row in enumerate(found["shares"], 1)]
    return [plain_table("share of each expert, bucket 1 is the hottest", ("bucket", *found["experts"]), rows)]


# The gate's share of each expert by frequency bucket, the mean of all seeds.
GATE = Extra(_gate, _gate_shown)


def separations(name: str, buckets: Sequence[int]) -> Extra:
    """Figures 3 and 7: whether text distance tells the far pairs of id space from the near ones, for some buckets."""

    def make(made: Made) -> Mapping[str, Any]:
        runs = {row.name: made.run(row.name) for row in made.rows}
        pairs = validation_pairs(next(iter(runs.values())))
        chosen = np.isin(pairs.bucket, buckets)
        knowledge = read_text(runs["sasrec-pad"])
        found, values = {}, {}
        for row, run in runs.items():
            spaces = run.inspect()
            fused = "aligned_id" in spaces
            by_id, by_text = ("aligned_id", "aligned_text") if fused else ("id", "text as read")
            text = spaces[by_text] if fused else knowledge
            one = separation(spaces[by_id], text, pairs, mask=chosen)
            found[TITLES[row]] = one
            values[TITLES[row]] = {"auc": one.auc, "id": by_id, "text": by_text, "pairs": int(chosen.sum())}
        path = histogram_plot(found, made.figure(), f"{name} items: pairs far apart and near by id, and by text")
        return {"separation": values, "files": [path.name]}

    return Extra(make, _separations_shown)


def _separations_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [
        (model, each["id"], each["text"], each["pairs"], f"{each['auc']:.4f}") for model, each in values["separation"].items()
    ]
    return [plain_table("AUC of text distance, G_top against G_bottom", ("model", "id", "text", "pairs", "AUC"), rows)]


def _discrepancies(made: Made) -> Mapping[str, Any]:
    runs = {row.name: made.run(row.name) for row in made.rows}
    triple, single = runs["sasrec-pad"].inspect(), runs["sasrec-pad-only-aligned"].inspect()
    start, read = runs["sasrec-pad"].inspect("pretrain")["id"], read_text(runs["sasrec-pad"])
    pairs = validation_pairs(runs["sasrec-pad"])
    panels: dict[str, tuple[str, Vectors, dict[str, Vectors]]] = {
        "a": (
            "id table after phase 2 against phase 1, by alignment loss",
            start,
            {
                title: runs[row].inspect("align")["aligned_id"]
                for title, row in (
                    ("non-anchored", "sasrec-pad-non-anchored"),
                    ("anchored", "sasrec-pad"),
                    ("anchored, frozen", "sasrec-pad-anchored-frozen"),
                )
            },
        ),
        "b": (
            "id table after more training against phase 1",
            start,
            {"SE-BCE-Tune": runs["sasrec-pad-only-id"].inspect()["id"], "SE-BCE-Align-Tune": single["aligned_id"]},
        ),
        "c": (
            "id tables of one and of three experts against phase 1",
            start,
            {
                "single, aligned": single["aligned_id"],
                "triple, origin": triple["id"],
                "triple, aligned": triple["aligned_id"],
            },
        ),
        "d": (
            "text vectors of one and of three experts against the text as read",
            read,
            {
                "single, aligned": single["aligned_text"],
                "triple, origin": triple["text"],
                "triple, aligned": triple["aligned_text"],
            },
        ),
    }
    values, files = {}, []
    for panel, (title, base, spaces) in panels.items():
        found = {name: discrepancy(base, vectors, pairs) for name, vectors in spaces.items()}
        path = discrepancy_plot(found, made.figure(panel), f"({panel}) {title}")
        files.append(path.name)
        values[panel] = {"title": title, "series": {name: asdict(one) for name, one in found.items()}}
    return {"tau": values, "files": files}


def _discrepancies_shown(values: Mapping[str, Any]) -> list[Table]:
    return [_tau_table(f"({panel}) tau of the {one['title']}", one["series"]) for panel, one in values["tau"].items()]


# Figure 6: the spaces after training against those before, as Kendall's tau by bucket.
DISCREPANCIES = Extra(_discrepancies, _discrepancies_shown)


def validation_pairs(run: Run) -> Pairs:
    """The pairs of the paper's code on a run's data: behaviours beside the validation target and another of its bucket.

    Targets that training never met are left out: their id rows were learned nowhere, and stay what they were at the start.
    """
    dataset = run.dataset.followed
    log, valid = dataset.log, dataset.split["valid"]
    target = np.zeros(dataset.num_users + 1, np.int32)
    target[log.user[valid]] = log.item[valid]
    counts = training_counts(dataset)
    bucket = frequency_buckets(counts, BUCKETS)
    pairs = pairs_of(log.slot_item, log.start, target, bucket, train_end=log.start[:-1] + training_ends(dataset))
    return pairs.where(counts[pairs.item] > 0)


def read_text(run: Run) -> Vectors:
    """(I + 1, S) the text vectors that a run's model starts from."""
    return KnowledgeBases.open(run.config.knowledge).matrix(run.dataset).astype(np.float32, copy=False)


def _tau_table(title: str, series: Mapping[str, Mapping[str, Any]]) -> Table:
    buckets = next(iter(series.values()))["buckets"]
    rows = [
        (name, *("-" if tau is None else f"{tau:.2f}" for tau in (*one["tau"], one["tau_all"]))) for name, one in series.items()
    ]
    return plain_table(title, ("", *map(str, buckets), "all"), rows)


def _percent(found: Mapping[str, float] | None) -> float | None:
    return None if found is None else 100 * found["mean"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _gain(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"
