"""DaRec's figures from finished cells and from the runs behind them, and its table of data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from braidrec.collaborative.contracts import MatrixModel
from braidrec.collaborative.model import CollaborativeModel
from braidrec.collaborative.scoring import training_graph
from braidrec.data.dataset import Dataset
from braidrec.experiments.experiment import Extra, Made
from braidrec.experiments.material import open_data
from braidrec.insight.block_plots import bars_plot
from braidrec.insight.plots import curve_plot, map_plot, similarity_plot
from braidrec.insight.strands import far_pairs, flat, groups, likeness, nearness, similarity
from braidrec.runs.knowledge import KnowledgeBases
from braidrec.runs.run import Run
from braidrec.runs.tables import plain_table
from braidrec.shown import tell

if TYPE_CHECKING:
    from rich.table import Table

Vectors = NDArray[np.float32]

_COUNTED = ("users", "items", "train", "valid", "test")
_CLUSTERS = 5
_DRAWN = 2_500  # rows of a side on a map, and whose cosines are compared
_SHOWN = 200  # rows of a matrix of similarities
_LEAST, _PAIRS = 6, 200  # hops, and pairs of users
SIDES = {"shared": "behaviour", "text_shared": "text"}


def counts(published: Mapping[str, tuple[int, int, int]], variants: Mapping[str, str]) -> Extra:
    """Table II: users, items and pairs of training in print, and all parts as prepared here."""

    def make(made: Made) -> Mapping[str, Any]:
        name = variants[made.data]
        data = open_data(name, made.shop.prepared[name], tell)
        parts = {part: len(data.split[part]) for part in ("train", "valid", "test")}
        here = {"users": data.num_users, "items": data.num_items, **parts}
        found = {each: {"printed": dict(zip(_COUNTED, numbers, strict=False))} for each, numbers in published.items()}
        found.setdefault(name, {})["here"] = here
        return {"counts": found}

    return Extra(make, _counts_shown)


def _counts_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [
        (data, where, *(numbers.get(name, "") for name in _COUNTED), f"{_density(numbers):.1e}")
        for data, sides in values["counts"].items()
        for where, numbers in sides.items()
    ]
    return [plain_table("data sets; the density is that of training", ("data", "", *_COUNTED, "density"), rows)]


def _density(numbers: Mapping[str, int]) -> float:
    return numbers["train"] / (numbers["users"] * numbers["items"])


def curves(values: Sequence[tuple[str, str]], backbones: Sequence[str], titles: Mapping[str, str], name: str) -> Extra:
    """A metric by a setting, a line for each backbone.  values: (as shown, what the row's name ends with)"""
    labels = [label for label, _ in values]

    def make(made: Made) -> Mapping[str, Any]:
        found = _by_setting(made, values, backbones, titles)
        files = [
            curve_plot(found[key], labels, made.figure(ending), f"{title} by {name}", name, title)
            for key, title, ending in _drawn(made)
        ]
        return {"curves": found, "labels": labels, "setting": name, "files": [path.name for path in files]}

    return Extra(make, _curves_shown)


def left_out(values: Sequence[tuple[str, str]], backbones: Sequence[str], titles: Mapping[str, str]) -> Extra:
    """What leaving out one of several things changes, a bar for each and backbone.  values: likewise, the first with all"""
    labels = [label for label, _ in values]

    def make(made: Made) -> Mapping[str, Any]:
        found = _by_setting(made, values, backbones, titles)
        files = []
        for key, title, ending in _drawn(made):
            change = {one: [100 * (each / whole - 1) for each in rest] for one, (whole, *rest) in found[key].items()}
            path, what = made.figure(ending), f"{title} without one of the terms"
            files.append(bars_plot(change, labels[1:], path, what, "change against all of them, %"))
        return {"curves": found, "labels": labels, "setting": "term left out", "files": [path.name for path in files]}

    return Extra(make, _curves_shown)


def _by_setting(
    made: Made, values: Sequence[tuple[str, str]], backbones: Sequence[str], titles: Mapping[str, str]
) -> dict[str, dict[str, list[float]]]:
    """Metric -> backbone -> the means of its rows, one for each value."""
    return {
        metric.key: {
            titles[one]: [made.entry(f"{one}-darec{ending}")[f"test_{metric.key}"]["mean"] for _, ending in values]
            for one in backbones
        }
        for metric in made.rows[0].metrics
    }


def _drawn(made: Made) -> list[tuple[str, str, str]]:
    """(key, title, how its file ends) of the metrics that have a picture."""
    keys = ("recall@20", "ndcg@20")
    return [(each.key, each.title, f"-{each.key.partition('@')[0]}") for each in made.rows[0].metrics if each.key in keys]


def _curves_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [
        (metric, backbone, *(f"{number:.4f}" for number in numbers))
        for metric, lines in values["curves"].items()
        for backbone, numbers in lines.items()
    ]
    return [plain_table(f"by {values['setting']}", ("metric", "backbone", *values["labels"]), rows)]


# -- what the parts are like ----------------------------------------------------------------------------------------------


def nodes_of(run: Run) -> Mapping[str, Vectors]:
    """(N, D) vectors of users and then items, by the space they are in: "nodes", and what a method makes of them."""
    spaces = cast(MatrixModel, cast(CollaborativeModel, run.model).module).spaces()
    return {name: vectors.cpu().numpy() for name, vectors in spaces.items()}


def _strands(made: Made) -> Mapping[str, Any]:
    spaces = nodes_of(made.run("lightgcn-darec"))
    count = len(spaces["nodes"])
    drawn = np.sort(np.random.default_rng(0).permutation(count)[:_DRAWN])
    own = {name: vectors[drawn] for name, vectors in spaces.items()}
    clusters = {name: groups(vectors, _CLUSTERS) for name, vectors in own.items()}
    alike = [
        {"first": first, "second": second, "likeness": likeness(own[first], own[second])}
        for first, second in (
            ("shared", "text_shared"),
            ("specific", "text_specific"),
            ("shared", "specific"),
            ("text_shared", "text_specific"),
            ("nodes", "text_shared"),
            ("nodes", "text_specific"),
        )
    ]
    maps = {f"shared, {side}": (flat(own[name]), clusters[name][0]) for name, side in SIDES.items()}
    maps |= {
        f"specific, {side}": (flat(own[name.replace("shared", "specific")]), clusters[name][0]) for name, side in SIDES.items()
    }
    order = np.argsort(clusters["shared"][0], kind="stable")
    order = order[np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).astype(np.int64)]
    files = [
        map_plot(maps, made.figure(), "t-SNE of the parts, coloured by clusters of the shared part of the same side"),
        similarity_plot(
            {
                f"{part}, {side}": similarity(own[name.replace("shared", part)][order])
                for part in ("shared", "specific")
                for name, side in SIDES.items()
            },
            made.figure("-cosines"),
            "cosines, rows in the order of the clusters of behaviour's shared part",
        ),
    ]
    silhouettes = {name: strength for name, (_, strength) in clusters.items()}
    return {"nodes": len(drawn), "silhouette": silhouettes, "likeness": alike, "files": [path.name for path in files]}


