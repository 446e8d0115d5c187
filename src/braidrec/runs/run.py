"""A finished run of any task: recommendations for somebody or everybody, numbers on held-out parts, items added later.

What is asked of a run goes to its task (`braidrec.task`); this page knows none of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from braidrec.arguments import instance_of, path_of, raw_id, raw_ids
from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.data.describe import as_html, as_text
from braidrec.data.fingerprint import Fingerprint
from braidrec.data.intake.readers import ReadConfig, to_frame
from braidrec.data.schema import Schema
from braidrec.errors import ConfigError, DataError, KnowledgeError, RunError, remedy, suggest
from braidrec.evaluation.report import Report
from braidrec.files import load_tensors, read_json, save_tensors, understanding, write_atomic, write_json
from braidrec.registry import TASKS
from braidrec.runs.added import Additions, load_added, save_added
from braidrec.runs.additions import encode_additions, read_late
from braidrec.runs.catalogue import Catalogue, near
from braidrec.runs.described import describe, fields_of
from braidrec.runs.directory import (
    CATALOGUE,
    digest_of_json,
    load_catalogue,
    load_model,
    origin,
    read_run,
    read_stage,
)
from braidrec.runs.grown import Grown
from braidrec.runs.knowledge import Folders, KnowledgeBases
from braidrec.runs.pairs import Unknown, id_column, rows_of, score_pairs
from braidrec.runs.retrieval import BUDGET_BYTES, best_items
from braidrec.runs.similar import By, alike
from braidrec.runs.trained import Trained
from braidrec.strict import parse
from braidrec.task import Divides, Explains, Floats, Model, Outcome, Rows, Share, Task, Vectors
from braidrec.training.devices import device_of
from braidrec.training.seeding import own_randomness
from braidrec.training.stages import put_trained

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Because", "Catalogue", "ItemVectors", "Recommendation", "Run", "load"]


@dataclass(frozen=True)
class Because:
    """An item that somebody has, behind a recommendation: its share of the score, and how much of the score comes by text.

    text: None where the model reads none
    """

    item: str
    title: str
    share: float
    text: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """One ranked item: raw id, catalogue title where there is one, and the model's score, higher is better.

    probability: the score where it is one, None where the model's scores are no probabilities.
    because: with ``explain``, what is behind the score, most first
    parts: likewise what the named parts of the model bring to it, where it has such: shares that add up to 1
    """

    item: str
    title: str
    score: float
    probability: float | None = None
    because: tuple[Because, ...] = ()
    parts: tuple[Share, ...] = ()


class ItemVectors(NamedTuple):
    """ids: raw, n of them    vectors (n, D) float32    space: which of the model's they are"""

    ids: list[str]
    vectors: NDArray[np.float32]
    space: str


@dataclass(frozen=True)
class _Held:
    """What answers: replaced as one when items are added, so that whoever reads it meanwhile sees the old or the new one.

    kept: ids of the added items that lie in the run's folder, in its order; others come with a log that has grown
    """

    model: Model
    catalogue: Catalogue
    kept: tuple[str, ...] = ()


