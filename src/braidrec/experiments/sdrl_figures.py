"""SDRL's figures from finished cells and the runs behind them, and its table of data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from scipy.sparse import csr_array

from braidrec.collaborative.contracts import MatrixModel
from braidrec.collaborative.labels import Categories, categories_of, scaled_ratings
from braidrec.collaborative.models.sdrl import entropy
from braidrec.collaborative.scoring import training_positions
from braidrec.data.dataset import Dataset
from braidrec.experiments.experiment import Extra, Made
from braidrec.insight.block_plots import bars_plot, lines_plot, strip_plot
from braidrec.insight.blocks import agreement, cosines, jaccard, rank_correlations, silhouette
from braidrec.insight.plots import map_plot
from braidrec.insight.strands import flat
from braidrec.runs.run import Run
from braidrec.runs.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

PEOPLE = ("551", "267", "313", "216")  # raw ids of Figure 7
_MAPPED = 7  # most common categories
_PAIRS = 2_000
_SCALE = 5.0  # stars


def genres(data: Dataset) -> Categories:
    """The 18 genres of MovieLens."""
    return categories_of(data, "genres", "|")


def training_ratings(data: Dataset) -> Any:
    """(U + 1, I + 1) SciPy CSR of ratings over five stars."""
    log, own = data.log, training_positions(data)
    shape = (data.num_users + 1, data.num_items + 1)
    return scaled_ratings(log.user[own], log.item[own], log.rating[own], shape, _SCALE)


def _rows_data(made: Made) -> Dataset:
    return Dataset.open(made.shop.prepared[next(iter(made.experiment.rows[made.data].values())).data])


# -- Table 1 --------------------------------------------------------------------------------------------------------------

_COUNTED = ("users", "items", "ratings", "categories")


def data_counts(published: Mapping[str, tuple[int, int, int, int]]) -> Extra:
    def make(made: Made) -> Mapping[str, Any]:
        data = _rows_data(made)
        here = (data.num_users, data.num_items, len(data.log), len(genres(data).names))
        values = {name: {"published": dict(zip(_COUNTED, counts, strict=True))} for name, counts in published.items()}
        values[made.data] = {**values.get(made.data, {}), "measured": dict(zip(_COUNTED, here, strict=True))}
        return {"counts": values}

    return Extra(make, _counts_shown)


def _counts_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [
        (data, where, *(counts[name] for name in _COUNTED))
        for data, sides in values["counts"].items()
        for where, counts in sides.items()
    ]
    return [plain_table("data sets", ("data", "", *_COUNTED), rows)]


# -- Figure 3 -------------------------------------------------------------------------------------------------------------


def _touched(made: Made) -> Mapping[str, Any]:
    """Users by the number of categories of what they rated in training; published: more than 80 % touch 14 of 18 or more."""
    data = _rows_data(made)
    own = genres(data)
    counts = (np.asarray(training_ratings(data) @ own.of_items) > 0).sum(axis=1)[1:]
    found = np.bincount(counts, minlength=len(own.names) + 1).tolist()
    labels = [str(number) for number in range(len(found))]
    path = bars_plot({"users": found}, labels, made.figure(), "users by how many categories they touch", "users")
    return {"touched": {"users": found, "at_least_14": float((counts >= 14).mean())}, "files": [path.name]}


def _touched_shown(values: Mapping[str, Any]) -> list[Table]:
    found = values["touched"]
    rows = [(number, count) for number, count in enumerate(found["users"]) if count]
    return [plain_table(f"{found['at_least_14']:.1%} of users touch 14 categories or more", ("categories", "users"), rows)]


TOUCHED = Extra(_touched, _touched_shown)


# -- Figure 4 -------------------------------------------------------------------------------------------------------------


def _losses(made: Made) -> Mapping[str, Any]:
    series = {row.name: _normalised(made.run(row.name)) for row in made.rows}
    path = lines_plot(series, made.figure(), "losses by epoch, between start and floor", "(loss - floor) / (start - floor)")
    return {"losses": series, "files": [path.name]}


def _normalised(run: Run) -> dict[str, list[float]]:
    """recon, internal and external of each epoch, 1 at the first and 0 at the entropy of the targets."""
    lines = [json.loads(line)["losses"] for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ratings = training_ratings(run.dataset)
    rated = float(entropy(torch.from_numpy(ratings.data)) * ratings.nnz) / (run.dataset.num_users * run.dataset.num_items)
    floors = {"recon": 3 * rated, "external": rated, "internal": _category_floor(run, ratings)}
    found = {}
    for name, floor in floors.items():
        parts = [key for key in lines[0] if key == name or key.startswith(f"{name}_")]
        if parts:
            values = np.array([sum(line[key] for key in parts) for line in lines]) - floor
            found[name] = (values / values[0]).tolist()
    return found


def _category_floor(run: Run, ratings: Any) -> float:
    own = genres(run.dataset)
    users, known = own.of_users(ratings)
    soft = torch.from_numpy(users[known])
    return float(entropy(soft)) * len(soft) / (len(soft) + int(own.known.sum()))


def _losses_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [
        (model, name, len(line), *(f"{line[min(at, len(line)) - 1]:.3f}" for at in (5, 20, 50)), f"{line[-1]:.3f}")
        for model, lines in values["losses"].items()
        for name, line in lines.items()
    ]
    columns = ("model", "loss", "epochs", "epoch 5", "epoch 20", "epoch 50", "last")
    return [plain_table("what is left of each loss, 1 at the first epoch and 0 at the entropy of its targets", columns, rows)]


LOSSES = Extra(_losses, _losses_shown)


# -- Figure 5 -------------------------------------------------------------------------------------------------------------


def _proportions(made: Made) -> Mapping[str, Any]:
    labels = ["2:1:1", "1:2:1", "1:1:2"]
    keys = {"F1@15": "f1@15", "nDCG@15 over all": "ndcg_all@15"}
    values = {title: [100 * made.entry(row.name)[f"test_{key}"]["mean"] for row in made.rows] for title, key in keys.items()}
    path = bars_plot(values, labels, made.figure(), "internal : external : other", "%")
    return {"proportions": {"labels": labels, **values}, "files": [path.name]}


def _proportions_shown(values: Mapping[str, Any]) -> list[Table]:
    found = dict(values["proportions"])
    labels = found.pop("labels")
    rows = [(name, *(f"{value:.2f}" for value in numbers)) for name, numbers in found.items()]
    return [plain_table("internal : external : other, in %", ("", *labels), rows)]


PROPORTIONS = Extra(_proportions, _proportions_shown)


# -- Figures 6 and 7 ------------------------------------------------------------------------------------------------------


def _flat_blocks(made: Made) -> Mapping[str, Any]:
    """Items that have exactly one of the seven most common categories, by each block and by the whole code."""
    run = made.run("sdrl")
    own, spaces = genres(run.dataset), run.inspect()
    common = np.argsort(-own.of_items.sum(axis=0), kind="stable")[:_MAPPED]
    items = np.flatnonzero(own.of_items[:, common].sum(axis=1) == 1)
    group = own.of_items[items][:, common].argmax(axis=1)
    maps = {space: (flat(vectors[items]), group) for space, vectors in spaces.items() if space != "code"}
    title = "items by block, t-SNE, the seven most common categories"
    path = map_plot(maps, made.figure(), title, [own.names[each] for each in common])
    told = {
        space: {"silhouette": silhouette(vectors[items], group), "agreement": agreement(vectors[items], group)}
        for space, vectors in spaces.items()
    }
    return {"told": told, "items": len(items), "files": [path.name]}


def _told_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [(space, f"{one['silhouette']:.3f}", f"{one['agreement']:.3f}") for space, one in values["told"].items()]
    title = f"{values['items']:,} items with one of the seven most common categories: how far each block tells it"
    return [plain_table(title, ("block", "silhouette", "same category among 10 nearest"), rows)]


FLAT_BLOCKS = Extra(_flat_blocks, _told_shown)


def _four_people(made: Made) -> Mapping[str, Any]:
    """Four users' codes as strips, and whether block cosines go with taste and with shared items, over random pairs."""
    run = made.run("sdrl")
    data, ratings = run.dataset, training_ratings(run.dataset)
    spaces = {name: part.cpu().numpy() for name, part in cast(MatrixModel, run.model.module).user_vectors().items()}
    code = spaces.pop("code")
    shown = {raw: data.user_rows[raw] for raw in PEOPLE if raw in data.user_rows}
    sizes = {name: part.shape[1] for name, part in spaces.items()}
    path = strip_plot({f"user {raw}": code[row] for raw, row in shown.items()}, sizes, made.figure(), "codes of four users")
    taste, _ = genres(data).of_users(ratings)
    rng = np.random.default_rng(0)
    first, second = (rng.integers(1, data.num_users + 1, _PAIRS) for _ in range(2))
    apart = first != second
    first, second = first[apart], second[apart]
    truths = {"taste": cosines(taste, first, second), "items shared": jaccard(ratings, first, second)}
    pairs = [(one, two) for at, one in enumerate(shown) for two in list(shown)[at + 1 :]]
    centred = {f"{name}, less the mean": part - part[1:].mean(axis=0) for name, part in spaces.items()}
    return {
        "correlations": rank_correlations({**spaces, **centred}, truths, first, second),
        "pairs": [_pair(one, two, shown, spaces, taste, ratings) for one, two in pairs],
        "files": [path.name],
    }


