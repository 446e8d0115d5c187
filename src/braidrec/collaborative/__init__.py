"""What goes with what somebody has: sparse users and items, models solved at once and models that train, many targets a user.

This page registers what the room holds; nothing heavy is imported before a name is used.
"""

import math
from typing import Any

from braidrec.registry import LogSize, Metric, Settings, TaskSpec, own_registries

_PRESETS = ("ours", "paper", "authors", "textbook")

# RLMRec's public trainer: checks after epochs 1, 4, 7, .., five without a gain end it; L2 is among the losses.
_AUTHORS = {"batch_size": 4096, "lr": 1e-3, "weight_decay": 0.0, "max_epochs": 3000, "patience": 5, "epochs_per_check": 3}

# Steps that an epoch of `ours` has at least, by smaller batches where a log is small: a gain between checks then says something
STEPS, LEAST = 16, 64


def _counted(settings: Any, data: Any, negatives: int | None) -> LogSize:
    """Pairs that the graph of training has: what is no positive, and what is met again, makes none."""
    from braidrec.collaborative.scoring import training_graph

    graph = training_graph(data)
    return LogSize(len(graph), int((graph.user_counts > 0).sum()))


def _sized(size: LogSize, usual: Settings, own: Settings) -> Settings:
    """Batches of `ours` by the number of pairs."""
    fitting = 2 ** int(math.log2(max(size.samples / STEPS, LEAST)))
    return Settings(training={"batch_size": fitting} if fitting < usual.training["batch_size"] else {})


TASK = TaskSpec(
    name="collaborative",
    title="what goes with what somebody has",
    where="braidrec.collaborative.task:TASK",
    config="braidrec.collaborative.config:CollaborativeConfig",
    metrics=(
        Metric("recall@20", "Recall@20", relative=True),
        Metric("ndcg@20", "nDCG@20", relative=True),
        Metric("recall@10", "Recall@10", relative=True, shown=False),
        Metric("ndcg@10", "nDCG@10", relative=True, shown=False),
        Metric("recall@5", "Recall@5", relative=True, shown=False),
        Metric("ndcg@5", "nDCG@5", relative=True, shown=False),
    ),
    default="ease",
    **own_registries(
        "collaborative",
        backbones={
            "mf": "braidrec.collaborative.backbones.mf:SPEC",
            "gccf": "braidrec.collaborative.backbones.gccf:SPEC",
            "lightgcn": "braidrec.collaborative.backbones.lightgcn:SPEC",
            "sgl": "braidrec.collaborative.backbones.sgl:SPEC",
            "simgcl": "braidrec.collaborative.backbones.simgcl:SPEC",
            "dccf": "braidrec.collaborative.backbones.dccf:SPEC",
            "autocf": "braidrec.collaborative.backbones.autocf:SPEC",
        },
        methods={
            "darec": "braidrec.collaborative.methods.darec:SPEC",
            "rlmrec-con": "braidrec.collaborative.methods.rlmrec:SPEC",
            "rlmrec-gen": "braidrec.collaborative.methods.rlmrec:GEN",
            "kar": "braidrec.collaborative.methods.kar:SPEC",
        },
        models={
            "ease": "braidrec.collaborative.models.ease:SPEC",
            "ials": "braidrec.collaborative.models.ials:SPEC",
            "gf-cf": "braidrec.collaborative.models.graph_filter:SPEC",
            "graph-filter": "braidrec.collaborative.models.graph_filter:GRAPH_FILTER",
            "turbo-cf": "braidrec.collaborative.models.turbo_cf:SPEC",
            "item-knn": "braidrec.collaborative.models.item_knn:SPEC",
            "text-knn": "braidrec.collaborative.models.text_knn:SPEC",
            "netmf": "braidrec.collaborative.models.netmf:SPEC",
            "prone": "braidrec.collaborative.models.prone:SPEC",
            "vaecf": "braidrec.collaborative.models.vaecf:SPEC",
            "macridvae": "braidrec.collaborative.models.macridvae:SPEC",
            "popularity": "braidrec.collaborative.models.popularity:SPEC",
            "sdrl": "braidrec.collaborative.models.sdrl:SPEC",
        },
        baselines={
            "popularity": "braidrec.collaborative.baselines:POPULARITY",
            "item-knn": "braidrec.collaborative.baselines:ITEM_KNN",
            "ease": "braidrec.collaborative.baselines:EASE",
        },
    ),
    model={preset: {} for preset in _PRESETS},
    training={"ours": _AUTHORS, "paper": _AUTHORS, "authors": _AUTHORS, "textbook": {**_AUTHORS, "batch_size": 2048}},
    presets=_PRESETS,
    open_backbone=True,
    sized={"ours": _sized},
    counted=_counted,
    of_positives=True,
    reads_people=True,
)