@final
class Run:
    """A trained model, with its data set where that is at hand.  Make one with `fit`, get it back with `load`."""

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        record: Mapping[str, Any],
        model: Model,
        catalogue: Catalogue,
        dataset: Dataset | None,
        *,
        grown: Grown | None = None,
        kept: Sequence[str] = (),
    ):
        """dataset: that was trained on    grown: one that has grown since, in its place    kept: as `_Held` has it"""
        self.path, self.config, self.record = path, config, record
        self._held, self._adding = _Held(model, catalogue, tuple(kept)), threading.Lock()
        self._dataset, self._grown = dataset, grown
        self._outcomes: dict[str, Outcome] = {}

    def __repr__(self) -> str:
        return f"Run({self.title}, {self.headline}, {self.path})"

    def __str__(self) -> str:
        return as_text(f"run {self.title} at {self.path}", self._lines())

    def _repr_html_(self) -> str:
        return as_html(f"run {self.title} at {self.path}", self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        """Nine at most."""
        config, record, data = self.config, self.record, self.record["data"]
        added, held = len(self.catalogue.added_ids), self._held
        events = f", {data['events']['count']:,} events" if "events" in data else ""
        state = "not at hand" if not self.has_data else "at hand" if self._grown is None else "grown since"
        return [
            ("task", f"{config.chosen.task.title} ({config.task}); seed {config.seed}"),
            ("validation", self.headline + (f" at step {step:,}" if (step := record["best"]["step"]) else "")),
            *([("warning", "; ".join(self.warnings))] if self.warnings else []),
            ("data", f"{data['name']}{events}, {state}: {config.data}"),
            ("knowledge", ", ".join(config.knowledge) if record["knowledge"] else "reads no text"),
            ("items", f"{self.num_items:,}" + (f", {added:,} of them added after training" if added else "")),
            ("stages", ", ".join(phase["name"] for phase in record["phases"])),
            ("answers", "probabilities of a positive" if held.model.probabilities else "scores without a unit"),
            ("ask it", ", ".join(self._able())),
        ]

    def _able(self) -> Iterator[str]:
        """What it can be asked as it stands: with or without its data, and by what its model is."""
        model = self._held.model
        whom = ["user", "items=[...]"] if self.has_data else ["items=[...]"]
        if isinstance(model, Explains) and not model.unexplained:
            whom[0] += ", explain=True"
        yield from (f"recommend({each})" for each in whom)
        yield "similar(item)"
        if self.has_data:
            yield "score(pairs)"
        if self.task.inspect(model.module, 0):
            yield "item_vectors()"
        if self._dataset is not None:
            yield "evaluate()"

    @property
    def model(self) -> Model:
        """The model as it stands now; adding items puts another one in its place."""
        return self._held.model

    @property
    def catalogue(self) -> Catalogue:
        return self._held.catalogue

    @property
    def task(self) -> Task:
        room: Task = self.config.chosen.task.room()
        return room

    @property
    def has_data(self) -> bool:
        """Whether known users are answered."""
        return self._dataset is not None or self._grown is not None

    @property
    def dataset(self) -> Dataset:
        """The data that the run was trained on.  Raises RunError where they are not at hand, or have grown since."""
        if self._dataset is None and self._grown is not None:
            raise RunError(
                f"{self.path}: {self._grown.said}; it answers for users, but this needs the data that were trained on, with "
                f"their held-out parts: bring these back, or say where they are: {_where()}"
            )
        if self._dataset is None:
            raise RunError(
                f"{self.path}: this needs the data set that the run was trained on, and {self.config.data} is not there; "
                f"bring it back, or say where it is: {_where()}"
            )
        return self._dataset

    @property
    def _log(self) -> Dataset:
        """Whose users are known: those of a log that has grown, where there is one."""
        return self.dataset if self._grown is None else self._grown.served

    @property
    def title(self) -> str:
        """Model and preset, as tables name it."""
        return f"{self.record['title']} ({self.config.preset})"

    @property
    def headline(self) -> str:
        """The validation metrics of the weights that were kept, in words."""
        titles = {metric.key: metric.title for metric in self.config.chosen.task.metrics}
        return ", ".join(f"{titles.get(name, name)} {value:.4f}" for name, value in self.record["best"]["metrics"].items())

    @property
    def sized(self) -> str | None:
        """What the size of the log settled of how it was trained, in words; None where it settled nothing."""
        found: str | None = self.record.get("sized")
        return found

    @property
    def warnings(self) -> list[str]:
        """What was to be doubted when training ended; empty for runs that an earlier version made."""
        return list(self.record.get("warnings", ()))

    @property
    def num_items(self) -> int:
        """Catalogue and added items."""
        return len(self.catalogue)

    @property
    def num_users(self) -> int:
        """Those of its data, or of what these have grown to."""
        return self._log.num_users

    def notes(self, *, new_user: bool, fields: Mapping[str, Any] | None = None) -> list[str]:
        """What a reader of recommendations should know: how the model sees somebody new, which of their ``fields`` it has not
        met, items added after training, what is new in a log that has grown.
        """
        held = self._held
        found = held.model.notes(new_user=new_user, added=len(held.catalogue.added_ids))
        if fields is not None:
            found += describe(fields, self._schema, self.path / "vocabulary.json")[1]
        return [*found, *(self._grown.notes if self._grown is not None else ())]

    # -- recommendation -----------------------------------------------------------------------------------------------

    def recommend(
        self,
        user: str | int | None = None,
        *,
        items: Sequence[str | int] | None = None,
        fields: Mapping[str, Any] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Sequence[str | int] | None = None,
        deny: Sequence[str | int] = (),
        explain: bool = False,
    ) -> list[Recommendation]:
        """The k best items for a known ``user``, or for somebody new who liked ``items`` (oldest first).

        items: of a known user, what they met since the log ended    fields: of somebody new, what is known of them, by the
        names of the users' table, such as {"age": 30}; what is left out counts as unknown    allow: only these items
        deny: never these    explain: with what is behind each score, in models that can say it
        A user the data set does not know is an error; for how somebody new is seen, see `notes`.  A known user without history
        is ranked with an empty one.  Raises DataError for unknown ids and fields or when no candidate is left, RunError for a
        known user where the run's data are not at hand, and where the model cannot explain.
        """
        if user is None and items is None and fields is None:
            raise DataError(f"recommend needs to know who it is for: {self._ways}")
        if user is not None and fields is not None:
            raise DataError(f"fields describe somebody new, and user {user!r} is known by what the data have of them; drop one")
        _check_count(k)
        items = None if items is None else raw_ids(items, "items")
        held = self._held
        candidates = _candidates(held.catalogue, allow, deny)
        with self._asking():
            past = self._past(held, user, items, fields)
            [(rows, scores)] = best_items(held.model, lambda first, last: [past], 1, candidates, k, exclude_seen=exclude_seen)
        if not len(rows):
            raise DataError(
                "no candidate is left: every allowed item is denied or already seen; loosen "
                + remedy("allow, deny or exclude_seen", "--allow, --deny or --include-seen")
            )
        probable = held.model.probabilities
        with self._asking():
            because = [self._because(held, past, row) if explain else ((), ()) for row in rows.tolist()]
        return [
            Recommendation(held.catalogue.id(row), held.catalogue.title(row), score, score if probable else None, *why)
            for row, score, why in zip(rows.tolist(), scores.tolist(), because, strict=True)
        ]

    @property
    def _ways(self) -> str:
        """How somebody can be named to this run, in words."""
        model, vocabulary = self._held.model, self.path / "vocabulary.json"
        ways = [("a user of its data", remedy("user", "--user"))] if self.has_data else []
        ways.append(("the items that somebody new liked", remedy("items", "--items")))
        with contextlib.suppress(RunError):  # of models that read no fields
            if fields_of(self._schema, vocabulary):
                model.past(None, np.zeros(0, np.int32), describe({}, self._schema, vocabulary)[0])
                ways.append(("the fields that describe them", remedy("fields", "--field")))
        return ", or ".join(f"{what} ({key})" for what, key in ways)

    def _asking(self) -> AbstractContextManager[None]:
        """Around what the model is asked: weights whose shapes or rows do not go together are ours to name."""
        return understanding(self.path, RunError)

    def _because(self, held: _Held, past: Any, row: int) -> tuple[tuple[Because, ...], tuple[Share, ...]]:
        if not isinstance(held.model, Explains):
            able = [spec.default for spec in TASKS.usable().values() if spec.of_positives]
            raise RunError(
                f"{self.path}: {self.record['title']} does not say what is behind a score; models that do are those such as "
                f"backbone = '{', '.join(able)}'"
            )
        because = tuple(
            Because(held.catalogue.id(each.item), held.catalogue.title(each.item), each.share, each.text)
            for each in held.model.explain(past, row)
        )
        return because, tuple(held.model.divide(past, row)) if isinstance(held.model, Divides) else ()

    def similar(self, item: str | int, by: By = "model", *, k: int = 10) -> list[Recommendation]:
        """The k items most like ``item``: by "meaning" (text), "behaviour" (who has both) or "model"; see `alike`."""
        _check_count(k)
        held = self._held
        row = held.catalogue.row(item)
        with self._asking():
            scores = np.array(alike(self, row, by), np.float32)
        scores[row - 1] = -np.inf
        order = np.argsort(-scores, kind="stable")[:k]
        return [
            Recommendation(held.catalogue.id(at + 1), held.catalogue.title(at + 1), float(scores[at]))
            for at in order.tolist()
            if scores[at] > -np.inf
        ]

    def recommend_all(
        self,
        out: Path | str,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Sequence[str | int] | None = None,
        deny: Sequence[str | int] = (),
        budget_bytes: int = BUDGET_BYTES,
        show_progress: bool = True,
    ) -> int:
        """Write a Parquet table of the k best items of every user; returns its rows.

        user, item: raw ids as text; rank from 1 on; probability (score, where it is none), highest first.  Users without a
        candidate have no rows.  budget_bytes: bound on the scores of a block of users and what is made from them.
        """
        import polars as pl

        from braidrec.progress import progress

        _check_count(k)
        out = path_of(out, "out")
        held, users = self._held, self._log.user_ids
        candidates = _candidates(held.catalogue, allow, deny)

        def pasts(first: int, last: int) -> list[Any]:
            return [held.model.past(row) for row in range(first + 1, last + 1)]

        parts: list[tuple[Rows, Floats]] = []
        with self._asking(), progress("recommending", len(users), "users", show=show_progress) as advance:
            for part in best_items(
                held.model, pasts, len(users), candidates, k, exclude_seen=exclude_seen, budget_bytes=budget_bytes
            ):
                parts.append(part)
                advance(1)
        counts = [len(rows) for rows, _ in parts]
        items = np.concatenate([rows for rows, _ in parts])
        frame = pl.DataFrame(
            {
                "user": pl.Series("user", users, dtype=pl.String).gather(np.repeat(np.arange(len(users)), counts)),
                "rank": np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts]),
                "item": pl.Series("item", held.catalogue.all_ids, dtype=pl.String).gather(items - 1),
                "probability" if held.model.probabilities else "score": np.concatenate([scores for _, scores in parts]),
            }
        )
        write_atomic(out, lambda temporary: frame.write_parquet(temporary))
        return len(frame)

    def score_items(self, user: str | int, items: Sequence[str | int]) -> Floats:
        """Scores (n,) of ``items`` for a known user as of now, on the scale of `Recommendation.score`."""
        held, items = self._held, raw_ids(items, "items")
        rows = np.array([held.catalogue.row(item) for item in items], np.int32)
        with self._asking():
            past = self._past(held, user, None)
            return held.model.scores([past], rows)[0] if len(rows) else np.zeros(0, np.float32)

    def score(
        self, pairs: Any, *, unknown: Unknown = "error", read: ReadConfig | None = None, show_progress: bool = True
    ) -> pl.DataFrame:
        """The pairs with one more column: "probability", or "score" where the model's are none, as of now.

        pairs: a Polars, pandas or Arrow frame, or a file of one, with the columns of the user and the item, by the names that
        the log has for them, or "user" and "item"    unknown: whether a pair whose user or item nobody knows is an error, or
        has no score ("null")    read: of a file, its encoding, separator and quotes, and whether bad rows are left out
        Raises DataError naming the row, RunError where the run's data are not at hand.
        """
        import polars as pl

        if unknown not in ("error", "null"):
            raise ConfigError(f"unknown = {unknown!r}{suggest(str(unknown), ('error', 'null'))}")
        held, schema, frame = self._held, self._schema, to_frame(pairs, "the pairs", read)
        name = "probability" if held.model.probabilities else "score"
        if name in frame.columns:
            raise DataError(f"the pairs have a column '{name}' already; rename it, since that is what the scores are called")
        users, items = (id_column(frame, role, (own, role)) for role, own in (("user", schema.user), ("item", schema.item)))
        log = self._log
        user_rows = rows_of(users, log.user_rows, "user", log.name, unknown)
        item_rows = rows_of(items, held.catalogue.all_rows, "item", f"the catalogue of {log.name}", unknown)
        with self._asking():
            scores = score_pairs(held.model, user_rows, item_rows, held.model.past, show_progress=show_progress)
        return frame.with_columns(pl.Series(name, scores).fill_nan(None))

    def item_vectors(self, space: str | None = None) -> ItemVectors:
        """Raw ids (n,) of all items, those added after training last, and their vectors (n, D) float32 in one ``space``.

        space: one of those that `inspect` gives; left out, the first that is there of "whole", "aligned", "id" and "text",
        else the model's first.  Raises RunError for another one, and for a model that has no item vectors.
        """
        held = self._held
        with self._asking():
            found = self.task.inspect(held.model.module, len(held.catalogue))
        if not found:
            raise RunError(f"{self.path}: {self.record['title']} has no item vectors")
        if space is None:
            space = next((name for name in ("whole", "aligned", "id", "text") if name in found), next(iter(found)))
        if space not in found:
            raise RunError(f"{self.path}: {self.record['title']} has no item vectors '{space}'{suggest(space, found)}")
        return ItemVectors(held.catalogue.all_ids, found[space][1:], space)

    def _past(
        self,
        held: _Held,
        user: str | int | None,
        items: Sequence[str | int] | None,
        fields: Mapping[str, Any] | None = None,
    ) -> Any:
        rows = np.array([held.catalogue.row(item) for item in items or ()], np.int32)
        if fields is not None:
            described, _ = describe(fields, self._schema, self.path / "vocabulary.json")
            return held.model.past(None, rows, described)
        if user is None:
            return held.model.past(None, rows)
        past = held.model.past(self._user_row(user), rows) if len(rows) else held.model.past(self._user_row(user))
        if len(rows) and not np.isin(rows, held.model.seen(past)).all():
            raise RunError(f"{self.title} takes no newer events of a known user; leave items out, or leave the user out")
        return past

    def _user_row(self, user: str | int) -> int:
        raw = raw_id(user, "user")
        row = self._log.user_rows.get(raw)
        if row is None:
            raise DataError(
                f"user '{raw}' is not in {self._log.name}{near(raw, self._log.user_ids)}; "
                f"for somebody new ask by the items they liked ({remedy('recommend(items=[...])', '--items a,b,c')})"
            )
        return row

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def outcome(self, part: str = "test", *, show_progress: bool = True) -> Outcome:
        """What the model made of a part's rows; computed once, then read from the run directory."""
        if part not in self._outcomes:
            self._outcomes[part] = self._read_outcome(part) or self._make_outcome(part, show_progress)
        return self._outcomes[part]

    def evaluate(self, part: str = "test", *, show_progress: bool = True, min_rows: int | None = None) -> Report:
        """The task's report on a held-out part, by slice: ``evaluate()["all"]`` is every row.

        min_rows: slices of fewer rows are marked as few; 1,000 when left out
        """
        outcome = self.outcome(part, show_progress=show_progress)
        report = self.task.report(outcome, self.config, self.dataset, part, min_rows=min_rows)
        write_json(self.path / f"evaluation.{part}.json", report.to_json())
        return report

    def _make_outcome(self, part: str, show_progress: bool) -> Outcome:
        with self._asking():
            found = self.task.outcome(self.model, self.config, self.dataset, part, show_progress=show_progress)
        arrays = {"user": found.user, "item": found.item, **{f"values.{name}": each for name, each in found.values.items()}}
        file = self.path / f"outcome.{part}.safetensors"
        digest = save_tensors(file, {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()})
        note = {**self._made_of(part), "data": self.dataset.fingerprint, "sha256": digest, "kind": found.kind}
        write_json(file.with_suffix(".json"), note | {"digest": digest_of_json(note)})
        return found

    def _made_of(self, part: str) -> dict[str, str]:
        return {"part": part, "model": self.record["files"]["model.json"], "run": origin(self.record)}

    def _read_outcome(self, part: str) -> Outcome | None:
        file = self.path / f"outcome.{part}.safetensors"
        with contextlib.suppress(RunError):  # what is missing, damaged or of another run is made again
            note = read_json(file.with_suffix(".json"), RunError)
            if isinstance(note, dict) and self._made(note, part):
                found = {name: each.numpy() for name, each in load_tensors(file, str(note["sha256"]), RunError).items()}
                values = {name.removeprefix("values."): each for name, each in found.items() if name.startswith("values.")}
                return Outcome(found["user"], found["item"], values, note["kind"])
        return None

    def _made(self, note: dict[str, Any], part: str) -> bool:
        """Whether kept scores were made from these data, by whichever fingerprint, and this run."""
        whole = note.pop("digest", None) == digest_of_json(note) and {"sha256", "kind"} <= note.keys()
        made = note.get("data") in (self.dataset.fingerprint, self.dataset.former_fingerprint)
        return whole and made and self._made_of(part).items() <= note.items()

    # -- a look inside ------------------------------------------------------------------------------------------------

    @own_randomness()
    def inspect(self, stage: str | None = None) -> Mapping[str, NDArray[np.float32]]:
        """Item vectors (I + 1, D) of the model, or of an earlier ``stage``, by the space they are in.

        Such as "id", "text" and, where both meet, "aligned_id", "aligned_text", "aligned": only those that the model has.
        Raises RunError for a stage that this run did not train.
        """
        module = self.model.module if stage is None else self._stage(stage)
        with self._asking():
            return self.task.inspect(module, len(self.catalogue.ids))

    def _stage(self, name: str) -> torch.nn.Module:
        folder = self.path / "weights" / name
        if not folder.is_dir():
            own = sorted(each.name for each in (self.path / "weights").glob("*"))
            raise RunError(f"{self.path}: this run trained no stage '{name}' (it has: {', '.join(own)})")
        tensors = read_stage(self.path, self.record, name).files["model"]
        bases = _bases(self.path, self.config, self.record) if self.task.reads_text(self.config) else None
        text = None if bases is None else bases.matrix(self.dataset)
        people = bases.people(self.dataset) if bases is not None and self.config.reads_people else None
        plan = self.task.plan(self.config, self.dataset, text, people=people, show_progress=False)
        with understanding(folder, RunError):
            stage = next(stage for stage in plan.stages if stage.name == name)
            put_trained(stage, tensors)
        return stage.module.eval()

    # -- items added after training -------------------------------------------------------------------------------------

    @own_randomness()
    def add_items(
        self,
        items: Mapping[str, str] | Any,
        *,
        knowledge: Folders = None,
        read: ReadConfig | None = None,
        wait: float = 60.0,
    ) -> int:
        """Make items scorable that the model never saw, by their text; they stay with the run.  Returns how many.

        items: raw id -> text, or a Polars, pandas or Arrow frame (or a file of one) with the catalogue's id column (by its own
        name, or as the interactions call it), its text columns and any of its fields.  The text goes through the knowledge
        base's own encoder and prompt, then through what the model kept to read it; every id takes its unknown row, other
        fields the row of their value.
        An item that was added before just so, here or by another process, is not added again: a script can be run twice.
        knowledge: where the run's knowledge bases are no longer where they were, one folder or several in its order
        read: of a file, as in `score`
        wait: seconds for another process that is writing
        Raises RunError when the model reads no text or another process is not done after ``wait``; DataError for an id of the
        catalogue, and for one that was added before with another text.
        """
        with self._adding:
            held = self._held
            if not held.model.reads_text:
                raise RunError(
                    f"{self.path}: {self.record['title']} knows items by id alone; add_items needs a model that reads text"
                    + (f", such as {reading} with a knowledge base" if (reading := _reading_text(self.config)) else "")
                )
            new_items = items if isinstance(items, Mapping) else to_frame(items, "the new items", read)
            if not len(new_items):
                return 0
            bases = _bases(self.path, self.config, self.record, knowledge)
            vocabulary = self.path / "vocabulary.json"
            new = encode_additions(new_items, self._schema, held.catalogue, bases, vocabulary, self._own_id)
            with self._asking():
                grown = _grown(held, new)  # before anything is written: what the model cannot take would stay with the run
            late, count = save_added(self.path, held.kept, new, wait)
            self._held = grown if count == len(new) == len(late) else _grown(held, late)
            return count

    @property
    def _own_id(self) -> str | None:
        """What the catalogue's table called its ids; None where an earlier version kept no word of it."""
        kept = self.record["data"] if self._dataset is None else {**self._dataset.manifest, **self.record["data"]}
        own: str | None = kept["ids"].get("items", self._schema.item) if "ids" in kept else None
        return own

    @property
    def _schema(self) -> Schema:
        """What the columns of the catalogue mean; a run of the former format takes it from its data."""
        saved = self.record["data"].get("schema")
        return self.dataset.schema if saved is None else Schema.model_validate(saved)


