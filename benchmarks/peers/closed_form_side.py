"""braidrec's side of ``benchmarks/peers.py --closed-form``; prints one JSON line of CPU and wall seconds.

EASE beside its own three steps in bare torch (dense X^T X, Cholesky, inverse), iALS at given factors and sweeps, and the best
20 items of every user by both, what they have left out, by the path that ``recommend --all-users`` takes.  The training matrix
is left where the other side reads it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from braidrec.collaborative.model import CollaborativeModel
from braidrec.collaborative.models.ials import IALSConfig, fit_factors
from braidrec.collaborative.scoring import training_graph
from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.evaluation.closed_form import ease
from braidrec.memory import keep_freed_pages
from braidrec.registry import TASKS
from braidrec.runs.retrieval import best_items
from braidrec.training.stages import Fitted, put_fitted


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def bare_ease(dense: torch.Tensor, penalty: float) -> torch.Tensor:
    gram = dense.T @ dense
    gram.diagonal().add_(penalty)
    precision = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = precision / -precision.diagonal()
    weights.diagonal().zero_()
    return weights


def fitted(data: Dataset, backbone: str, **values: Any) -> CollaborativeModel:
    request = RunRequest(data=str(data.path), task="collaborative", backbone=backbone, model={"backbone": values})
    plan = TASKS["collaborative"].room().plan(resolve(request, "benchmark"), data, None, show_progress=False)
    [stage] = plan.stages
    assert isinstance(stage, Fitted)
    put_fitted(stage.module, stage.fit())
    found: CollaborativeModel = plan.keep()
    return found


def recommend_all(model: CollaborativeModel, data: Dataset) -> int:
    candidates = np.arange(1, data.num_items + 1, dtype=np.int32)
    pasts = best_items(
        model, lambda first, last: [model.past(row) for row in range(first + 1, last + 1)], data.num_users, candidates, 20
    )
    return sum(len(rows) for rows, _ in pasts)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--matrix", type=Path, required=True, help="where the training matrix goes (.npz)")
    parser.add_argument("--factors", type=int, default=100)
    parser.add_argument("--sweeps", type=int, default=15)
    parser.add_argument("--penalty", type=float, default=300.0)
    options = parser.parse_args()
    keep_freed_pages()
    data = Dataset.open(options.prepared)
    matrix = training_graph(data).matrix
    np.savez(options.matrix, indptr=matrix.indptr, indices=matrix.indices, shape=matrix.shape)
    dense = torch.from_numpy(matrix.toarray())
    bare, of_bare = timed(lambda: bare_ease(dense, options.penalty))
    ours, of_ours = timed(lambda: ease(matrix, options.penalty))
    apart = float((bare - ours).abs().max())
    torch.manual_seed(0)
    config = IALSConfig(factors=options.factors, sweeps=options.sweeps)
    _, of_ials = timed(lambda: fit_factors(matrix, config))
    report: dict[str, Any] = {"ease_bare_torch": of_bare, "ease": of_ours, "ease_apart": apart, "ials": of_ials}
    for name, values in (("ease", {"penalty": options.penalty}), ("ials", {"factors": options.factors, "sweeps": 1})):
        model = fitted(data, name, **values)
        count, spent = timed(lambda model=model: recommend_all(model, data))
        report[f"recommend_{name}"] = {**spent, "users": data.num_users, "rows": count}
    print(json.dumps({"shape": list(matrix.shape), "pairs": int(matrix.nnz), "threads": torch.get_num_threads(), **report}))


if __name__ == "__main__":
    main()
