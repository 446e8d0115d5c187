"""RecBole's speed on ML-1M, measured in the peers' own virtual environment; prints one JSON line.

Timed is RecBole's unmodified ``Trainer._train_epoch``: its data loader, forward, backward, loss read-out, NaN check and Adam
step, without any evaluation.  The first batches warm up; the clock then runs for whole batches until the seconds are over.

The set-up is the common one of ``benchmarks/peers.py``.  What RecBole fixes and no setting changes: batch normalisation in the
MLPs of DCN, DCNV2, DIN and DIEN; Dice in the MLP of DIN and DIEN and Sigmoid in their attention; they read every item field of
the whole history and no user field but the id.  DIEN trains with its auxiliary loss, whose negatives are drawn before the clock
starts; FwFM's pair weights are tensors that no optimiser trains; xDeepFM's CIN has a ReLU.

SASRec: RecBole's defaults (cross-entropy over all items, dropout .5, GELU, Adam at 1e-3) but for the length; every event of the
training part but each user's first is one sample, with the 50 items before it.  Also timed is ``Trainer.evaluate`` on the
validation part, NDCG@10 alone; with ``--epoch`` one whole ``_train_epoch``, of all samples, and both nDCG@10 after it.

LightGCN: RecBole's defaults (BPR with one uniform negative, L2 1e-5, Adam at 1e-3) at the sizes given, on the parts that lie
ready; what is timed is the same, with a thousand users to a batch of the ranking, and with ``--epoch`` ten whole epochs and the
nDCG@10 after them.
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
    "train_neg_sample_args": None,  # explicit labels, or all items in the loss: nothing is sampled
    "learner": "adam",
    "learning_rate": 1e-3,
    "use_gpu": False,
    "show_progress": False,
    "checkpoint_dir": "saved",
}
RANKING = {
    "LABEL_FIELD": "label",
    "threshold": {"rating": 4},  # a label of 1 is a rating of at least 4, that is above 3
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": None, "mode": "labeled"},
    "metrics": ["AUC"],
    "valid_metric": "AUC",
    "dropout_prob": 0.0,
}
SEQUENTIAL = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 8,
    "loss_type": "CE",
}
PAIRS = {
    "load_col": {"inter": ["user_id", "item_id"]},
    "benchmark_filename": ["train", "valid", "test"],
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0},
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
    "metrics": ["NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 8,
    "reg_weight": 1e-5,
    "eval_batch_size": 1 << 22,  # in scores: about a thousand users at a time, where the default makes a batch of each user
}
INTERACTION = ["user_id", "item_id", "rating", "timestamp"]
ITEM = ["item_id", "title", "genre"]
FIELDS = {"inter": INTERACTION, "user": ["user_id", "gender", "age", "occupation", "zip"], "item": ITEM}  # DisCo's eight
ONE_ID = RANKING | {"load_col": {"inter": INTERACTION, "item": ITEM}, "pooling_mode": "mean"}
ATTENTION = {"attention_size": 40, "n_layers": 3, "num_heads": 2, "has_residual": True, "dropout_probs": [0.0, 0.0, 0.0]}
CROSS = RANKING | {"load_col": FIELDS, "cross_layer_num": 3, "reg_weight": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepfm": ("DeepFM", RANKING | {"load_col": FIELDS}),
    "dcn": ("DCN", CROSS),
    "dcnv2": ("DCNV2", CROSS | {"structure": "parallel", "mixed": False}),
    "din": ("DIN", ONE_ID),
    "dien": ("DIEN", ONE_ID | {"gru_type": "AUGRU", "alpha": 1.0}),
    "autoint": ("AutoInt", RANKING | {"load_col": FIELDS} | ATTENTION),
    "xdeepfm": ("xDeepFM", RANKING | {"load_col": FIELDS, "direct": True, "cin_layer_size": [100, 100], "reg_weight": 0.0}),
    "pnn": ("PNN", RANKING | {"load_col": FIELDS, "use_inner": True, "use_outer": False, "reg_weight": 0.0}),
    "fm": ("FM", RANKING | {"load_col": FIELDS}),
    "widedeep": ("WideDeep", RANKING | {"load_col": FIELDS}),
    "ffm": ("FFM", RANKING | {"load_col": FIELDS, "embedding_size": 4}),  # of each pair of fields
    "fwfm": ("FwFM", RANKING | {"load_col": FIELDS}),
    "sasrec": ("SASRec", SEQUENTIAL),
    "lightgcn": ("LightGCN", PAIRS),
}
DATA = {"sasrec": "sequences", "lightgcn": "pairs"}
EPOCHS = {"sasrec": 1, "lightgcn": 10}


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
    from scipy.sparse import dok_matrix

    torch.set_num_threads(options.threads)
    name, own = MODELS[options.model]
    sizes: dict[str, Any] = {"train_batch_size": options.batch, "MAX_ITEM_LIST_LENGTH": options.history or 50}
    if options.model == "lightgcn":
        sizes |= {"embedding_size": options.dim, "n_layers": options.layers}
    elif options.model == "sasrec":
        widths = {"hidden_size": options.dim, "inner_size": options.inner}
        sizes |= {"n_layers": options.blocks, "n_heads": options.heads} | widths
    else:
        sizes |= {"embedding_size": options.dim, "mlp_hidden_size": options.mlp}
    dataset = DATA.get(options.model, "ml-1m")
    config = Config(model=name, dataset=dataset, config_dict=COMMON | sizes | own | {"data_path": options.data})
    init_seed(config["seed"], config["reproducibility"])
    if not hasattr(dok_matrix, "_update"):  # which LightGCN fills its adjacency by, once; later versions of scipy hid it
        dok_matrix._update = lambda matrix, entries: matrix._dict.update(entries)
    loader, valid, _ = data_preparation(config, create_dataset(config))
    model = get_model(name)(config, loader.dataset).to(config["device"])
    trainer = Trainer(config, model)
    if options.epoch:
        found = whole_epochs(trainer, loader, valid, EPOCHS[options.model])
    else:
        timed = TimedBatches(loader, options.warm_up, options.seconds)
        trainer._train_epoch(timed, epoch_idx=0)
        found = {"samples_per_second": timed.samples / timed.seconds, "batches": timed.batches, "seconds": timed.seconds}
        if options.model in DATA:
            trainer.eval_collector.data_collect(loader)
            found |= evaluation_speed(trainer, valid, options.seconds)
    return {
        "model": options.model,
        **found,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in ("recbole", "torch", "numpy", "pandas", "scipy")},
    }


def evaluation_speed(trainer: Any, valid: Any, seconds: float) -> dict[str, Any]:
    """Users per second of whole evaluations, as many as the seconds are begun with.

    ``sample_size`` counts users, or the events of sequence models; ``valid.dataset`` has a line for every held-out event.
    """
    users = int(valid.sample_size)
    trainer.evaluate(valid, load_best_model=False)
    begun, passes = time.perf_counter(), 0
    while passes == 0 or time.perf_counter() - begun < seconds:
        trainer.evaluate(valid, load_best_model=False)
        passes += 1
    return {"users_per_second": passes * users / (time.perf_counter() - begun), "users": users}


def whole_epochs(trainer: Any, loader: Any, valid: Any, epochs: int) -> dict[str, Any]:
    """Seconds of so many epochs of training, and nDCG@10 by RecBole's own metric: as it ranks, and, of sequence models, the
    items met before left out.

    For sequence models RecBole's full ranking takes out the padding alone (``FullSortEvalDataLoader`` gives no history).
    """
    import torch

    begun = time.perf_counter()
    for number in range(epochs):
        trainer._train_epoch(loader, epoch_idx=number)
    seconds = time.perf_counter() - begun
    trainer.eval_collector.data_collect(loader)
    plain = trainer.evaluate(valid, load_best_model=False)["ndcg@10"]
    facts = {"epoch_seconds": seconds, "samples": len(loader.dataset), "users": len(valid.dataset), "ndcg@10": float(plain)}
    facts |= {"samples_per_second": epochs * len(loader.dataset) / seconds}
    if epochs > 1:
        return facts
    met = loader.dataset.inter_matrix(form="csr")  # the training part, each user's first event included
    predict = trainer.model.full_sort_predict

    def without_the_met(interaction: Any) -> Any:
        rows, items = met[interaction["user_id"].numpy()].nonzero()
        scores = predict(interaction)
        scores[torch.from_numpy(rows).long(), torch.from_numpy(items).long()] = -torch.inf
        return scores

    trainer.model.full_sort_predict = without_the_met
    unmet = trainer.evaluate(valid, load_best_model=False)["ndcg@10"]
    return {**facts, "ndcg@10_unmet": float(unmet)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=list(MODELS))
    parser.add_argument(
        "--data", required=True, help="folder of the atomic files: ml-1m/, sequences/ for sasrec, pairs/ for lightgcn"
    )
    parser.add_argument("--seconds", type=float, required=True, help="timed seconds, of each thing timed")
    parser.add_argument("--epoch", action="store_true", help="sasrec, lightgcn: time whole epochs in their place")
    parser.add_argument("--warm-up", type=int, default=5, help="batches before the clock starts")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--history", type=int, help="items, for DIN and SASRec")
    parser.add_argument("--layers", type=int, help="LightGCN")
    parser.add_argument("--mlp", type=int, nargs="+", help="ranking models")
    for name in ("blocks", "heads", "inner"):
        parser.add_argument(f"--{name}", type=int, help="SASRec")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line too
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
