"""Models that are solved at once, on four logs, with and without text: what any trained model has to beat.

Settings were chosen on validation: of Prime Pantry on that of split 0 alone.  RLMRec's Amazon-book has no text here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.scoring import Held, RowsScorer
from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.evaluation.retrieval import RetrievalRows, rank_targets
from braidrec.evaluation.retrieval_report import row_gains
from braidrec.experiments.experiment import About, Experiment, Extra, Made
from braidrec.experiments.measures import spread
from braidrec.experiments.rows import OFFLINE, Row
from braidrec.layers.text import TextTable
from braidrec.runs.knowledge import KnowledgeBases
from braidrec.training.stages import put_fitted

if TYPE_CHECKING:
    from rich.table import Table

AMAZON, ML_1M, SMALL, PANTRY = "rlmrec-amazon-book", "ml-1m", "ml-latest-small", "prime-pantry"
_TASK = "collaborative"
_ENCODERS = {"tfidf": "tfidf", "minilm": OFFLINE}
_HIDDEN = 0.1  # of the items, where cold ones are looked at
Settings = Mapping[str, Mapping[str, Any]]
_TITLES = {"ease": "EASE", "gf-cf": "GF-CF", "ials": "iALS", "item-knn": "item-kNN"}
_TEXT_TITLES = {**_TITLES, "ease-stack-minilm": "EASE with text", "text-knn-minilm": "text alone (kNN)"}
ABOUT = About(
    "Closed forms: models that are solved at once",
    "EASE is the best of those that read ids alone on each log. Text adds much where items have few events (Prime Pantry, "
    "where text alone is above whatever reads ids alone) and hardly anything on MovieLens.",
    "recall@20",
    (
        ("linear/amazon-book", AMAZON, _TITLES),
        ("linear/prime-pantry", PANTRY, {f"{name}-split0": f"{title}, split 0" for name, title in _TEXT_TITLES.items()}),
        ("linear/ml-1m", ML_1M, _TEXT_TITLES),
        ("linear/ml-latest-small", SMALL, _TEXT_TITLES),
    ),
)

# Whatever is not named is as the model's own defaults have it.
_AMAZON: Settings = {"ease": {"penalty": 50.0}}
_LOW_RANK = Row(
    "ease-rank-512",
    AMAZON,
    "ease",
    model={"backbone": {**_AMAZON["ease"], "rank": 512}},
    seeds=(1,),
    task=_TASK,
    note="on the leading 512 eigenvectors: what stands in where the exact form does not fit",
)
_ML_1M: Settings = {
    "item-knn": {"shrink": 0.0},
    "gf-cf": {"factors": 256, "alpha": 3.0},
    "ials": {"factors": 64, "alpha": 3.0, "penalty": 10.0},
    "ease": {"penalty": 300.0},
    **{f"ease-stack-{encoder}": {"penalty": 300.0} for encoder in _ENCODERS},
    **{f"ease-regularise-{encoder}": {"penalty": 250.0} for encoder in _ENCODERS},
}
_SMALL: Settings = {
    "item-knn": {"shrink": 0.0},
    "gf-cf": {"factors": 64, "alpha": 1.0},
    "ials": {"factors": 64, "alpha": 3.0, "penalty": 10.0},
}
_PANTRY: Settings = {
    "item-knn": {"shrink": 50.0},
    "turbo-cf": {"alpha": 0.7},
    "gf-cf": {"factors": 64, "alpha": 3.0},
    "ials": {"factors": 64, "penalty": 1.0},
    "ease": {"penalty": 500.0},
    "ease-stack-tfidf": {"penalty": 200.0},
    "ease-stack-minilm": {"penalty": 200.0},
    "ease-regularise-tfidf": {"penalty": 150.0},
    "ease-regularise-minilm": {"penalty": 150.0, "pull": 200.0},
}


def _rows(data: str, settings: Settings, *, text: bool, ending: str = "") -> list[Row]:
    def row(name: str, backbone: str, encoder: str = OFFLINE, against: str | None = None, **own: Any) -> Row:
        values = {**own, **settings.get(name, {})}
        other = None if against is None else against + ending
        model = {"backbone": values} if values else {}
        return Row(name + ending, data, backbone, model=model, encoder=encoder, against=other, seeds=(1,), task=_TASK)

    found = [row(name, name) for name in ("popularity", "item-knn", "graph-filter", "turbo-cf", "gf-cf", "ials", "ease")]
    for short, encoder in _ENCODERS.items() if text else ():
        found += [
            row(f"text-knn-{short}", "text-knn", encoder),
            row(f"ease-stack-{short}", "ease", encoder, "ease", text="stack"),
            row(f"ease-regularise-{short}", "ease", encoder, "ease", text="regularise"),
        ]
    return found


def _named(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


SPLITS = (0, 1, 2)
_ROWS: Mapping[str, Mapping[str, Row]] = {
    AMAZON: _named([*_rows(AMAZON, _AMAZON, text=False), _LOW_RANK]),
    PANTRY: _named(
        [row for seed in SPLITS for row in _rows(f"prime-pantry-core-{seed}", _PANTRY, text=True, ending=f"-split{seed}")]
    ),
    ML_1M: _named(_rows("ml-1m-shuffled", _ML_1M, text=True)),
    SMALL: _named(_rows("ml-latest-small-shuffled", _SMALL, text=True)),
}


def _over_splits(made: Made) -> Mapping[str, Any]:
    """Means over the split seeds, and items that nobody has in training."""
    entries = {entry["row"]: entry for entry in made.table["rows"]}
    names = [name.removesuffix("-split0") for name in entries if name.endswith("-split0")]
    keys = [*(f"test_{metric.key}" for metric in made.rows[0].metrics), "training_seconds"]
    means = {
        name: {key: spread([entries[f"{name}-split{seed}"][key]["mean"] for seed in SPLITS]) for key in keys} for name in names
    }
    return {"over_splits": means, "cold": _cold(made)}


def _cold(made: Made) -> Mapping[str, Mapping[str, float]]:
    """Recall@20 of hidden items, of which nobody is known to have any: among hidden items alone, and among all.

    All pairs of the other items are known, of whatever part; all of the hidden ones are to be found.
    """
    rows = {row.name: row for row in made.rows}
    data = Dataset.open(made.shop.prepared[f"prime-pantry-core-{SPLITS[0]}"])
    log = data.log
    hidden = np.zeros(data.num_items + 1, np.bool_)
    drawn = np.random.default_rng(0).permutation(data.num_items)[: round(_HIDDEN * data.num_items)]
    hidden[drawn + 1] = True
    wanted, seen = np.flatnonzero(hidden[log.item]), np.flatnonzero(~hidden[log.item])
    known = Graph.of(log, seen, data.num_items)
    held = Held(RetrievalRows.by_user(log, wanted, seen, data.num_items), known)
    found: dict[str, Mapping[str, float]] = {
        "random": {"among_hidden": 20 / int(hidden.sum()), "among_all": 20 / data.num_items}
    }
    for short in _ENCODERS:
        for model in ("text-knn", "ease-stack", "ease-regularise"):
            row = rows[f"{model}-{short}-split{SPLITS[0]}"]
            text = TextTable(torch.as_tensor(KnowledgeBases.open(made.shop.knowledge_path(row)).matrix(data)))
            found[f"{model}-{short}"] = _found_cold(row.config(), Parts(data.num_items, known, text), held, hidden)
            if model == "ease-stack":
                own = replace(row, model={"backbone": {**row.model["backbone"], "cold": _weight_of_cold(row, data, text)}})
                again = _found_cold(own.config(), Parts(data.num_items, known, text), held, hidden)
                found[f"{model}-{short}, cold = {own.model['backbone']['cold']:g} by validation"] = again
    return found


def _found_cold(config: RunConfig, parts: Parts, held: Held, hidden: NDArray[np.bool_]) -> Mapping[str, float]:
    [stage] = config.chosen.backbone.build(config.model.backbone, parts)
    with torch.no_grad():
        put_fitted(stage.module, stage.fit())
    scorer = RowsScorer(stage.module, held, torch.from_numpy(parts.graph.item_counts))
    return {
        name: float(row_gains(rank_targets(scorer, held.rows, candidates=mask, top=0, within=20), "recall", 20).mean())
        for name, mask in (("among_hidden", hidden), ("among_all", None))
    }


def _weight_of_cold(row: Row, data: Dataset, text: TextTable) -> float:
    """What validation of the split says, with other items hidden."""
    own = replace(row, model={"backbone": {**row.model["backbone"], "cold": "valid"}})
    plan = row.of_task.room().plan(own.config(), data, text.vectors.numpy(), show_progress=False)
    with torch.no_grad():
        tensors = plan.stages[-1].fit()
    return float(tensors["boost"][-1]) if "boost" in tensors else 1.0


def _shown(found: Mapping[str, Any]) -> Sequence[Table]:
    from braidrec.runs.tables import plain_table

    def said(value: Mapping[str, float], digits: int = 4) -> str:
        return f"{value['mean']:.{digits}f} ± {value['sd']:.{digits}f}"

    columns = ("recall@20", "ndcg@20", "recall@10", "ndcg@10")
    lines = [
        (name, *(said(each[f"test_{key}"]) for key in columns), said(each["training_seconds"], 1))
        for name, each in found["over_splits"].items()
    ]
    cold = [(name, each["among_hidden"], each["among_all"]) for name, each in found["cold"].items()]
    return [
        plain_table(
            "mean ± sd over the three splits", ("model", "Recall@20", "nDCG@20", "Recall@10", "nDCG@10", "fit, s"), lines
        ),
        plain_table(
            "a tenth of the items hidden from training: Recall@20", ("model", "among hidden items", "among all items"), cold
        ),
    ]


def _experiment(name: str, title: str, data: str, **more: Any) -> Experiment:
    rows, notes = _ROWS[data], (_PROTOCOL, *more.pop("notes"), _SECONDS)
    return Experiment(f"linear/{name}", title, {data: rows}, names=tuple(rows), notes=notes, **more)


_PROTOCOL = (
    "every user with a held-out positive is a row: Recall over all of theirs, nDCG over the best list of as many; items of "
    "training are no candidates, those of validation are"
)
_SECONDS = "seconds in cells are of the clock, on two cores that other work kept busy, too"
_PUBLISHED = (
    "published test Recall@20 / nDCG@20 on this split: LightGCN .1411 / .0856, AutoCF .1536 / .0984, the best RLMRec "
    ".1586 / .1001, the best DaRec .1590 / .1016"
)
_FIFTHS = (
    "distinct pairs, 5-core (91,818 pairs, 10,461 users, 4,129 items); a fifth of each user's pairs at random is test, a fifth "
    "validation; splits 0, 1 and 2 are seeds of the draw"
)
_RATED = "a rating above 3 is a positive; 80/10/10 of each user's ratings at random; the others bar, but are nobody's positives"
EXPERIMENTS: tuple[Experiment, ...] = (
    _experiment(
        "amazon-book",
        "solved at once, on the split of RLMRec",
        AMAZON,
        notes=(
            _PUBLISHED,
            "the data have no text here",
        ),
    ),
    _experiment(
        "prime-pantry",
        "solved at once, with and without text, three splits",
        PANTRY,
        extra=Extra(_over_splits, _shown),
        notes=(
            _FIFTHS,
            "settings by validation of split 0",
            "text: tfidf is hashed TF-IDF, minilm the packaged MiniLM, both of titles",
        ),
    ),
    _experiment("ml-1m", "solved at once, with and without text", ML_1M, notes=(_RATED,)),
    _experiment("ml-latest-small", "solved at once, with and without text", SMALL, notes=(_RATED,)),
)