def _grown(held: _Held, more: Additions) -> _Held:
    """With items that lie in the run's folder; those that came with a longer log before keep their rows."""
    kept, there = (*held.kept, *more.ids), set(held.catalogue.added_ids)
    more = more.at([at for at, raw in enumerate(more.ids) if raw not in there])
    if not len(more):
        return replace(held, kept=kept)
    return _Held(held.model.with_items(more.read), held.catalogue.with_added(more.ids, more.titles), kept)


@own_randomness()
def load(path: Path | str, *, dataset: Dataset | None = None, knowledge: Folders = None, accelerator: str = "auto") -> Run:
    """Open a run directory.

    dataset: where the run's data are not where they were; without any, the run answers for somebody new alone.  Where they
    are those of training and what came after, histories are of today, and `Run.notes` counts what is new
    knowledge: likewise its knowledge bases, one folder or several in the run's order    accelerator: auto, cpu, cuda or mps
    Raises RunError when the run is missing, unfinished, damaged, or its data set changed, and where a knowledge base is given
    that is not the one it was trained on; ConfigError for one where it reads no text.
    """
    path, device = path_of(path, "path"), device_of(accelerator)
    if dataset is not None:
        instance_of(dataset, Dataset, "dataset", "open a prepared folder with Dataset.open(path)")
    with understanding(path, RunError):
        return _opened(path, dataset, knowledge, device)


