"""A DisCo fit in a process of its own, through the command line's entry point, so that it can be killed."""

from __future__ import annotations

import sys
from pathlib import Path

TERMS = ("model.enhance.disentangle_weight=0.01", "model.enhance.sufficiency_weight=0.02")  # both optimisers, and drawn pairs
CHANGES = ("model.dim=8", "model.history.length=6", "training.batch_size=512", "training.checks_per_epoch=2", *TERMS)


def arguments(path: Path, data: Path, knowledge: Path, epochs: int, checkpoint: float) -> list[str]:
    changes = (*CHANGES, f"training.max_epochs={epochs}", f"training.checkpoint_seconds={checkpoint}")
    options = ["--data", str(data), "--knowledge", str(knowledge), "--enhance", "disco", "--out", str(path)]
    return ["fit", *options, *(part for change in changes for part in ("--set", change))]


def fit_disco(path: Path, data: Path, knowledge: Path, epochs: int, checkpoint: float) -> None:
    """The same fit without the command line."""
    from braidrec.config import parse_changes, read_request, resolve
    from braidrec.runs.fit import fit_config
    from braidrec.strict import merge

    given = arguments(path, data, knowledge, epochs, checkpoint)
    changes = parse_changes([each for at, each in enumerate(given) if given[at - 1] == "--set"])
    request = merge({"data": str(data), "knowledge": str(knowledge), "enhance": "disco"}, changes)
    fit_config(resolve(read_request(None, request), "fit"), path, show_progress=False)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    where, data, knowledge, epochs, checkpoint = sys.argv[1:]
    sys.argv = ["braidrec", *arguments(Path(where), Path(data), Path(knowledge), int(epochs), float(checkpoint))]
    from braidrec.cli import main

    main()
