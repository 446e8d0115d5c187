"""Runs of sequence models: training in stages, exact ranking of the whole catalogue, what comes next for whom.

Beside the files of every run:  weights/<stage>/  the best weights of each stage, from which other runs can start
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.data.popularity import frequency_buckets, train_counts
from braidrec.data.sequences import left_padded, training_ends
from braidrec.errors import ConfigError, RunError
from braidrec.evaluation.report import MIN_ROWS
from braidrec.evaluation.retrieval import Ranking, rank_targets
from braidrec.evaluation.retrieval_report import RetrievalReport, evaluate_retrieval
from braidrec.evaluation.slices import retrieval_slices
from braidrec.files import load_tensors, read_json, save_tensors, write_json
from braidrec.runs.directory import claim, digest_of, load_model, read_run, save_model, save_record
from braidrec.runs.knowledge import item_matrix, open_knowledge
from braidrec.runs.next_item import HistoryScorer, part_rows, phases, score_histories
from braidrec.runs.run import Floats, Rows, Run, load
from braidrec.sequential.build import build_model, build_stages, make_parts
from braidrec.sequential.config import SequentialConfig
from braidrec.sequential.contracts import Catalogue, NextItemModel, Stage
from braidrec.sequential.maps import FusedMap, IdMap, TextMap
from braidrec.sequential.mixture import Mixture
from braidrec.sequential.model import Expert
from braidrec.training.checkpoint import read_archive
from braidrec.training.contracts import CheckpointEvery, Hardware, PhaseResult
from braidrec.training.loop import train
from braidrec.training.seeding import seed_everything

LISTED = 20  # items of each test row that are kept beside its rank
_USERS_AT_ONCE = 512


# -- training -------------------------------------------------------------------------------------------------------------


def train_sequential(config: RunConfig, path: Path, dataset: Dataset, *, show_progress: bool) -> Run:
    """Train every stage into ``path`` and load the run from there.  Nothing is written before everything is checked."""
    settings, training = _settings(config), config.training
    if training.tables == "lazy":
        raise ConfigError("training.tables = 'lazy' is for ranking models; sequence models train dense tables: drop it")
    base = open_knowledge(config.knowledge) if settings.reads_text else None
    vectors = item_matrix(config.knowledge, dataset) if settings.reads_text else None
    seed_everything(config.seed)
    parts = make_parts(settings, dataset, None if vectors is None else torch.from_numpy(vectors))
    stages = build_stages(settings, parts)
    config.check_phases([*settings.start_from, *(stage.name for stage in stages)])
    plan = phases(config, stages, dataset)
    _check_starts(settings, stages, dataset)
    with claim(path, config, {"data": dataset.fingerprint, "knowledge": digest_of(vectors)}):
        result = train(
            plan,
            path / "training",
            hardware=Hardware(accelerator=training.accelerator, precision=training.precision),
            seed=config.seed,
            checkpoint_every=CheckpointEvery(seconds=training.checkpoint_seconds),
            show_progress=show_progress,
        )
        for phase in result.phases:
            _keep(path, phase)
        model = stages[-1].module.cpu().eval()
        parameters = sum(weight.numel() for weight in model.parameters())
        cast(Any, model).export()
        width = 0 if vectors is None else vectors.shape[1]
        save_model(path, model.state_dict(), {"semantic_width": width, "parameters": parameters})
        save_record(path, config, dataset, settings.title, result, {"start_from": dict(settings.start_from)}, base)
    return load(path, dataset=dataset)


def load_sequential(path: Path, config: RunConfig, dataset: Dataset, record: Mapping[str, Any]) -> SequentialRun:
    """The saved model over its data; added items are put back by `load`."""
    tensors, about = load_model(path)
    settings = _settings(config)
    with torch.random.fork_rng(devices=[]):
        parts = make_parts(settings, dataset, None, semantic_width=about["semantic_width"])
        model = build_model(settings, parts)
    for name, module in model.named_modules():
        if isinstance(module, TextMap):
            module.reduced = tensors[f"{name}.reduced"]
    model.load_state_dict(tensors)
    return SequentialRun(path, config, dataset, record, model.eval())


def _keep(path: Path, phase: PhaseResult) -> None:
    """Copy a phase's best weights to where they stay, in one step: what is there is whole, whenever the process dies."""
    kept, copy = path / "weights" / phase.name, path / "training" / "kept"
    if not kept.exists():
        shutil.rmtree(copy, ignore_errors=True)  # half of a copy that a killed process made
        shutil.copytree(path / "training" / "weights" / phase.weights, copy)
        kept.parent.mkdir(exist_ok=True)
        os.replace(copy, kept)