def _opened(path: Path, dataset: Dataset | None, knowledge: Folders, device: torch.device) -> Run:
    config, record = read_run(path)
    if knowledge is not None:
        bases = _bases(path, config, record, knowledge)
        config = config.model_copy(update={"knowledge": tuple(map(str, bases.folders))})
    if dataset is None and Path(config.data).exists():
        dataset = Dataset.open(config.data)
    catalogue, added = _catalogue(path, record, dataset), load_added(path)
    if added is not None:
        catalogue = catalogue.with_added(added.ids, added.titles)
    grown = None
    if dataset is not None and not dataset.identity.matches(Fingerprint.of_record(record["data"])):
        grown = _growth(path, config, record, dataset, catalogue)
        dataset = None
    data = grown.served if grown is not None else dataset

    def text() -> Vectors:
        if data is None:
            raise RunError(f"{path}: saved by an earlier version, so it needs its data and its knowledge base to be opened")
        return _bases(path, config, record).matrix(data)

    task: Task = config.chosen.task.room()
    saved = load_model(path)
    for name, tensor in saved.tensors.items():
        if tensor.is_complex() or (tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())):
            raise RunError(
                f"{path}: its weights hold what is no finite number ('{name}'), so it can rank nothing; train it again"
            )
    model = task.load(config, saved, data, text)
    model.module.to(device)
    for more in (added, None if grown is None else grown.late):
        if more is not None and len(more):
            model = model.with_items(more.read)
    if grown is not None and grown.late is not None:
        catalogue = catalogue.with_added(grown.late.ids, grown.late.titles)
    kept = added.ids if added is not None else ()
    run = Run(path, config, record, model, catalogue, dataset, grown=grown, kept=kept)
    _ = run.title, run.headline, "".join(run.warnings)  # what its record must hold is asked for while it is opened
    if count := len(catalogue):  # likewise what its weights must go with
        model.scores([model.past(None, np.array([1], np.int32))], np.unique([1, count]).astype(np.int32))
    return run


