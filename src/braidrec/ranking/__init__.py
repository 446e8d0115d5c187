"""Click-through-rate ranking: a backbone behind any pattern sources.

This page registers what the room holds; nothing heavy is imported before a name is used.
"""

import math
from typing import Any

from braidrec.registry import LogSize, Metric, Settings, TaskSpec, own_registries
from braidrec.strict import merge

# Training rows from which `ours` has no need of smaller batches: the power of two nearest to their square root is its 1,024,
# and its two epochs are 1,024 steps.  It was measured on MovieLens-1M, 776,007 rows.
LARGE = 2**19
# Rows a user, from which samples come in runs, and what validation of MovieLens-1M (144 rows a user) prefers for DIN in runs
LONG, RUN = 64, 128
IN_RUNS = {"batch_size": 512, "lr": 2e-3, "max_epochs": 6}
# Of a backbone, what normalises by a batch, whose rows runs make alike: BatchNorm, and Dice in DIN's and DIEN's activation unit
_OF_BATCH = {("norm", "bn"), ("variant", "paper"), ("attention", "mlp")}


def _counted(settings: Any, data: Any, negatives: int | None) -> LogSize:
    """Rows of the parts that a ranker trains on, and what is drawn beside them."""
    per_positive = negatives or data.settings.negatives or 0
    rows = data.split[settings.rows]
    return LogSize(len(rows) * (1 + per_positive), len(set(data.log.user[rows].tolist())), per_positive > 0)


def _sized(size: LogSize, usual: Settings, own: Settings) -> Settings:
    """How samples come, batches, rate and epochs of `ours` by the number of training rows, and of those of a user.

    A small log is cut into batches of the power of two nearest to the square root of its rows, so an epoch has about as many
    steps as a batch has rows.  It may take ten epochs; patience ends them, two after the last gain.
    """
    if size.samples < LARGE:
        nearest = 2 ** round(math.log2(max(size.samples, 1)) / 2)
        return Settings(training={"batch_size": min(max(nearest, 8), usual.training["batch_size"]), "max_epochs": 10})
    history = own.model.get("history", {})
    backbone = merge(usual.model, own.model).get("backbone", {})
    by_batch = any(backbone.get(key) == value for key, value in _OF_BATCH)
    if "kind" in history or history.get("run", RUN) == 1 or by_batch or size.drawn or size.samples < LONG * size.users:
        return Settings()
    return Settings({"history": {"run": RUN}}, IN_RUNS)


TASK = TaskSpec(
    name="ranking",
    title="what was clicked above what was not",
    where="braidrec.ranking.task:TASK",
    config="braidrec.ranking.config:RankingConfig",
    metrics=(Metric("auc", "AUC"), Metric("log_loss", "log loss", mode="min")),
    default="din",
    takes_negatives=True,
    **own_registries(
        "ranking",
        backbones={
            "deepfm": "braidrec.ranking.backbones.deepfm:SPEC",
            "dcn": "braidrec.ranking.backbones.dcn:SPEC",
            "dien": "braidrec.ranking.backbones.dien:SPEC",
            "din": "braidrec.ranking.backbones.din:SPEC",
            "lr": "braidrec.ranking.backbones.lr:SPEC",
            "sdim": "braidrec.ranking.backbones.sdim:SPEC",
            "pnn": "braidrec.ranking.backbones.pnn:SPEC",
            "xdeepfm": "braidrec.ranking.backbones.xdeepfm:SPEC",
            "autoint": "braidrec.ranking.backbones.autoint:SPEC",
            "fm": "braidrec.ranking.backbones.fm:SPEC",
            "ffm": "braidrec.ranking.backbones.ffm:SPEC",
            "fwfm": "braidrec.ranking.backbones.fwfm:SPEC",
            "widedeep": "braidrec.ranking.backbones.widedeep:SPEC",
            "finalmlp": "braidrec.ranking.backbones.finalmlp:SPEC",
        },
        methods={
            "disco": "braidrec.ranking.methods.disco:SPEC",
            "edk": "braidrec.ranking.methods.edk:SPEC",
        },
        models={
            "gbdt": "braidrec.ranking.models.gbdt:SPEC",
        },
        baselines={
            "popularity": "braidrec.ranking.baselines:POPULARITY",
            "item-mean": "braidrec.ranking.baselines:ITEM_MEAN",
            "item-mean-user-residual": "braidrec.ranking.baselines:USER_RESIDUAL",
        },
    ),
    model={
        "ours": {},
        "paper": {},
        "authors": {"history": {"kind": "semantic_topk"}},
        "textbook": {"initial": "normal", "history": {"mean": False}},
    },
    # `ours`: two epochs, since in single samples at this rate models of this kind overfit after one or two, and a running
    # mean of the weights.
    # `paper` and `authors` follow the spec (batch 256, patience 10 epochs, at most 50).
    training={
        "ours": {"batch_size": 1024, "lr": 7e-4, "average_epochs": 0.8, "max_epochs": 2},
        "paper": {"batch_size": 256, "lr": 5e-4, "max_epochs": 50, "patience": 10, "checks_per_epoch": 1},
        "authors": {"batch_size": 256, "lr": 1e-4, "max_epochs": 50, "patience": 10, "checks_per_epoch": 1},
        "textbook": {"batch_size": 2048, "weight_decay": 0.0},
    },
    sized={"ours": _sized},
    counted=_counted,
)
