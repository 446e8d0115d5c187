"""RecBole's training speed on ML-1M, measured in the peers' own virtual environment; prints one JSON line.

Timed is RecBole's unmodified ``Trainer._train_epoch``: its data loader, forward, backward, loss read-out, NaN check and Adam
step, without any evaluation.  The first batches warm up; the clock then runs for whole batches until the seconds are over.

The set-up is the common one of ``benchmarks/peers.py``.  What RecBole fixes and no setting changes: batch normalisation in the
MLPs of DCN, DCNV2 and DIN; Dice in DIN's MLP and Sigmoid in its attention; DIN reads every item field of the whole history and
no user field but the id.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

COMMON: dict[str, Any] = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "LABEL_FIELD": "label",
    "threshold": {"rating": 4},  # a label of 1 is a rating of at least 4, that is above 3
    "train_neg_sample_args": None,  # explicit labels: nothing is sampled
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": None, "mode": "labeled"},
    "metrics": ["AUC"],
    "valid_metric": "AUC",
    "learner": "adam",
    "learning_rate": 1e-3,
    "dropout_prob": 0.0,
    "use_gpu": False,
    "show_progress": False,
    "checkpoint_dir": "saved",
}
INTERACTION = ["user_id", "item_id", "rating", "timestamp"]
ITEM = ["item_id", "title", "genre"]
FIELDS = {"inter": INTERACTION, "user": ["user_id", "gender", "age", "occupation", "zip"], "item": ITEM}  # DisCo's eight
CROSS = {"load_col": FIELDS, "cross_layer_num": 3, "reg_weight": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepfm": ("DeepFM", {"load_col": FIELDS}),
    "dcn": ("DCN", CROSS),
    "dcnv2": ("DCNV2", CROSS | {"structure": "parallel", "mixed": False}),
    "din": ("DIN", {"load_col": {"inter": INTERACTION, "item": ITEM}, "pooling_mode": "mean"}),
}


class TimedBatches:
    """An endless run of a data loader's epochs that ends itself: ``warm_up`` batches, then ``seconds`` on the clock."""

    def __init__(self, loader: Any, warm_up: int, seconds: float) -> None:
        self.loader, self.warm_up, self.limit = loader, warm_up, seconds
        self.batches = self.samples = 0
        self.seconds = 0.0

    def _epochs(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def __iter__(self) -> Iterator[Any]:
        batches = self._epochs()
        for _ in range(self.warm_up):
            yield next(batches)
        start = time.perf_counter()  # reached when the last warm-up batch has been trained on
        while self.seconds < self.limit:
            batch = next(batches)
            yield batch
            self.batches += 1
            self.samples += len(batch)
            self.seconds = time.perf_counter() - start


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build the model on the atomic files in ``options.data`` and time its trainer."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    torch.set_num_threads(options.threads)
    name, own = MODELS[options.model]
    sizes = {
        "train_batch_size": options.batch,
        "embedding_size": options.dim,
        "mlp_hidden_size": options.mlp,
        "MAX_ITEM_LIST_LENGTH": options.history,
    }
    config = Config(model=name, dataset="ml-1m", config_dict=COMMON | sizes | own | {"data_path": options.data})
    init_seed(config["seed"], config["reproducibility"])
    loader, *_ = data_preparation(config, create_dataset(config))
    model = get_model(name)(config, loader.dataset).to(config["device"])
    timed = TimedBatches(loader, options.warm_up, options.seconds)
    Trainer(config, model)._train_epoch(timed, epoch_idx=0)
    return {
        "model": options.model,
        "samples_per_second": timed.samples / timed.seconds,
        "batches": timed.batches,
        "seconds": timed.seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in ("recbole", "torch", "numpy", "pandas", "scipy")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=list(MODELS))
    parser.add_argument("--data", required=True, help="folder that holds ml-1m/ml-1m.inter, .user and .item")
    parser.add_argument("--seconds", type=float, required=True, help="timed seconds")
    parser.add_argument("--warm-up", type=int, default=5, help="batches before the clock starts")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--mlp", type=int, nargs="+", required=True)
    parser.add_argument("--history", type=int, required=True, help="items, for DIN")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line too
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