def _growth(path: Path, config: RunConfig, record: Mapping[str, Any], dataset: Dataset, catalogue: Catalogue) -> Grown:
    """``dataset``, which is not what was trained on, as what that has grown to.  Raises RunError where it is something else."""
    trained = Trained.read(path, record)
    if trained is None or not trained.within(dataset):
        unknown = "" if trained is not None else ", and the run was saved by a version that remembered no events"
        raise RunError(
            f"{path}: trained on {record['data']['name']} with fingerprint {record['data']['fingerprint']}, but {dataset.path} "
            f"now has {dataset.fingerprint}; prepare the same data again or train a new run (a log that holds all that was "
            f"trained on, and more, would do{unknown})"
        )
    schema = Schema.model_validate(record["data"]["schema"])

    def read(items: pl.DataFrame) -> tuple[Additions | None, str]:
        if not record.get("reads_text"):
            return None, f"{record['title']} knows items by id alone"
        try:
            bases = _bases(path, config, record)
        except (KnowledgeError, RunError) as cause:
            return None, str(cause)
        return read_late(items, schema, catalogue, bases, path / "vocabulary.json")

    return Grown.of(dataset, schema, trained, catalogue, path / "vocabulary.json", read)


def _bases(path: Path, config: RunConfig, record: Mapping[str, Any], given: Folders = None) -> KnowledgeBases:
    """The knowledge bases of a run, where it says they are or where they are ``given``, checked to be its own."""
    if given is not None and not record["knowledge"]:
        raise ConfigError(
            f"{path}: {record['title']} reads no text, so it has no knowledge base; "
            f"leave {remedy('knowledge=', '--knowledge')} out"
        )
    gone = [each for each in config.knowledge if not Path(each).exists()]
    if given is None and gone:
        raise KnowledgeError(
            f"{gone[0]}: no knowledge base here, where the run {path} has it; say where it is: "
            + remedy("knowledge=FOLDER", "--knowledge FOLDER")
        )
    bases = KnowledgeBases.open(config.knowledge if given is None else given)
    bases.check(record["knowledge"], path)
    return bases