def _pair(
    one: str, two: str, rows: Mapping[str, int], spaces: Mapping[str, Any], taste: Any, ratings: csr_array
) -> dict[str, Any]:
    first, second = np.array([rows[one]]), np.array([rows[two]])
    found = {name: float(cosines(vectors, first, second)[0]) for name, vectors in spaces.items()}
    shared = float(jaccard(ratings, first, second)[0])
    return {"users": f"{one}, {two}", **found, "taste": float(cosines(taste, first, second)[0]), "items shared": shared}


def _people_shown(values: Mapping[str, Any]) -> Sequence[Table]:
    pairs, found = values["pairs"], values["correlations"]
    truths = list(next(iter(found.values())))
    tables = [
        plain_table(
            f"Spearman's rho of block cosines over {_PAIRS:,} random pairs of users",
            ("block", *truths),
            [(name, *(f"{one[truth]:.3f}" for truth in truths)) for name, one in found.items()],
        )
    ]
    if pairs:
        columns = tuple(pairs[0])
        rows = [(each["users"], *(f"{each[name]:.3f}" for name in columns[1:])) for each in pairs]
        tables.append(
            plain_table("cosines of the four users' blocks and tastes, and the share of items in common", columns, rows)
        )
    return tables


FOUR_PEOPLE = Extra(_four_people, _people_shown)
