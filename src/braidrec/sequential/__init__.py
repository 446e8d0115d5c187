"""Next-item recommendation: an encoder of item vectors behind any item maps.

This page registers what the room holds; nothing heavy is imported before a name is used.
"""

import math
from typing import Any

from braidrec.registry import LogSize, Metric, Settings, TaskSpec, Values, own_registries
from braidrec.strict import merge

# `authors`: AdamW at 1e-5, as PAD's launcher has it; where its experts are trained together, the method says otherwise.
# The paper names no rate, depth or width.  At the launcher's rate the model sits on a plateau where it knows popularity alone,
# and patience ends it there; `paper` is what reproduces the published SASRec: width 64, two blocks, 1e-3.
_PAD = {"batch_size": 128, "lr": 1e-5, "max_epochs": 400, "decoupled": True, "weight_decay": 0.1, "checks_per_epoch": 1}

# Users, each a sequence, from which `ours` holds as it stands; MovieLens-1M has 6,040 of them and 48 steps in an epoch.
LARGE, STEPS = 2**12, 48


def _counted(settings: Any, data: Any, negatives: int | None) -> LogSize:
    """Events that sequences of training follow, of users with one to name."""
    from braidrec.data.sequences import training_ends

    ends = training_ends(data.followed)
    long = ends[ends >= 2]
    return LogSize(int(long.sum()), len(long))


def _sized(size: LogSize, usual: Settings, own: Settings) -> Settings:
    """Batches, epochs and patience of `ours` by the number of users.

    Few users are cut into batches of the power of two nearest to their square root.  Where an epoch then has fewer steps than
    MovieLens-1M's, epochs and patience, those of single phases too, are as many times longer: a handful of steps without a
    gain says nothing.  Epochs that are asked for leave the patience as it is.
    """
    training = usual.training
    if size.users >= LARGE:
        return Settings()
    nearest = 2 ** round(math.log2(max(size.users, 1)) / 2)
    found = {"batch_size": min(max(nearest, 8), training["batch_size"])}
    longer = STEPS / math.ceil(size.users / own.training.get("batch_size", found["batch_size"])) if size.users else 1.0
    if "max_epochs" in own.training or longer <= 1:
        return Settings(training=found)

    def lasting(values: Values) -> Values:
        return {key: math.ceil(longer * values[key]) for key in ("max_epochs", "patience") if key in values}

    phases = {name: lasting(values) for name, values in training.get("phases", {}).items()}
    return Settings(training=merge(found, lasting(training)) | ({"phases": phases} if any(phases.values()) else {}))


TASK = TaskSpec(
    name="sequential",
    title="the next item",
    where="braidrec.sequential.task:TASK",
    config="braidrec.sequential.config:SequentialConfig",
    metrics=(
        Metric("hr@10", "HR@10", scale=100, relative=True),
        Metric("ndcg@10", "nDCG@10", scale=100, relative=True),
        Metric("mrr@10", "MRR@10", scale=100, relative=True, shown=False),
    ),
    default="sasrec",
    **own_registries(
        "sequential",
        backbones={
            "sasrec": "braidrec.sequential.backbones.sasrec:SPEC",
            "gru4rec": "braidrec.sequential.backbones.gru4rec:SPEC",
            "caser": "braidrec.sequential.backbones.caser:SPEC",
        },
        methods={
            "pad": "braidrec.sequential.methods.pad:SPEC",
            "smem": "braidrec.sequential.methods.pad:SMEM",
            "hybrid": "braidrec.sequential.methods.hybrid:SPEC",
            "morec": "braidrec.sequential.methods.morec:SPEC",
            "ctrl": "braidrec.sequential.methods.ctrl:SPEC",
            "make": "braidrec.sequential.methods.make:SPEC",
            "disco": "braidrec.sequential.methods.disco:SPEC",
        },
        baselines={
            "popularity": "braidrec.sequential.baselines:POPULARITY",
            "item-knn": "braidrec.sequential.baselines:ITEM_KNN",
            "markov": "braidrec.sequential.baselines:MARKOV",
            "ease": "braidrec.sequential.baselines:EASE",
        },
    ),
    model={
        "ours": {"dim": 64, "loss": "full_ce", "trained_softmax": True, "monitor": "ndcg@10", "initial_std": 0.02},
        "paper": {"dim": 64},
        "authors": {},
        "textbook": {"length": 50, "dim": 64, "windows": "all", "monitor": "ndcg@10"},
    },
    training={
        "ours": {**_PAD, "lr": 3e-3, "max_epochs": 30, "patience": 3},
        "paper": {**_PAD, "lr": 1e-3, "max_epochs": 60, "patience": 20},
        "authors": {**_PAD, "patience": 20},
        "textbook": {
            "batch_size": 128,
            "lr": 1e-3,
            "max_epochs": 200,
            "patience": 10,
            "weight_decay": 0.0,
            "checks_per_epoch": 1,
        },
    },
    sized={"ours": _sized},
    counted=_counted,
)