def _catalogue(path: Path, record: Mapping[str, Any], dataset: Dataset | None) -> Catalogue:
    if (path / CATALOGUE).exists():
        return Catalogue(record["data"]["name"], *load_catalogue(path))
    if dataset is None:
        raise RunError(
            f"{path}: saved by an earlier version, without its catalogue, and its data set ({record['data'].get('path')}) is "
            f"not there; bring it back, or say where it is: {_where()}"
        )
    return Catalogue.of_dataset(dataset)


def _reading_text(config: RunConfig) -> str:
    """What reads text in the task of a run and is nearest to it, as a request names it; empty where nothing does."""
    task, own = config.chosen.task, config.chosen.backbone
    methods = [f"enhance = '{name}'" for name, spec in task.methods.usable().items() if spec.needs_text(spec.config())]
    if methods and config.backbone not in task.models:
        return methods[0]
    for spec in (own, *task.models.usable().values()):
        if spec.needs_text(parse(spec.config, spec.settings(config.preset, informed=True), f"'{spec.name}'")):
            return f"backbone = '{spec.name}'"
    return f"backbone = '{task.default}', {methods[0]}" if methods and task.default in task.backbones else ""


def _where() -> str:
    return remedy("load(path, dataset=...)", "--data FOLDER")


def _candidates(catalogue: Catalogue, allow: Sequence[str | int] | None, deny: Sequence[str | int]) -> Rows:
    """(n,) catalogue rows, ascending."""
    rows = np.arange(1, len(catalogue) + 1, dtype=np.int32)
    if allow is not None:
        rows = np.unique(np.array([catalogue.row(item) for item in raw_ids(allow, "allow")], np.int32))
    denied = [catalogue.row(item) for item in raw_ids(deny, "deny")]
    return rows[~np.isin(rows, denied)] if denied else rows


def _check_count(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise DataError(f"k = {k!r}: a whole number is needed, such as k=10")
    if k < 1:
        raise DataError(f"k = {k}: ask for at least one item")