def _check_starts(settings: SequentialConfig, stages: Sequence[Stage], dataset: Dataset) -> None:
    """Raise ConfigError when a stage of another run cannot be taken over: not there, of other data, of another shape."""
    for name, other in settings.start_from.items():
        where, folder = f"model.start_from.{name} = '{other}'", Path(other) / "weights" / name
        if not folder.is_dir():
            raise ConfigError(f"{where}: no run with the weights of a stage '{name}' is there")
        trained = read_run(Path(other))[1]["data"]["fingerprint"]
        if trained != dataset.fingerprint:
            raise ConfigError(
                f"{where}: trained on data with fingerprint {trained}, this run's has {dataset.fingerprint}, so its rows are "
                "other items; train the stage here, or bring a run of the same data"
            )
        tensors = read_archive(folder).files["model"]
        for stage in stages:
            own = stage.module.state_dict()
            for old, new in stage.starts.get(name, {}).items():
                given = {new + key.removeprefix(old): tuple(part.shape) for key, part in tensors.items() if key.startswith(old)}
                wanted = {key: tuple(part.shape) for key, part in own.items() if key.startswith(new)}
                if odd := sorted(key for key in given | wanted if given.get(key) != wanted.get(key)):
                    raise ConfigError(
                        f"{where}: its weights do not fit stage '{stage.name}': '{odd[0]}' is {given.get(odd[0])} there and "
                        f"{wanted.get(odd[0])} here; bring a run of the same backbone and sizes, or train the stage here"
                    )


def _settings(config: RunConfig) -> SequentialConfig:
    assert isinstance(config.model, SequentialConfig)
    return config.model


def as_sequential(run: Run) -> SequentialRun:
    """Raises ConfigError when the run is of another task."""
    if not isinstance(run, SequentialRun):
        raise ConfigError(f"{run.path}: a {run.config.task} run; this needs a sequential one")
    return run


# -- the run --------------------------------------------------------------------------------------------------------------


