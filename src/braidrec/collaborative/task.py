"""The task of what goes with what somebody has: models fitted at once or trained, exact ranking of all held-out items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec import collaborative
from braidrec.collaborative.config import CollaborativeConfig
from braidrec.collaborative.contracts import Labels, MatrixModel, MatrixTrainer, Parts, kept_module
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.graph_model import node_stages
from braidrec.collaborative.labels import categories_of
from braidrec.collaborative.model import ADDED, COUNTS, CollaborativeModel
from braidrec.collaborative.scoring import (
    Held,
    RowsScorer,
    part_rows,
    training_graph,
    training_positions,
    user_slices,
    validation,
    yardsticks,
)
from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError
from braidrec.evaluation.report import MIN_ROWS, Report
from braidrec.evaluation.retrieval import Ranking, Scorer, rank_targets
from braidrec.evaluation.retrieval_report import MANY_TARGETS, RetrievalMetric, evaluate_retrieval, row_gains
from braidrec.evaluation.significance import PairedTest, paired_gain_test
from braidrec.layers.text import TextTable
from braidrec.registry import TaskSpec
from braidrec.task import Model, Outcome, Plan, Saved, Vectors
from braidrec.training.contracts import Batches, Validate
from braidrec.training.devices import device_of
from braidrec.training.seeding import own_randomness, seed_everything, spawn
from braidrec.training.stages import AnyStage, Fitted, Stage, put_fitted

LISTED = 20  # items of each row that are kept beside the ranks
TESTED = ("recall@20", "ndcg@20")


class CollaborativeTask:
    """A `braidrec.task.Task`."""

    spec: TaskSpec = collaborative.TASK

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
        """Raises DataError for data without a positive, ConfigError for a text vector that is no number and for settings of
        tables that these models do not have.
        """
        config.training.check_dense("models of pairs")
        seed_everything(config.seed)
        graph, table = training_graph(data), None
        if text is not None:
            _check_finite(data, text)
            table = TextTable(torch.as_tensor(text))
        counts, monitor = torch.from_numpy(graph.item_counts), cast(CollaborativeConfig, config.model).monitor

        def judge(judged: nn.Module, known: Graph) -> float:
            return validation(Held(part_rows(data, "valid").rows, known), counts)(judged)[monitor]

        parts = Parts(
            data.num_items,
            graph,
            table,
            device_of(config.training.accelerator),
            judge,
            num_users=data.num_users,
            seed=config.seed,
            labels=_labels(data),
            text_width=0 if table is None else table.width,
            people=None if people is None else TextTable(torch.as_tensor(people)),
        )
        stages = _stages(config, parts)
        module = kept_module(stages)

        def batches(stage: Stage) -> Batches:
            seed = spawn(config.seed, "batches", stage.name) % 2**31
            return cast(MatrixTrainer, stage.module).batches(graph, config.training.of_phase(stage.name), seed)

        @cache
        def validate(part: str) -> Validate:
            return validation(part_rows(data, part), counts)

        def of_stage(stage: AnyStage) -> Validate:
            return validate(stage.valid)

        def keep() -> CollaborativeModel:
            kept = cast(MatrixModel, module.cpu().eval()).kept().eval()
            about = {"items": data.num_items, "users": data.num_users, "text": parts.text_width}
            return CollaborativeModel(config, kept, counts, about, data)

        names, reading = [stage.name for stage in stages], [stage.name for stage in stages if stage.reads_text]
        told = "means of training items" if people is None else "profiles, else means of training items"
        choices = {"user_text": told} if config.reads_people else {}
        return Plan(
            stages,
            batches,
            of_stage,
            monitor,
            keep,
            names,
            reading=reading,
            choices=choices,
            yardsticks=dict if isinstance(stages[-1], Fitted) else lambda: yardsticks(data, graph),
        )

    def load(
        self, config: RunConfig, saved: Saved, data: Dataset | None, text: Callable[[], Vectors] | None = None
    ) -> CollaborativeModel:
        tensors: dict[str, Tensor] = dict(saved.tensors)
        counts, added = tensors.pop(COUNTS), tensors.pop(ADDED, None)
        about = {name: int(saved.about.get(name, 0)) for name in ("items", "users", "text")}  # early ones have items alone
        with torch.random.fork_rng(devices=[]):
            parts = Parts(about["items"], num_users=about["users"], seed=config.seed, text_width=about["text"])
            module = kept_module(_stages(config, parts))
        # products round by where a matrix begins in memory, and one that is mapped from a file begins anywhere
        put_fitted(module, {name: tensor.clone() for name, tensor in tensors.items()})
        cast(MatrixModel, module).check()
        model = CollaborativeModel(config, module.eval(), counts, saved.about, data)
        return model if added is None else model.grown(added)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def outcome(self, model: Model, config: RunConfig, data: Dataset, part: str, *, show_progress: bool = True) -> Outcome:
        """Ranks of every held-out item among all, and the best items of each user."""
        held = part_rows(data, part)
        own = cast(CollaborativeModel, model)
        module = own.module if own.base is None else own.base  # what came later is nobody's target
        return _outcome(RowsScorer(module, held, own.counts), held, show_progress)

    def baseline(self, name: str, config: RunConfig | None, data: Dataset, part: str) -> Outcome | None:
        spec, held = self.spec.baselines[name], part_rows(data, part)
        scorer = spec.build(spec.config(), held.rows, training_graph(data))
        return None if scorer is None else _outcome(scorer, held, show_progress=False)

    def report(
        self, outcome: Outcome, config: RunConfig | None, data: Dataset, part: str, *, min_rows: int | None = None
    ) -> Report:
        """Recall and nDCG of all that a user is held out for, by how many items training knows of them."""
        graph, ranking = training_graph(data), _ranking(outcome)
        users = np.unique(outcome.user)
        least = MIN_ROWS if min_rows is None else min_rows
        return evaluate_retrieval(
            ranking,
            users,
            user_slices(users, graph.user_counts),
            graph.item_counts,
            metrics=MANY_TARGETS,
            besides=("precision", "f1", "ndcg_all"),
            at=(1, 5, 10, 15, 20),
            primary=20,
            min_rows=least,
        )

    def tests(
        self, first: Sequence[Outcome], second: Sequence[Outcome], config: RunConfig | None, data: Dataset, part: str
    ) -> list[PairedTest]:
        """Of Recall@20 and nDCG@20."""
        return self.tests_of(TESTED, first, second, data)

    def tests_of(
        self, metrics: Sequence[str], first: Sequence[Outcome], second: Sequence[Outcome], data: Dataset
    ) -> list[PairedTest]:
        """Of ``metrics`` such as "f1@10", all that `row_gains` knows, at any k."""
        users = np.unique(first[0].user)
        sides = [[_ranking(outcome) for outcome in side] for side in (first, second)]

        def gained(side: Sequence[Ranking], key: str) -> NDArray[np.float64]:
            metric, _, k = key.partition("@")
            return np.stack([row_gains(ranking, cast(RetrievalMetric, metric), int(k)) for ranking in side])

        return [paired_gain_test(users, *(gained(side, key) for side in sides), metric=key) for key in metrics]

    # -- a look inside ------------------------------------------------------------------------------------------------

    def inspect(self, module: nn.Module, num_items: int) -> Mapping[str, NDArray[np.float32]]:
        """Item vectors where the model has such: "factors" of iALS."""
        found = cast(MatrixModel, module.eval()).item_vectors()
        return {name: vectors[: num_items + 1].cpu().numpy() for name, vectors in found.items()}


def _stages(config: RunConfig, parts: Parts) -> list[AnyStage]:
    (spec, settings), *enhancers = config.chosen.parts(config.model)
    if spec.name in config.chosen.task.models:
        return list(spec.build(settings, parts))
    return node_stages(spec, settings, parts, enhancers)


def _labels(data: Dataset) -> Labels:
    log, positions = data.log, training_positions(data)
    return Labels(log.user[positions], log.item[positions], log.rating[positions], partial(categories_of, data))


def _outcome(scorer: Scorer, held: Held, show_progress: bool) -> Outcome:
    """Users and items are those of the targets; "top" has a line for each user, ascending."""
    rows = held.rows
    found = rank_targets(scorer, rows, top=LISTED, show_progress=show_progress)
    values: dict[str, NDArray[Any]] = {"rank": found.rank, "top": found.top, "masked": found.masked}
    return Outcome(rows.user[rows.target_row], rows.targets, values)


def _ranking(outcome: Outcome) -> Ranking:
    row = np.unique(outcome.user, return_inverse=True)[1].astype(np.int64)
    return Ranking(outcome.values["rank"], outcome.values["top"], outcome.values["masked"], row)


def _check_finite(data: Dataset, text: Vectors) -> None:
    odd = ~np.isfinite(text).all(axis=1)
    if odd.any():
        item = data.item_ids[int(np.argmax(odd)) - 1]
        raise ConfigError(f"the text vector of item '{item}' holds NaN or infinity; build the knowledge base again")


TASK = CollaborativeTask()
