"""A finished run of any task: recommendations for somebody or everybody, and items added after training."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.errors import DataError, RunError
from braidrec.files import write_atomic
from braidrec.memory import keep_freed_pages
from braidrec.runs.directory import load_added, read_run, save_added

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Recommendation:
    """One ranked item: raw id, catalogue title where there is one, and the model's score, higher is better.

    probability: the score where it is one, None where the model's scores are no probabilities.
    """

    item: str
    title: str
    score: float
    probability: float | None = None


@dataclass
class Run(ABC):
    """A trained model with the data set it was trained on.  Make one with `fit`, get it back with `load`.

    A task's own class holds the model and fills what is abstract here.  What it makes of somebody who asks, their *past*,
    passes through this class unopened.
    """

    path: Path
    config: RunConfig
    dataset: Dataset
    record: Mapping[str, Any]

    scores_are_probabilities: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._added: dict[str, int] = {}  # catalogue row by raw id
        self._added_ids: list[str] = []
        self._added_titles: list[str] = []

    @property
    def title(self) -> str:
        """Model and preset, as tables name it."""
        return f"{self.record['title']} ({self.config.preset})"

    @property
    def headline(self) -> str:
        """The validation metrics of the weights that were kept, in words."""
        return ", ".join(f"{name} {value:.4f}" for name, value in self.record["best"]["metrics"].items())

    @property
    def num_items(self) -> int:
        """Catalogue and added items."""
        return self.dataset.num_items + len(self._added_ids)

    def notes(self, *, new_user: bool) -> list[str]:
        """What a reader of recommendations should know: how the model sees somebody new, and items added after training."""
        return []

    # -- what a task fills --------------------------------------------------------------------------------------------

    @abstractmethod
    def evaluate(self, part: str = "test", *, show_progress: bool = True) -> Any:
        """The task's report on a held-out part, by slice: ``evaluate()["all"]`` is every row."""

    @abstractmethod
    def _known(self, user: str | int) -> Any:
        """The past of a user of the data set; `_user_row` finds them."""

    @abstractmethod
    def _stranger(self, items: Sequence[str | int]) -> Any:
        """The past of somebody new who liked ``items``, oldest first, perhaps none; `_item_row` finds them."""

    @abstractmethod
    def _past_items(self, past: Any) -> Rows:
        """(n,) catalogue rows that a past holds, in any order: what exclude_seen leaves out."""

    @abstractmethod
    def _score_candidates(self, past: Any, rows: Rows) -> Floats:
        """(n,) scores of the catalogue rows ``rows`` (n,), n > 0, added items among them."""

    @abstractmethod
    def _check_reads_text(self) -> None:
        """Raise RunError when the model cannot know an item by its text alone, so that none can be added."""

    @abstractmethod
    def _extend(self, tensors: Mapping[str, Tensor]) -> None:
        """Put items behind those that the model knows; tensors as in `braidrec.runs.additions.Additions`."""

    # -- recommendation -----------------------------------------------------------------------------------------------

    def recommend(
        self,
        user: str | int | None = None,
        *,
        items: Sequence[str | int] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Sequence[str | int] | None = None,
        deny: Sequence[str | int] = (),
    ) -> list[Recommendation]:
        """The k best items for a known ``user``, or for somebody new who liked ``items`` (oldest first).

        allow: only these items; deny: never these.  A user the data set does not know is an error; for how somebody new is
        seen, see `notes`.  A known user without history is ranked with an empty one.  Raises DataError for unknown ids or
        when no candidate is left.
        """
        if (user is None) == (items is None):
            raise DataError("recommend needs either a user or a list of items (not both)")
        _check_count(k)
        past = self._known(user) if user is not None else self._stranger(items or ())
        rows, scores = self._rank(past, k, self._candidates(allow, deny), exclude_seen)
        if not len(rows):
            raise DataError(
                "no candidate is left: every allowed item is denied or already seen; loosen --allow, --deny or --include-seen"
            )
        return [
            Recommendation(self.item_id(row), self.item_title(row), score, score if self.scores_are_probabilities else None)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def recommend_all(
        self,
        out: Path,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Sequence[str | int] | None = None,
        deny: Sequence[str | int] = (),
        show_progress: bool = True,
    ) -> int:
        """Write a Parquet table of the k best items of every user; returns its rows.

        user, item: raw ids as text; rank from 1 on; probability (score, where it is none), highest first.  Users without a
        candidate have no rows.
        """
        import polars as pl

        from braidrec.progress import progress

        _check_count(k)
        users = self.dataset.user_ids
        parts: list[tuple[Rows, Floats]] = []
        with progress("recommending", len(users), "users", show=show_progress) as advance:
            for part in self._rank_all(users, k, self._candidates(allow, deny), exclude_seen):
                parts.append(part)
                advance(1)
        counts = [len(rows) for rows, _ in parts]
        items = np.concatenate([rows for rows, _ in parts])
        frame = pl.DataFrame(
            {
                "user": pl.Series("user", users, dtype=pl.String).gather(np.repeat(np.arange(len(users)), counts)),
                "rank": np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts]),
                "item": pl.Series("item", [*self.dataset.item_ids, *self._added_ids], dtype=pl.String).gather(items - 1),
                "probability" if self.scores_are_probabilities else "score": np.concatenate([scores for _, scores in parts]),
            }
        )
        write_atomic(out, lambda temporary: frame.write_parquet(temporary))
        return len(frame)

    def score_items(self, user: str | int, items: Sequence[str | int]) -> Floats:
        """Scores (n,) of ``items`` for a known user as of now, on the scale of `Recommendation.score`."""
        past, rows = self._known(user), np.array([self._item_row(item) for item in items], np.int32)
        return self._score_candidates(past, rows) if len(rows) else np.zeros(0, np.float32)

    def _rank(self, past: Any, k: int, candidates: Rows, exclude_seen: bool) -> tuple[Rows, Floats]:
        """Catalogue rows (n,) and scores (n,) of the k best candidates; equal scores: the smaller row first."""
        rows = candidates[~np.isin(candidates, self._past_items(past))] if exclude_seen else candidates
        if not len(rows):
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        scores = self._score_candidates(past, rows)
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def _rank_all(self, users: Sequence[str], k: int, candidates: Rows, exclude_seen: bool) -> Iterator[tuple[Rows, Floats]]:
        """`_rank` for each of ``users`` (raw ids), in their order.  A task that scores many at once has its own way."""
        for user in users:
            yield self._rank(self._known(user), k, candidates, exclude_seen)

    # -- ids and rows -------------------------------------------------------------------------------------------------

    def item_id(self, row: int) -> str:
        own = self.dataset.num_items
        return self.dataset.item_ids[row - 1] if row <= own else self._added_ids[row - own - 1]

    def item_title(self, row: int) -> str:
        """The first text column of the catalogue, '' where the item has none."""
        if row > self.dataset.num_items:
            return self._added_titles[row - self.dataset.num_items - 1]
        columns = self.dataset.schema.text
        return str(self.dataset.items[columns[0]][row - 1] or "") if columns else ""

    def _user_row(self, user: str | int) -> int:
        row = self.dataset.user_rows.get(str(user))
        if row is None:
            raise DataError(
                f"user '{user}' is not in {self.dataset.name}{_near(str(user), self.dataset.user_ids)}; "
                "for somebody new pass the items they liked (--items a,b,c)"
            )
        return row

    def _item_row(self, item: str | int) -> int:
        row = self.dataset.item_rows.get(str(item)) or self._added.get(str(item))
        if row is None:
            raise DataError(
                f"item '{item}' is not in the catalogue of {self.dataset.name}{_near(str(item), self.dataset.item_ids)}"
            )
        return row

    def _candidates(self, allow: Sequence[str | int] | None, deny: Sequence[str | int]) -> Rows:
        rows = np.arange(1, self.num_items + 1, dtype=np.int32)
        if allow is not None:
            rows = np.unique(np.array([self._item_row(item) for item in allow], np.int32))
        return rows[~np.isin(rows, [self._item_row(item) for item in deny])] if len(deny) else rows

    # -- items added after training -------------------------------------------------------------------------------------

    def add_items(self, items: Mapping[str, str] | pl.DataFrame) -> int:
        """Make items scorable that the model never saw, by their text; they stay with the run.  Returns how many.

        items: raw id -> text, or a frame with the catalogue's id column, its text columns and any of its fields.  The text
        goes through the knowledge base's own encoder and prompt, then through what the model kept to read it; every id
        takes its unknown row, other fields the row of their value.
        Raises RunError when the model reads no text, DataError for ids already there.
        """
        from braidrec.runs.additions import encode_additions

        self._check_reads_text()
        if not len(items):
            return 0
        added = encode_additions(self, items)
        save_added(self.path, self._added_ids, added.ids, added.titles, added.tensors)
        self._register(added.ids, added.titles, added.tensors)
        return len(added.ids)

    def _register(self, ids: Sequence[str], titles: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        self._extend(tensors)
        self._added |= {raw: self.num_items + 1 + at for at, raw in enumerate(ids)}
        self._added_ids += ids
        self._added_titles += titles


def load(path: Path | str, *, dataset: Dataset | None = None) -> Run:
    """Open a run directory.  Raises RunError when it is missing, unfinished, damaged, or its data set changed."""
    keep_freed_pages()
    path = Path(path)
    config, record = read_run(path)
    dataset = dataset or Dataset.open(config.data)
    if dataset.fingerprint != record["data"]["fingerprint"]:
        raise RunError(
            f"{path}: trained on {record['data']['name']} with fingerprint {record['data']['fingerprint']}, but {dataset.path} "
            f"now has {dataset.fingerprint}; prepare the same data again or train a new run"
        )
    run: Run
    if config.task == "sequential":
        from braidrec.runs.sequential import load_sequential

        run = load_sequential(path, config, dataset, record)
    else:
        from braidrec.runs.ranking import load_ranking

        run = load_ranking(path, config, dataset, record)
    if added := load_added(path):
        entries, tensors = added
        run._register([entry["id"] for entry in entries], [entry["title"] for entry in entries], tensors)
    return run


def _check_count(k: int) -> None:
    if k < 1:
        raise DataError(f"k = {k}: ask for at least one item")


def _near(raw: str, ids: Sequence[str]) -> str:
    """The id that was perhaps meant, else an example of what ids look like."""
    close = difflib.get_close_matches(raw, ids[:20_000], n=1, cutoff=0.8)
    return f" (did you mean '{close[0]}'?)" if close else f" (its ids look like '{ids[0]}')"
