"""A two-phase run in small: lazy table, estimator with its own optimiser, dropout, private generator, shared weights.

Run as ``python toy_training.py DIRECTORY``; ``trouble`` makes the process kill or signal itself at a chosen moment.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.training import checkpoint
from braidrec.training.contracts import CheckpointEvery, OptimiserGroup, Phase, Start, Step, StopRule, TrainingResult
from braidrec.training.loop import train

ROWS, DIM = 40, 4


@dataclass(frozen=True)
class ToyBatch:
    ids: Tensor  # (B, 2) int64
    label: Tensor  # (B,) float32

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device | str) -> ToyBatch:
        return ToyBatch(self.ids.to(device), self.label.to(device))


class ToyBatches:
    """Batches of a fixed little data set, cut from a permutation per epoch."""

    def __init__(self, seed: int, samples: int = 90, size: int = 8):
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, ROWS, (samples, 2), generator=generator)
        self.label = ((self.ids.sum(dim=1) % 3) > 0).float()
        self.size, self.seed, self.epoch, self.position = size, seed, 0, 0

    def __len__(self) -> int:
        return -(-len(self.label) // self.size)

    def state(self) -> dict[str, int]:
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position}

    def restore(self, state: Mapping[str, int]) -> None:
        self.seed, self.epoch, self.position = state["seed"], state["epoch"], state["position"]

    def __iter__(self) -> Iterator[ToyBatch]:
        order = torch.randperm(len(self.label), generator=torch.Generator().manual_seed(self.seed * 1009 + self.epoch))
        while self.position < len(self):
            rows = order[self.position * self.size : (self.position + 1) * self.size]
            self.position += 1
            yield ToyBatch(self.ids[rows], self.label[rows])
        self.epoch, self.position = self.epoch + 1, 0


class Toy(nn.Module):
    """Two ids -> logit, with an estimator that predicts one id's vector from the other's.

    hook: called with the module at every training step and at every validation.
    """

    def __init__(self, table: nn.Embedding, seed: int, hook: Callable[[str], None] = lambda event: None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.table = table
            self.score = nn.Sequential(nn.Linear(2 * DIM, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
            self.estimator = nn.Linear(DIM, DIM)
        self._noise = torch.Generator().manual_seed(seed)
        self.hook = hook

    def generators(self) -> Mapping[str, torch.Generator]:
        return {"noise": self._noise}

    def lazy_rows(self, batch: ToyBatch) -> Mapping[str, Tensor]:
        return {"table.weight": batch.ids.unique()} if self.table.sparse else {}

    def forward(self, batch: ToyBatch) -> tuple[Tensor, Tensor]:
        vectors = self.table(batch.ids)
        return self.score(vectors.flatten(1)).squeeze(1), vectors

    def step(self, batch: ToyBatch) -> Step:
        self.hook("step")
        logits, vectors = self(batch)
        noise = 0.01 * torch.randn(vectors[:, 0].shape, generator=self._noise)

        def gap(x: Tensor, y: Tensor) -> Tensor:
            return (self.estimator(x) - y).square().mean()

        return Step(
            losses=lambda: {
                "prediction": F.binary_cross_entropy_with_logits(logits, batch.label),
                "disentangle": -gap(vectors[:, 0] + noise, vectors[:, 1]),
            },
            first={"estimators": lambda: gap(vectors[:, 0].detach(), vectors[:, 1].detach())},
            monitors={"norm": vectors.detach().norm(dim=-1).mean()},
        )

    def validate(self, batches: ToyBatches) -> dict[str, float]:
        self.hook("validate")
        torch.rand(3)  # a validation may draw numbers too
        with torch.no_grad():
            loss = F.binary_cross_entropy_with_logits(self(ToyBatch(batches.ids, batches.label))[0], batches.label)
        return {"auc": 1 - loss.item()}

    def groups(self, lr: float = 0.02) -> list[OptimiserGroup]:
        main = [self.table.weight, *self.score.parameters()]
        return [
            OptimiserGroup("main", main, lr, 1e-5),
            OptimiserGroup("estimators", list(self.estimator.parameters()), 0.01, steps=2),
        ]


WEIGHTS = {"prediction": 1.0, "disentangle": 0.01}


def toy_phases(hook: Callable[[str], None] = lambda event: None, epochs: int = 2, sparse: bool = True) -> list[Phase]:
    """Two phases whose modules share the table."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        table = nn.Embedding(ROWS, DIM, sparse=sparse)
    out = []
    for number, name in enumerate(("pretrain", "tune")):
        module, batches = Toy(table, number, hook), ToyBatches(number + 3)
        out.append(
            Phase(
                name,
                module,
                batches,
                module.groups(),
                WEIGHTS,
                lambda module, batches=batches: module.validate(batches),
                stop=StopRule(max_epochs=epochs, patience=20, checks_per_epoch=3),
                clip_norm=1.0 if number else None,
                starts_from=[Start("pretrain")] if number else [],
            )
        )
    return out


def run_toy(directory: Path, trouble: str = "", epochs: int = 2) -> TrainingResult:
    """trouble: "kill step 17", "term validate 2", "int step 5" or "kill save 3": a signal to oneself at the n-th event.

    "save" is the moment inside the n-th archive (checkpoint or best weights) when its tensors are written, its manifest not.
    """
    torch.set_num_threads(1)
    what, event, number = trouble.split() if trouble else ("", "", "0")
    count = 0

    def hook(happened: str) -> None:
        nonlocal count
        if happened == event:
            count += 1
            if count == int(number):
                os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[what])

    write = checkpoint.write_json

    def write_json(path: Path, value: object) -> None:
        hook("save")
        write(path, value)

    checkpoint.write_json = write_json
    try:
        phases = toy_phases(hook, epochs)
        result = train(phases, directory, seed=5, checkpoint_every=CheckpointEvery(batches=4), show_progress=False)
    finally:
        checkpoint.write_json = write
    (directory / "end.txt").write_text("\n".join(digest(phase.module) for phase in phases))
    return result


def digest(module: nn.Module) -> str:
    """Of the bytes of every weight."""
    content = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content.update(name.encode() + tensor.numpy().tobytes())
    return content.hexdigest()


if __name__ == "__main__":
    run_toy(Path(sys.argv[1]))
