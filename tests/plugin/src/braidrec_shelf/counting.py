"""Counting, a task of its own: what is met most is recommended, less what somebody has met.

It shows all that a task has to give (`braidrec.task.Task`) with a model that is fitted at once, without an optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.config import ModelConfig, RunConfig
from braidrec.data.dataset import Dataset
from braidrec.data.popularity import training_counts
from braidrec.errors import RunError
from braidrec.evaluation.report import MIN_ROWS, Report
from braidrec.evaluation.retrieval import RetrievalRows, rank_targets
from braidrec.evaluation.retrieval_report import evaluate_retrieval, gains
from braidrec.evaluation.significance import PairedTest, paired_rank_test
from braidrec.evaluation.slices import retrieval_slices
from braidrec.registry import Metric, Spec, TaskSpec, own_registries
from braidrec.strict import Strict
from braidrec.task import Added, Described, Floats, Outcome, Plan, Rows, Saved
from braidrec.training.contracts import Batches, Validate
from braidrec.training.stages import AnyStage, Fitted, Stage


class CountsConfig(Strict):
    power: float = Setting(default=1.0, gt=0)  # of the counts


class CountingConfig(ModelConfig):
    backbone: CountsConfig = CountsConfig()


COUNTS = Spec("counts", "Counts", CountsConfig, CountsConfig, presets={"ours": {}}, fitted=True)

TASK = TaskSpec(
    name="counting",
    title="what is met most",
    where="braidrec_shelf.counting:ROOM",
    config="braidrec_shelf.counting:CountingConfig",
    metrics=(Metric("hr@10", "HR@10", scale=100, relative=True),),
    default="counts",
    **own_registries("counting", models={"counts": "braidrec_shelf.counting:COUNTS"}),
    model={},
    training={},
)


class Counter(nn.Module):
    """scores (I + 1,) float32, a buffer that fitting fills."""

    scores: Tensor


@dataclass(frozen=True)
class Counted:
    """The model of a run; a past is the catalogue rows that somebody met."""

    module: Counter
    data: Dataset | None
    probabilities: bool = False
    reads_text: bool = False

    def saved(self) -> Saved:
        return Saved({"scores": self.module.scores})

    def past(self, user: int | None, items: Rows | None = None, fields: Described | None = None) -> Rows:
        if fields is not None:
            raise RunError("what is met most is the same for everybody, so nobody need be described")
        more = np.zeros(0, np.int32) if items is None else items
        if user is None:
            return more
        if self.data is None:
            raise RunError("what a known user met is in the log, which is not here")
        log = self.data.log
        return np.concatenate([log.slot_item[int(log.start[user]) : int(log.start[user + 1])], more])

    def seen(self, past: Rows) -> Rows:
        return past

    def scores(self, pasts: Sequence[Rows], rows: Rows) -> Floats:
        return self.module.scores.cpu().numpy()[rows][None].repeat(len(pasts), axis=0)

    def with_items(self, added: Added) -> Counted:
        grown = Counter()
        grown.register_buffer("scores", torch.cat([self.module.scores, torch.zeros(len(added))]))
        return Counted(grown, self.data)

    def notes(self, *, new_user: bool, added: int) -> list[str]:
        return []

    def facts(self) -> Mapping[str, Any]:
        return {}


class Room:
    """Everything a run asks of the task."""

    spec = TASK

    def reads_text(self, config: RunConfig) -> bool:
        return False

    def plan(
        self,
        config: RunConfig,
        data: Dataset,
        text: Floats | None,
        *,
        people: Floats | None = None,
        show_progress: bool = True,
    ) -> Plan:
        model = config.model
        assert isinstance(model, CountingConfig)
        module, power = Counter(), model.backbone.power

        def fit() -> Mapping[str, Tensor]:
            return {"scores": torch.from_numpy(training_counts(data)).float() ** power}

        def batches(stage: Stage) -> Batches:
            raise AssertionError("a fitted stage asks for no batches")

        def validate(stage: AnyStage) -> Validate:
            return lambda trained: {"hr@10": float(gains(self._ranks(trained, data, stage.valid), "hr", 10).mean())}

        stage = Fitted("count", module, fit)
        return Plan([stage], batches, validate, "hr@10", lambda: Counted(module, data), ("count",))

    def load(self, config: RunConfig, saved: Saved, data: Dataset | None, text: Callable[[], Floats] | None = None) -> Counted:
        module = Counter()
        module.register_buffer("scores", saved.tensors["scores"])
        return Counted(module, data)

    def outcome(self, model: Counted, config: RunConfig, data: Dataset, part: str, *, show_progress: bool = True) -> Outcome:
        rows = RetrievalRows.of(data.log, data.split[part], data.num_items)
        return Outcome(rows.user, rows.item, {"rank": self._ranks(model.module, data, part)})

    def baseline(self, name: str, config: RunConfig | None, data: Dataset, part: str) -> Outcome | None:
        return None

    def report(
        self, outcome: Outcome, config: RunConfig | None, data: Dataset, part: str, *, min_rows: int | None = None
    ) -> Report:
        from braidrec.evaluation.retrieval import Ranking

        counts, rank = training_counts(data), outcome.values["rank"]
        ranking = Ranking.single(rank, np.zeros((len(rank), 0), np.int32), np.zeros(len(rank), bool))
        slices = retrieval_slices(outcome.item, counts)
        return evaluate_retrieval(ranking, outcome.user, slices, counts, min_rows=MIN_ROWS if min_rows is None else min_rows)

    def tests(
        self, first: Sequence[Outcome], second: Sequence[Outcome], config: RunConfig | None, data: Dataset, part: str
    ) -> list[PairedTest]:
        ranks = [np.stack([outcome.values["rank"] for outcome in side]) for side in (first, second)]
        return [paired_rank_test(first[0].user, *ranks, metric="hr", resamples=200)]

    def inspect(self, module: nn.Module, num_items: int) -> Mapping[str, NDArray[np.float32]]:
        return {}

    def _ranks(self, module: nn.Module, data: Dataset, part: str) -> NDArray[np.int64]:
        rows = RetrievalRows.of(data.log, data.split[part], data.num_items)
        scores = module.get_buffer("scores")[: data.num_items + 1].cpu()  # items added later are nobody's target

        class Scorer:
            def scores(self, at: NDArray[np.int64]) -> Tensor:
                return scores.repeat(len(at), 1)

        return rank_targets(Scorer(), rows, top=0).rank


ROOM = Room()