def _strands_shown(values: Mapping[str, Any]) -> list[Table]:
    alike = [(each["first"], each["second"], f"{each['likeness']:.4f}") for each in values["likeness"]]
    strong = [(name, f"{value:.4f}") for name, value in values["silhouette"].items()]
    return [
        plain_table(f"silhouette of {_CLUSTERS} clusters, {values['nodes']:,} nodes", ("space", "silhouette"), strong),
        plain_table("correlation of the cosines of all pairs of these nodes", ("space", "and", "likeness"), alike),
    ]


# Figure 6: maps of both sides' parts, how clustered they are, and how alike.
STRANDS = Extra(_strands, _strands_shown)


# -- users far apart ------------------------------------------------------------------------------------------------------


def user_text(data: Dataset, items: Vectors) -> Vectors:
    """(U, S) the mean of the text vectors of each user's items of training, less the mean of all."""
    graph = training_graph(data)
    sums = graph.matrix[1:] @ (items - items[1:].mean(axis=0))
    found: Vectors = sums / np.maximum(graph.user_counts[1:, None], 1)
    return found.astype(np.float32)


def _far(made: Made) -> Mapping[str, Any]:
    runs = {row.name: made.run(row.name) for row in made.rows}
    run = runs["simgcl-darec"]
    data, graph = run.dataset, training_graph(run.dataset)
    text = user_text(data, KnowledgeBases.open(run.config.knowledge).matrix(data).astype(np.float32))
    edges = graph.user.astype(np.int64) - 1, graph.item.astype(np.int64) - 1
    far = far_pairs(edges, graph.num_users, graph.num_items, text, least=_LEAST, pairs=_PAIRS)
    found = {}
    for row, each in runs.items():
        cosine, rank = nearness(nodes_of(each)["nodes"][: graph.num_users], far)
        of = np.array([len(others) for others in far.others])
        found[row] = {
            "cosine": float(cosine.mean()),
            "rank": float(np.median(rank)),
            "share": float((rank / of).mean()),
            "cosine_by_pair": cosine.round(6).tolist(),
            "rank_by_pair": rank.tolist(),
        }
    pairs = [
        {"first": data.user_ids[one], "second": data.user_ids[two], "hops": int(hops), "text": round(float(alike), 6)}
        for one, two, hops, alike in zip(far.first, far.second, far.hops, far.likeness, strict=True)
    ]
    return {"pairs": pairs, "far": found, "others": [len(others) for others in far.others]}


def _far_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [(row, f"{each['cosine']:.4f}", f"{each['rank']:g}", f"{each['share']:.4f}") for row, each in values["far"].items()]
    first = values["pairs"][0]
    case = [
        (row, f"{each['cosine_by_pair'][0]:.4f}", f"{each['rank_by_pair'][0]} of {values['others'][0]:,}")
        for row, each in values["far"].items()
    ]
    return [
        plain_table(
            f"{len(values['pairs'])} pairs of users {_LEAST} or more hops apart, each with the one most alike in text",
            ("model", "mean cosine", "median rank", "mean rank / all as far"),
            rows,
        ),
        plain_table(
            f"users {first['first']} and {first['second']}, {first['hops']} hops apart, text cosine {first['text']:.2f}",
            ("model", "cosine", "rank"),
            case,
        ),
    ]


# Figure 8: whether users whom the graph holds apart and text does not are near one another.
FAR = Extra(_far, _far_shown)
