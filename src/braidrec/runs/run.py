"""A finished run: scores, an honest evaluation, recommendations, and items added after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from braidrec.config import RunConfig, from_toml
from braidrec.data.batches import RankingView
from braidrec.data.dataset import Dataset
from braidrec.data.history import History, HistorySource
from braidrec.data.negatives import NegativeSampler
from braidrec.errors import DataError, RunError, suggest
from braidrec.evaluation.baselines import RankingLog, ranking_baselines
from braidrec.evaluation.report import RankingReport, evaluate_ranking
from braidrec.evaluation.slices import Slices, ranking_slices
from braidrec.files import load_tensors, read_json, save_tensors, sha256, write_atomic, write_json
from braidrec.layers.embedding import TableLayout
from braidrec.memory import keep_freed_pages
from braidrec.ranking.build import build_ranker
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import Ranker
from braidrec.runs.knowledge import item_matrix
from braidrec.runs.scoring import history_source, negative_sampler, part_batches, part_labels, score_with_progress

if TYPE_CHECKING:
    import polars as pl

RUN_FORMAT = 1


@dataclass(frozen=True)
class Recommendation:
    """One ranked item: raw id, catalogue title where there is one, and the model's probability."""

    item: str
    title: str
    probability: float


@dataclass
class Run:
    """A trained model with the data set it was trained on.  Make one with `fit`, get it back with `load`."""

    path: Path
    config: RunConfig
    dataset: Dataset
    model: Ranker
    record: Mapping[str, Any]

    def __post_init__(self) -> None:
        self._history: HistorySource | None = None
        self._view: RankingView | None = None
        self._added: list[str] = []
        self._added_titles: list[str] = []

    @property
    def title(self) -> str:
        """Model and preset, as tables name it."""
        return f"{self.record['title']} ({self.config.preset})"

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def scores(self, part: str = "test", *, show_progress: bool = True) -> NDArray[np.float32]:
        """Logits of the part's samples in log order; computed once, then read from the run directory."""
        file, note = self.path / f"scores.{part}.npy", self.path / f"scores.{part}.json"
        if note.exists():
            stored = read_json(note, RunError)
            if stored["data"] == self.dataset.fingerprint and file.exists() and sha256(file) == stored["sha256"]:
                return np.load(file, allow_pickle=False)
        batches = part_batches(self.dataset, part, self.history, self.negatives)
        logits = score_with_progress(self.model, batches, self.device, f"scoring {part}", show_progress)
        write_atomic(file, lambda temporary: _save_array(temporary, logits))
        write_json(note, {"data": self.dataset.fingerprint, "sha256": sha256(file)})
        return logits

    def evaluate(self, part: str = "test", *, show_progress: bool = True) -> RankingReport:
        """AUC and log loss by slice; see `braidrec.evaluation.report`."""
        file = self.path / f"evaluation.{part}.json"
        logits = self.scores(part, show_progress=show_progress)
        users, slices = part_slices(self.dataset, part, self.negatives)
        labels = part_labels(self.dataset, part, self.negatives)
        weight = self.dataset.log.weight
        weights = None if weight is None or self.negatives is not None else weight[self.dataset.split[part]]
        report = evaluate_ranking(labels, logits, slices, users, kind="logits", weights=weights)
        write_json(file, report.to_json())
        return report

    @property
    def negatives(self) -> NegativeSampler | None:
        return negative_sampler(self.dataset, self.config.negatives or self.dataset.settings.negatives, self.config.seed)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def history(self) -> HistorySource:
        """Where the model's histories come from; a semantic one is prepared on first use."""
        if self._history is None:
            config = self.config.model.history
            vectors = None
            if config.kind == "semantic_topk":
                vectors = item_matrix(self.config.knowledge, self.dataset)
            self._history = history_source(self.dataset, config, vectors)
        return self._history

    # -- recommendation -----------------------------------------------------------------------------------------------

    @property
    def num_items(self) -> int:
        """Catalogue and added items."""
        return self.dataset.num_items + len(self._added)

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

        allow: only these items; deny: never these.  A user the data set does not know is an error; without any ``user``
        the model's unknown rows stand in, and each of ``items`` counts as rated with the highest signal.  A known user
        without history is ranked with an empty one.  Raises DataError for unknown ids or when no candidate is left.
        """
        if (user is None) == (items is None):
            raise DataError("recommend needs either a user or a list of items (not both)")
        row, history, seen = self._known(user) if user is not None else self._stranger(items or ())
        return self._rank(row, history, seen if exclude_seen else set(), k, self._candidates(allow, deny))

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
        """Write a Parquet table (user, rank, item, probability) of the k best items of every user; returns its rows."""
        import polars as pl

        from braidrec.progress import progress

        candidates = self._candidates(allow, deny)
        columns: dict[str, list[Any]] = {"user": [], "rank": [], "item": [], "probability": []}
        with progress("recommending", self.dataset.num_users, "users", show=show_progress) as advance:
            for raw in self.dataset.user_ids:
                row, history, seen = self._known(raw)
                for rank, found in enumerate(
                    self._rank(row, history, seen if exclude_seen else set(), k, candidates, may_be_empty=True), start=1
                ):
                    for name, value in (
                        ("user", raw),
                        ("rank", rank),
                        ("item", found.item),
                        ("probability", found.probability),
                    ):
                        columns[name].append(value)
                advance(1)
        write_atomic(out, lambda temporary: pl.DataFrame(columns).write_parquet(temporary))
        return len(columns["user"])

    def score_items(self, user: str | int, items: Sequence[str | int]) -> NDArray[np.float32]:
        """Probabilities (n,) of ``items`` for a known user as of now."""
        row, history, _ = self._known(user)
        return self._probabilities(row, history, np.array([self._item_row(item) for item in items], np.int32))

    def _rank(
        self,
        user: int,
        history: History,
        seen: set[int],
        k: int,
        candidates: NDArray[np.int32],
        *,
        may_be_empty: bool = False,
    ) -> list[Recommendation]:
        if k < 1:
            raise DataError(f"k = {k}: ask for at least one item")
        rows = candidates[~np.isin(candidates, list(seen))] if seen else candidates
        if not len(rows):
            if may_be_empty:
                return []
            raise DataError(
                "no candidate is left: every allowed item is denied or already seen; loosen --allow, --deny or --include-seen"
            )
        probability = self._probabilities(user, history, rows)
        order = np.lexsort((rows, -probability))[:k]  # equal scores: smaller catalogue row first
        return [
            Recommendation(self.item_id(int(rows[at])), self.item_title(int(rows[at])), float(probability[at])) for at in order
        ]

    def _probabilities(self, user: int, history: History, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        parts = []
        self.model.eval()
        with torch.inference_mode():
            for chunk in torch.from_numpy(rows).split(8192):
                batch = self.view.candidates(user, chunk, history).to(self.device)
                parts.append(torch.sigmoid(self.model(batch).float()).cpu())
        return torch.cat(parts).numpy()

    @property
    def view(self) -> RankingView:
        if self._view is None:
            self._view = RankingView(self.dataset, self.history)
        return self._view

    def _known(self, user: str | int | None) -> tuple[int, History, set[int]]:
        row = self.dataset.user_rows.get(str(user))
        if row is None:
            raise DataError(
                f"user '{user}' is not in {self.dataset.name}{suggest(str(user), self.dataset.user_ids[:2000])}; "
                "for somebody new pass the items they liked (--items a,b,c)"
            )
        log = self.dataset.log
        seen = set(log.slot_item[log.start[row] : log.start[row + 1]].tolist())
        end = int(log.history_length[row])
        events = torch.arange(max(0, end - self.config.model.history.length), end) + int(log.start[row])
        return row, self._pad(torch.from_numpy(log.slot_item)[events], torch.from_numpy(log.slot_signal)[events]), seen

    def _stranger(self, items: Sequence[str | int]) -> tuple[int, History, set[int]]:
        rows = [self._item_row(item) for item in items]
        kept = torch.tensor(rows[-self.config.model.history.length :], dtype=torch.int32)
        return 0, self._pad(kept, torch.full_like(kept, self.dataset.num_signals)), set(rows)

    def _pad(self, items: torch.Tensor, signals: torch.Tensor) -> History:
        length = self.config.model.history.length
        mask = torch.arange(length)[None] < len(items)
        padded = torch.zeros(2, length, dtype=torch.int32)
        padded[0, : len(items)], padded[1, : len(items)] = items, signals
        return History(padded[:1], padded[1:], mask)

    def _candidates(self, allow: Sequence[str | int] | None, deny: Sequence[str | int]) -> NDArray[np.int32]:
        rows = np.arange(1, self.num_items + 1, dtype=np.int32)
        if allow is not None:
            rows = np.unique(np.array([self._item_row(item) for item in allow], np.int32))
        return rows[~np.isin(rows, [self._item_row(item) for item in deny])] if len(deny) else rows

    def _item_row(self, item: str | int) -> int:
        row = self.dataset.item_rows.get(str(item))
        if row is not None:
            return row
        if str(item) in self._added:
            return self.dataset.num_items + 1 + self._added.index(str(item))
        raise DataError(
            f"item '{item}' is not in the catalogue of {self.dataset.name}{suggest(str(item), self.dataset.item_ids[:2000])}"
        )

    def item_id(self, row: int) -> str:
        return (
            self.dataset.item_ids[row - 1] if row <= self.dataset.num_items else self._added[row - self.dataset.num_items - 1]
        )

    def item_title(self, row: int) -> str:
        """The first text column of the catalogue, '' where the item has none."""
        if row > self.dataset.num_items:
            return self._added_titles[row - self.dataset.num_items - 1]
        columns = self.dataset.schema.text
        return str(self.dataset.items[columns[0]][row - 1] or "") if columns else ""

    # -- items added after training -------------------------------------------------------------------------------------

    def add_items(self, items: Mapping[str, str] | pl.DataFrame) -> int:
        """Make items scorable that the model never saw, by their text; they stay with the run.  Returns how many.

        items: raw id -> text, or a frame with the catalogue's id column, its text columns and any of its fields.  The text
        goes through the knowledge base's own encoder and prompt, then through the semantic MLP that `export` kept; every
        id field takes its unknown row, other fields the row of their value.
        Raises RunError when the model reads no text, DataError for ids already there.
        """
        from braidrec.runs.additions import encode_additions

        source = next((part for part in self.model.sources if isinstance(part, DisCo)), None)
        if source is None:
            raise RunError(f"{self.path}: a plain model knows items by id alone; add_items needs a run with enhance = 'disco'")
        added = encode_additions(self, items)
        stored = self.path / "added"
        old = load_added(stored)
        tensors = (
            added.tensors if old is None else {name: torch.cat([old[1][name], part]) for name, part in added.tensors.items()}
        )
        entries = (old[0] if old else []) + [
            {"id": raw, "title": title} for raw, title in zip(added.ids, added.titles, strict=True)
        ]
        digest = save_tensors(stored / "items.safetensors", tensors)
        write_json(stored / "items.json", {"sha256": digest, "items": entries})
        self._extend(added.ids, added.titles, added.tensors)
        return len(added.ids)

    def _extend(self, ids: Sequence[str], titles: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> None:
        for source in self.model.sources:
            if isinstance(source, DisCo):
                source.semantic.add(tensors["vectors"])
        embed = self.model.embed
        embed.item_fields = torch.cat([embed.item_fields, tensors["fields"].to(embed.item_fields.device)])
        bags = [tensors[f"bag.{at}"] for at in range(sum(name.startswith("bag.") for name in tensors))]
        self.view.add_items(tensors["fields"], tensors["numbers"], bags)
        self._added += list(ids)
        self._added_titles += list(titles)


def load(path: Path | str, *, dataset: Dataset | None = None) -> Run:
    """Open a run directory.  Raises RunError when it is missing, unfinished, damaged, or its data set changed."""
    keep_freed_pages()
    path = Path(path)
    if not (path / "run.json").exists():
        state = "is unfinished; run 'braidrec fit' with the same settings to go on" if path.is_dir() else "does not exist"
        raise RunError(f"{path}: the run {state}")
    record = read_json(path / "run.json", RunError)
    if record.get("format") != RUN_FORMAT:
        raise RunError(f"{path}: run format {record.get('format')!r}, this version reads {RUN_FORMAT}; train it again")
    config = from_toml(path / "config.toml")
    dataset = dataset or Dataset.open(config.data)
    if dataset.fingerprint != record["data"]["fingerprint"]:
        raise RunError(
            f"{path}: trained on {record['data']['name']} with fingerprint {record['data']['fingerprint']}, but {dataset.path} "
            f"now has {dataset.fingerprint}; prepare the same data again or train a new run"
        )
    if config.model.statistics and dataset.statistics is None:
        dataset = dataset.with_statistics()
    about = read_json(path / "model.json", RunError)
    tensors = load_tensors(path / "model.safetensors", about["sha256"], RunError)
    layout = TableLayout(**{name: _tuples(value) for name, value in about["layout"].items()})
    with torch.random.fork_rng(devices=[]):
        model = build_ranker(
            config.model, layout, tensors["embed.item_fields"], knowledge=None, semantic_width=about["semantic_width"]
        )
    for at, source in enumerate(model.sources):
        if isinstance(source, DisCo):
            source.export()
            source.semantic.reduced = tensors[f"sources.{at}.semantic.reduced"]
    model.load_state_dict(tensors)
    model.eval()
    run = Run(path, config, dataset, model, record)
    added = load_added(path / "added")
    if added is not None:
        run._extend([entry["id"] for entry in added[0]], [entry["title"] for entry in added[0]], added[1])
    return run


def load_added(folder: Path) -> tuple[list[dict[str, str]], dict[str, torch.Tensor]] | None:
    if not (folder / "items.json").exists():
        return None
    about = read_json(folder / "items.json", RunError)
    return about["items"], load_tensors(folder / "items.safetensors", about["sha256"], RunError)


def part_slices(dataset: Dataset, part: str, negatives: NegativeSampler | None) -> tuple[NDArray[np.int32], Slices]:
    """Users (N,) and slices of a part's samples; with drawn negatives every event stands for all its samples."""
    log, rows, train = dataset.log, dataset.split[part], dataset.split["train"]
    per_event = 1 + (negatives.per_positive if negatives else 0)
    user, item = log.user[rows].repeat(per_event), log.item[rows].repeat(per_event)
    if negatives is not None:
        samples = torch.arange(len(rows) * per_event)
        item = negatives.draw(torch.from_numpy(rows).repeat_interleave(per_event), samples, samples % per_event, 0).numpy()
    return user, ranking_slices(user, item, log.user[train], log.item[train], dataset.num_items)


def baseline_reports(dataset: Dataset) -> dict[str, RankingReport]:
    """Popularity, smoothed item mean, and that plus the user's past residual, on the test part."""
    log, split = dataset.log, dataset.split
    users, slices = part_slices(dataset, "test", None)
    labels = part_labels(dataset, "test", None)
    rankings = ranking_baselines(RankingLog(log.user, log.item, log.label, split["train"], split["valid"], split["test"]))
    return {each.name: evaluate_ranking(labels, each.test, slices, users, kind="scores") for each in rankings}


def _save_array(path: Path, values: NDArray[np.float32]) -> None:
    with path.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
