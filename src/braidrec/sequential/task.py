"""The task of naming the next item: training in stages, exact ranking of the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from braidrec import sequential
from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.data.popularity import frequency_buckets, training_counts
from braidrec.data.sequences import SequenceBatches, training_ends, training_events
from braidrec.errors import ConfigError
from braidrec.evaluation.report import MIN_ROWS, Report
from braidrec.evaluation.retrieval import Ranking, RetrievalRows, Scorer, rank_targets
from braidrec.evaluation.retrieval_report import RetrievalMetric, evaluate_retrieval
from braidrec.evaluation.significance import PairedTest, paired_rank_test
from braidrec.evaluation.slices import retrieval_slices
from braidrec.registry import TaskSpec
from braidrec.sequential.build import build_stages, kept_module, make_parts, settings_of
from braidrec.sequential.config import SequentialConfig
from braidrec.sequential.contracts import NextItemModel, StageModule
from braidrec.sequential.model import SequentialModel
from braidrec.sequential.scoring import HistoryScorer, part_rows, validation, yardsticks
from braidrec.task import Model, Outcome, Plan, Saved, Vectors
from braidrec.training.contracts import Validate
from braidrec.training.devices import place_of
from braidrec.training.seeding import own_randomness, seed_everything, spawn
from braidrec.training.stages import AnyStage, Stage, left_to_train

LISTED = 20  # items of each row that are kept beside its rank
TESTED: tuple[RetrievalMetric, ...] = ("ndcg", "hr")


class SequentialTask:
    """A `braidrec.task.Task`."""

    spec: TaskSpec = sequential.TASK

    def reads_text(self, config: RunConfig) -> bool:
        return config.reads_text

    # -- training -----------------------------------------------------------------------------------------------------

    @own_randomness()
    def plan(
        self,
        config: RunConfig,
        data: Dataset,
        text: Vectors | None,
        *,
        people: Vectors | None = None,
        show_progress: bool = True,
    ) -> Plan:
        """Raises ConfigError for settings that do not go together, DataError for data without sequences."""
        settings = settings_of(config)
        if settings.own_negatives and settings.loss != "bce":
            raise ConfigError(
                f"model.own_negatives goes with loss = 'bce', whose negatives are drawn; '{settings.loss}' weighs "
                "every item: drop it"
            )
        config.training.check_dense("sequence models")
        seed_everything(config.seed)
        parts = make_parts(config, data, text)
        stages = build_stages(config, parts)
        module, names = kept_module(stages), [stage.name for stage in stages]
        left = left_to_train(stages, settings.start_from)
        # Weights of one shape are other models under other settings, such as another number of heads; dropout is of training.
        own = {f"model.backbone.{key}": value for key, value in settings.backbone.model_dump().items() if key != "dropout"}
        built = {"backbone": config.backbone, **own}

        def batches(stage: Stage) -> SequenceBatches:
            if stage.train != "train":
                raise ConfigError(
                    f"stage '{stage.name}' trains on the part '{stage.train}'; sequence models train on each user's events "
                    "before the first held-out one, which is the part 'train'"
                )
            return SequenceBatches(
                data,
                config.training.of_phase(stage.name).batch_size,
                length=settings.length,
                windows=settings.windows,
                negatives=settings.negatives if cast(StageModule, stage.module).draws else 0,
                own_negatives=settings.own_negatives,
                seed=spawn(config.seed, "batches", stage.name) % 2**31,
            )

        @cache
        def validate(part: str) -> Validate:
            return validation(part_rows(data, part), settings.length)

        def of_stage(stage: AnyStage) -> Validate:
            return validate(stage.valid)

        def keep() -> SequentialModel:
            module.cpu().eval()
            parameters = sum(weight.numel() for weight in module.parameters())
            cast(NextItemModel, module).export()
            width = 0 if parts.knowledge is None else parts.knowledge.width
            about = {"semantic_width": width, "parameters": parameters}
            return SequentialModel(config, module, parts.counts, parts.bucket, about, data)

        return Plan(
            stages=left,
            batches=batches,
            validate=of_stage,
            monitor=settings.monitor,
            keep=keep,
            names=names,
            taken=settings.start_from,
            reading=[stage.name for stage in stages if stage.reads_text],
            settings={stage.name: {**built, **stage.settings} for stage in stages},
            choices={"start_from": dict(settings.start_from)},
            yardsticks=lambda: yardsticks(self.spec.baselines, data),
        )

    def load(
        self, config: RunConfig, saved: Saved, data: Dataset | None, text: Callable[[], Vectors] | None = None
    ) -> SequentialModel:
        return SequentialModel.load(config, saved, data)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def outcome(self, model: Model, config: RunConfig, data: Dataset, part: str, *, show_progress: bool = True) -> Outcome:
        """Ranks of the part's targets and the best items of each row."""
        rows = part_rows(data, part)
        return _outcome(HistoryScorer(model.module, rows, settings_of(config).length), rows, show_progress)

    def baseline(self, name: str, config: RunConfig | None, data: Dataset, part: str) -> Outcome | None:
        """By the training sequences; raises DataError for a split without them."""
        spec, rows = self.spec.baselines[name], part_rows(data, part)
        user, item = training_events(data.followed.log, training_ends(data.followed))
        scorer = spec.build(spec.config(), rows, user, item)
        return None if scorer is None else _outcome(scorer, rows, show_progress=False)

    def report(
        self, outcome: Outcome, config: RunConfig | None, data: Dataset, part: str, *, min_rows: int | None = None
    ) -> Report:
        """HR, nDCG and MRR among all items, those met before left out, by how often training met the target."""
        settings = SequentialConfig() if config is None else settings_of(config)
        counts = training_counts(data)
        slices = retrieval_slices(outcome.item, counts, frequency_buckets(counts, settings.buckets))
        least = MIN_ROWS if min_rows is None else min_rows
        return evaluate_retrieval(_ranking(outcome), outcome.user, slices, counts, min_rows=least)

    def tests(
        self, first: Sequence[Outcome], second: Sequence[Outcome], config: RunConfig | None, data: Dataset, part: str
    ) -> list[PairedTest]:
        """Of nDCG@10 and HR@10."""
        ranks = [np.stack([_ranking(outcome).reached for outcome in side]) for side in (first, second)]
        return [paired_rank_test(first[0].user, *ranks, metric=metric) for metric in TESTED]

    # -- a look inside ------------------------------------------------------------------------------------------------

    def inspect(self, module: nn.Module, num_items: int) -> Mapping[str, NDArray[np.float32]]:
        """Item vectors by what they are made of.

        "id": the id expert's table; "aligned_id", "aligned_text", "aligned": both sides of a fused map and what they become;
        "text": the text expert; of DisCo-SR its four chunks and "whole".
        """
        module.eval()
        with torch.no_grad():
            spaces = cast(StageModule, module).spaces(torch.arange(num_items + 1, device=place_of(module)))
        return {name: part.cpu().numpy() for name, part in spaces.items()}


def _outcome(scorer: Scorer, rows: RetrievalRows, show_progress: bool) -> Outcome:
    found = rank_targets(scorer, rows, top=LISTED, show_progress=show_progress)
    return Outcome(rows.user, rows.item, {"rank": found.rank, "top": found.top, "masked": found.masked})


def _ranking(outcome: Outcome) -> Ranking:
    return Ranking.single(*(outcome.values[name] for name in ("rank", "top", "masked")))


TASK = SequentialTask()
