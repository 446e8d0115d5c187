"""The [training] table of a run file: how a model is trained, and what single phases do otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field as Setting

from braidrec.errors import ConfigError
from braidrec.strict import MOST, Strict

Precision = Literal["32-true", "bf16-mixed"]
MACHINE = ("accelerator", "checkpoint_seconds")  # where and how a run is kept alive: other values make it no other run


class PhaseTraining(Strict):
    """What one phase does otherwise than the rest of its run; None is as the run says."""

    batch_size: int | None = Setting(default=None, ge=1, le=MOST)
    lr: float | None = Setting(default=None, gt=0)
    weight_decay: float | None = Setting(default=None, ge=0)
    max_epochs: int | None = Setting(default=None, ge=1, le=MOST)
    min_epochs: int | None = Setting(default=None, ge=0, le=MOST)
    patience: int | None = Setting(default=None, ge=1, le=MOST)
    checks_per_epoch: int | None = Setting(default=None, ge=1, le=10_000)
    epochs_per_check: int | None = Setting(default=None, ge=1, le=MOST)


class TrainingConfig(Strict):
    """How a model is trained; patience counts checks, weight decay is Adam's (L2) unless ``decoupled``."""

    batch_size: int = Setting(default=2048, ge=1, le=MOST)
    lr: float = Setting(default=1e-3, gt=0)
    weight_decay: float = Setting(default=1e-5, ge=0)
    decoupled: bool = False  # AdamW: decay is taken off the weights, not added to the gradient
    max_epochs: int = Setting(default=10, ge=1, le=MOST)
    min_epochs: int = Setting(default=0, ge=0, le=MOST)  # patience ends nothing before them: some models sit on a plateau first
    patience: int = Setting(default=4, ge=1, le=MOST)
    checks_per_epoch: int = Setting(default=2, ge=1, le=10_000)
    epochs_per_check: int | None = Setting(
        default=None, ge=1, le=MOST
    )  # where given, instead: a check at the end of epochs 1, 1 + n, ..
    clip_norm: float | None = Setting(default=None, gt=0)
    average_epochs: float = Setting(default=0.0, ge=0)  # weights kept are a running mean over about so many epochs
    precision: Precision = "32-true"
    accelerator: str = "auto"  # auto: a GPU where there is one; checked where training begins
    tables: Literal["auto", "dense", "lazy", "rowwise"] = "auto"  # auto: dense or lazy, by the measured crossover in table size
    table_lr: float | None = Setting(default=None, gt=0)  # of rowwise tables (Adagrad), whose steps shrink; None: lr
    checkpoint_seconds: float = Setting(default=60.0, gt=0)
    phases: Mapping[str, PhaseTraining] = Setting(default_factory=dict)  # by the phase's name, over the values above

    def without_machine(self) -> Self:
        """The same, with the defaults of what is the machine's."""
        return self.model_copy(update={key: type(self).model_fields[key].default for key in MACHINE})

    def check_dense(self, models: str) -> None:
        """Raises ConfigError for settings of big tables' sparse updates, which ``models`` do not have."""
        if self.tables in ("lazy", "rowwise"):
            raise ConfigError(f"training.tables = '{self.tables}' is for ranking models; {models} train dense tables: drop it")
        if self.table_lr is not None:
            raise ConfigError(
                f"training.table_lr = {self.table_lr} is for ranking models; {models} train dense tables: drop it"
            )

    def of_phase(self, name: str) -> TrainingConfig:
        """What holds in the phase ``name``: its own values over the run's."""
        own = self.phases[name].model_dump(exclude_none=True) if name in self.phases else {}
        return self.model_copy(update={**own, "phases": {}})