@dataclass
class SequentialRun(Run):
    """A next-item model and its data: scores without a unit, ranks of held-out targets among the whole catalogue."""

    model: nn.Module
    _catalogue: Catalogue | None = field(default=None, init=False)

    def notes(self, *, new_user: bool) -> list[str]:
        found = []
        if new_user:
            found.append(
                f"a new user is known by the items given, oldest first, of which the last {self.settings.length} count; "
                "without any, the items met most often come first"
            )
        if self._added_ids:
            unseen = "the coldest bucket's gate without the id expert, " if isinstance(self.model, Mixture) else ""
            some = "1 item was" if len(self._added_ids) == 1 else f"{len(self._added_ids):,} items were"
            found.append(
                f"{some} added after training: text speaks there ({unseen}the mean id row of the least met items where an id "
                "is fused with text)"
            )
        return found

    @property
    def settings(self) -> SequentialConfig:
        return _settings(self.config)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def ranks(self, part: str = "test", *, show_progress: bool = True) -> Ranking:
        """Ranks and best items of the part's targets; computed once, then read from the run directory."""
        file, note = self.path / f"ranking.{part}.safetensors", self.path / f"ranking.{part}.json"
        if note.exists():
            with contextlib.suppress(RunError):  # what is damaged is ranked again
                stored = read_json(note, RunError)
                if isinstance(stored, dict) and stored.get("data") == self.dataset.fingerprint:
                    found = load_tensors(file, str(stored.get("sha256")), RunError)
                    return Ranking(found["rank"].numpy(), found["top"].numpy(), found["masked"].numpy())
        rows = part_rows(self.dataset, part)
        scorer = HistoryScorer(self.model, rows, self.settings.length)
        ranking = rank_targets(scorer, rows, top=LISTED, show_progress=show_progress)
        tensors = {name: torch.from_numpy(getattr(ranking, name)) for name in ("rank", "top", "masked")}
        write_json(note, {"data": self.dataset.fingerprint, "sha256": save_tensors(file, tensors)})
        return ranking

    def evaluate(self, part: str = "test", *, show_progress: bool = True, min_rows: int = MIN_ROWS) -> RetrievalReport:
        """HR, nDCG and MRR by slice among all items, those met before left out; see `evaluation.retrieval_report`."""
        report = report_of(self.dataset, self.ranks(part, show_progress=show_progress), part, self.settings.buckets, min_rows)
        write_json(self.path / f"evaluation.{part}.json", report.to_json())
        return report

    # -- a look inside ------------------------------------------------------------------------------------------------

    def inspect(self, stage: str | None = None) -> Mapping[str, NDArray[np.float32]]:
        """Item vectors (I + 1, D) of the model, or of an earlier ``stage``, by what they are made of.

        "id": the id expert's table; "aligned_id", "aligned_text", "aligned": both sides of a fused map and what they become;
        "text": the text expert.  Only those that the model has.  Raises RunError for a stage that this run did not train.
        """
        module = self.model if stage is None else self._stage(stage)
        experts = module.experts if isinstance(module, Mixture) else {"": getattr(module, "expert", None)}
        found: dict[str, NDArray[np.float32]] = {}
        module.eval()
        with torch.no_grad():
            for expert in experts.values():
                if isinstance(expert, Expert):
                    rows = torch.arange(self.dataset.num_items + 1)
                    found |= {name: part.numpy() for name, part in _spaces(expert.items, rows).items()}
        return found

    def inspect_gate(self) -> dict[str, Any] | None:
        """Share of each expert per frequency bucket, hottest first; None for models without such a gate."""
        shares = self.model.shares() if isinstance(self.model, Mixture) else None
        if shares is None:
            return None
        return {"experts": list(cast(Mixture, self.model).experts), "shares": shares.tolist()}

    def _stage(self, name: str) -> nn.Module:
        folder = self.path / "weights" / name
        if not folder.is_dir():
            own = sorted(each.name for each in (self.path / "weights").glob("*"))
            raise RunError(f"{self.path}: this run trained no stage '{name}' (it has: {', '.join(own)})")
        settings = self.settings.model_copy(update={"start_from": {}})
        vectors = torch.from_numpy(item_matrix(self.config.knowledge, self.dataset)) if settings.reads_text else None
        with torch.random.fork_rng(devices=[]):
            stages = build_stages(settings, make_parts(settings, self.dataset, vectors))
        module = next(stage.module for stage in stages if stage.name == name)
        module.load_state_dict(read_archive(folder).files["model"])
        return module

    # -- recommendation -----------------------------------------------------------------------------------------------

    def _known(self, user: str | int) -> Rows:
        row, log = self._user_row(user), self.dataset.log
        return log.slot_item[int(log.start[row]) : int(log.start[row + 1])]

    def _stranger(self, items: Sequence[str | int]) -> Rows:
        return np.array([self._item_row(item) for item in items], np.int32)

    def _past_items(self, past: Rows) -> Rows:
        return past

    def _score_candidates(self, past: Rows, rows: Rows) -> Floats:
        return self._scores([past], rows)[0]

    def _rank_all(self, users: Sequence[str], k: int, candidates: Rows, exclude_seen: bool) -> Iterator[tuple[Rows, Floats]]:
        for first in range(0, len(users), _USERS_AT_ONCE):
            pasts = [self._known(user) for user in users[first : first + _USERS_AT_ONCE]]
            for past, scores in zip(pasts, self._scores(pasts, candidates), strict=True):
                free = ~np.isin(candidates, past) if exclude_seen else np.ones(len(candidates), bool)
                rows, own = candidates[free], scores[free]
                order = np.lexsort((rows, -own))[:k]
                yield rows[order], own[order]

    def _scores(self, pasts: Sequence[Rows], rows: Rows) -> NDArray[np.float32]:
        """(b, n); a past without items gets the training counts, so that the best known items come first."""
        length = self.settings.length
        ends = np.array([len(past) for past in pasts], np.int64)
        start = np.concatenate([[0], np.cumsum(ends)[:-1]]) + 1  # place 0 is padding
        items, _ = left_padded(start, ends, np.concatenate([np.zeros(1, np.int32), *pasts]), length)
        if self._catalogue is None:
            with torch.no_grad():
                self._catalogue = cast(NextItemModel, self.model).catalogue()
        wanted = torch.from_numpy(rows.astype(np.int64))
        with torch.no_grad():
            scores = score_histories(cast(NextItemModel, self.model), self._catalogue, torch.from_numpy(items), wanted).numpy()
        if not ends.all():
            counts = np.concatenate([part_counts(self.dataset), np.zeros(len(self._added_ids), np.int64)])
            scores[ends == 0] = counts[rows]
        return scores

    # -- items added after training -----------------------------------------------------------------------------------

    def _check_reads_text(self) -> None:
        if not any(isinstance(module, TextMap) for module in self.model.modules()):
            raise RunError(
                f"{self.path}: {self.record['title']} knows items by id alone; add_items needs a model that reads text, "
                "such as enhance = 'pad'"
            )

    def _extend(self, tensors: Mapping[str, Tensor]) -> None:
        cast(Any, self.model).add(tensors["vectors"])
        self._catalogue = None


def part_counts(dataset: Dataset) -> NDArray[np.int64]:
    """(I + 1,) training events of each item."""
    return train_counts(dataset.log, training_ends(dataset), dataset.num_items)


def report_of(dataset: Dataset, ranking: Ranking, part: str, buckets: int, min_rows: int = MIN_ROWS) -> RetrievalReport:
    """A ranking of one part of ``dataset``, by how often training met the target."""
    rows, counts = part_rows(dataset, part), part_counts(dataset)
    slices = retrieval_slices(rows.item, counts, frequency_buckets(counts, buckets))
    return evaluate_retrieval(ranking, rows.user, slices, counts, min_rows=min_rows)


def _spaces(items: nn.Module, rows: Tensor) -> dict[str, Tensor]:
    if isinstance(items, IdMap):
        return {"id": items(rows)}
    if isinstance(items, TextMap):
        return {"text": items(rows)}
    if isinstance(items, FusedMap):
        ids, text = items.ids(rows), items.text(rows)
        return {"aligned_id": ids, "aligned_text": text, "aligned": items.fuse(rows, ids, text)}
    return {}
