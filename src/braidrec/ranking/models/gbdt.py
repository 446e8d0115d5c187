"""Gradient boosting on time-causal rates (LightGBM; Ke et al., NeurIPS 2017): no embeddings, no history, minutes on one core.

    log-odds = sum of trees over [rates, numeric fields, single-valued fields of few values]

Rates (`braidrec.data.rates`) carry what a user and an item did before; those whose sign is known (a better mean or residual
never lowers a score) are monotone.  No counts, which drift across a cut by time.  Boosting stops by validation.  The trees are
kept as LightGBM's own text, in a tensor of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.config import RunConfig
from braidrec.data.batches import RankingBatch
from braidrec.errors import ConfigError, RunError
from braidrec.ranking.config import settings_of
from braidrec.ranking.contracts import Material, RankingModel
from braidrec.ranking.parts import BackboneConfig
from braidrec.registry import Spec
from braidrec.strict import LONGEST, MOST
from braidrec.training.step import Step

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset


_METRICS = {"auc": "auc", "log_loss": "binary_logloss"}  # monitor -> LightGBM's name for it


class GBDTConfig(BackboneConfig):
    """Sizes of the trees; boosting ends after ``patience`` trees without a gain on validation."""

    leaves: int = Setting(default=63, ge=2, le=LONGEST)
    lr: float = Setting(default=0.05, gt=0)
    trees: int = Setting(default=2000, ge=1, le=LONGEST)
    patience: int = Setting(default=50, ge=1, le=LONGEST)
    leaf_rows: int = Setting(default=100, ge=1, le=MOST)  # at least, and no more than a hundredth of the training rows
    l2: float = Setting(default=1.0, ge=0)
    monotone: bool = True
    values: int = Setting(default=64, ge=0, le=LONGEST)  # fields of more values than these stay out, such as ids

    @property
    def reads_history(self) -> bool:
        return False

    @property
    def reads_rates(self) -> bool:
        return True


class GBDT(nn.Module, RankingModel):
    """Logits (B,) of a RankingBatch.

    trees (n,) uint8: text    columns (C, 3) int64: of each field that takes part its place, rows before it, and values
    Raises ConfigError where LightGBM is not installed.
    """

    trees: Tensor
    columns: Tensor

    def __init__(self, config: RunConfig, material: Material):
        super().__init__()
        _lightgbm()
        self.config = cast(GBDTConfig, settings_of(config).backbone)
        self._seed, self._data = material.seed, material.data
        self._monitor = settings_of(config).monitor
        self.register_buffer("trees", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("columns", torch.zeros(0, 3, dtype=torch.int64))
        self._read: tuple[Tensor, Any] | None = None

    def forward(self, batch: RankingBatch) -> Tensor:
        logits = self.booster.predict(self._matrix(batch, self.columns), raw_score=True, num_threads=torch.get_num_threads())
        return torch.from_numpy(logits.astype(np.float32)).to(batch.item.device)

    def step(self, batch: RankingBatch) -> Step:
        raise RunError("gbdt is fitted at once, so it takes no training steps")

    def fitted(
        self,
        train: Callable[[], Iterable[RankingBatch]],
        valid: Callable[[], Iterable[RankingBatch]],
        say: Callable[[str], None],
    ) -> Callable[[], Mapping[str, Tensor]]:
        """Raises ConfigError for a monitor that LightGBM does not work out."""
        data = self._data
        assert data is not None, "a model is fitted on the data set that it was built for"
        if self._monitor not in _METRICS:
            raise ConfigError(
                f"model.monitor = '{self._monitor}': 'gbdt' ends boosting by {' or '.join(_METRICS)} of validation; "
                "choose either"
            )

        def fit() -> Mapping[str, Tensor]:
            lightgbm, columns = _lightgbm(), self._columns(data)
            names, signs = self._names(data, columns)
            sets: list[Any] = []
            for batches in (train, valid):
                matrix, label, weight = self._samples(batches(), columns)
                sets.append(
                    lightgbm.Dataset(
                        matrix,
                        label,
                        weight=weight,
                        feature_name=names,
                        categorical_feature=list(range(len(columns))),
                        reference=sets[0] if sets else None,
                        params={"verbosity": -1},
                    )
                )
            rows = len(sets[0].get_label())
            found = lightgbm.train(
                self._lightgbm_settings(rows, signs),
                sets[0],
                self.config.trees,
                valid_sets=[sets[1]],
                callbacks=[lightgbm.early_stopping(self.config.patience, verbose=False)],
            )
            text = found.model_to_string(num_iteration=found.best_iteration)
            kept = {"trees": torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy()), "columns": columns}
            shares = sorted(_importances(found).items(), key=lambda each: -each[1])
            most = ", ".join(f"{name} {share:.0%}" for name, share in shares[:6])
            say(f"gbdt: {found.best_iteration} trees; share of the gain: {most}")
            return kept

        return fit

    def facts(self) -> Mapping[str, Any]:
        """importances: feature name -> share of the gain of all splits."""
        return {"importances": _importances(self.booster)}

    @property
    def booster(self) -> Any:
        """The trees, read once.  Raises RunError for bytes that are none."""
        if self._read is None or self._read[0] is not self.trees:
            lightgbm, text = _lightgbm(), bytes(self.trees.cpu().numpy())
            try:
                self._read = (self.trees, lightgbm.Booster(model_str=text.decode()))
            except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as cause:
                raise RunError(f"the trees of this gbdt cannot be read ({cause}); train it again") from cause
        return self._read[1]

    def _lightgbm_settings(self, rows: int, signs: list[int]) -> dict[str, Any]:
        config = self.config
        return {
            "objective": "binary",
            "metric": _METRICS[self._monitor],
            "num_leaves": config.leaves,
            "learning_rate": config.lr,
            "min_data_in_leaf": max(1, min(config.leaf_rows, rows // 100)),
            "lambda_l2": config.l2,
            **({"monotone_constraints": signs} if config.monotone else {}),
            "seed": self._seed % 2**31,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": torch.get_num_threads(),
            "verbosity": -1,
        }

    def _columns(self, data: Dataset) -> Tensor:
        fields = data.features.single
        found = [(at, each.offset, each.known) for at, each in enumerate(fields) if 1 < each.known <= self.config.values]
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)

    def _names(self, data: Dataset, columns: Tensor) -> tuple[list[str], list[int]]:
        """Of the columns of the matrix, and which way a score goes with each: 1 up, 0 unknown."""
        assert data.rates is not None
        fields = [data.features.single[at].name for at in columns[:, 0].tolist()]
        groups = [(name, width) for name, width in data.number_groups if name != "rates"]
        numbers = [name if width == 1 else f"{name} {at}" for name, width in groups for at in range(width)]
        rates = data.rates.scale.names
        names = [*fields, *numbers, *rates]
        signs = [0] * (len(fields) + len(numbers)) + [0 if name.endswith("from usual") else 1 for name in rates]
        plain = ["".join(mark if mark.isalnum() else "_" for mark in name) for name in names]
        return [name if plain.count(name) == 1 else f"{name}_{at}" for at, name in enumerate(plain)], signs

    def _samples(
        self, batches: Iterable[RankingBatch], columns: Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
        parts = [(self._matrix(batch, columns), batch.label.numpy(), batch.weight) for batch in batches]
        weights = [weight.numpy() for _, _, weight in parts if weight is not None]
        matrix, label = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
        return matrix, label, np.concatenate(weights) if weights else None

    @staticmethod
    def _matrix(batch: RankingBatch, columns: Tensor) -> NDArray[np.float32]:
        """(B, C + N): values of the fields from 0 on, missing where a value is unknown, then the numbers."""
        place, before, known = columns.to(batch.fields.device).unbind(1)
        values = batch.fields[:, place].long() - before - 1
        values = torch.where((values >= 0) & (values < known), values.float(), torch.nan)
        found: NDArray[np.float32] = torch.cat([values, batch.numbers], dim=1).cpu().numpy()
        return found


def _importances(booster: Any) -> dict[str, float]:
    gain = booster.feature_importance("gain")
    return dict(zip(booster.feature_name(), (gain / max(gain.sum(), 1e-12)).tolist(), strict=True))


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise ConfigError(
            "backbone 'gbdt' needs LightGBM 4.7 or later, which is not installed: pip install 'braidrec[trees]'"
        ) from None
    return lightgbm


SPEC = Spec(
    "gbdt", "GBDT", GBDTConfig, GBDT, fitted=True, unread=("dim", "initial", "unknown_rate", "statistics", "rates", "history")
)
