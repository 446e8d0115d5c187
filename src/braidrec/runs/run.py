"""A finished run: scores, an honest evaluation, recommendations, and items added after training."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from braidrec.config import RunConfig, from_toml
from braidrec.data.batches import RankingView
from braidrec.data.dataset import Dataset
from braidrec.data.history import History, HistorySource
from braidrec.data.negatives import NegativeSampler
from braidrec.errors import DataError, RunError
from braidrec.evaluation.baselines import RankingLog, ranking_baselines
from braidrec.evaluation.report import RankingReport, evaluate_ranking
from braidrec.evaluation.slices import Slices, ranking_slices
from braidrec.files import check_digest, load_tensors, read_json, save_tensors, sha256, write_atomic, write_json
from braidrec.layers.embedding import TableLayout
from braidrec.memory import keep_freed_pages
from braidrec.ranking.build import build_ranker
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import Ranker
from braidrec.runs.knowledge import item_matrix
from braidrec.runs.scoring import (
    EVALUATION_SEED,
    SimilarPast,
    history_source,
    negative_sampler,
    part_batches,
    part_labels,
    part_weights,
    score_with_progress,
)

if TYPE_CHECKING:
    import polars as pl

RUN_FORMAT = 1
RUN_FILES = ("config.toml", "model.json", "vocabulary.json", "metrics.jsonl", "environment.json")  # under run.json's digests


@dataclass(frozen=True)
class Recommendation:
    """One ranked item: raw id, catalogue title where there is one, and the model's probability."""

    item: str
    title: str
    probability: float


@dataclass(frozen=True)
class _Past:
    """Who asks: a user's catalogue row, 0 for somebody new, and all behaviours, items and signals (n,) int32, oldest first."""

    user: int
    items: torch.Tensor
    signals: torch.Tensor


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
        self._vectors: NDArray[np.float32] | None = None
        self._similar: SimilarPast | None = None
        self._negatives: NegativeSampler | None = None
        self._added: dict[str, int] = {}  # catalogue row by raw id
        self._added_ids: list[str] = []
        self._added_titles: list[str] = []
        self._added_vectors: list[NDArray[np.float32]] = []

    @property
    def title(self) -> str:
        """Model and preset, as tables name it."""
        return f"{self.record['title']} ({self.config.preset})"

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def scores(self, part: str = "test", *, show_progress: bool = True) -> NDArray[np.float32]:
        """Logits of the part's samples in log order; computed once, then read from the run directory."""
        file, note = self.path / f"scores.{part}.npy", self.path / f"scores.{part}.json"
        if note.exists() and file.exists():
            with contextlib.suppress(RunError):  # what is damaged is scored again
                stored = read_json(note, RunError)
                if stored == {"data": self.dataset.fingerprint, "sha256": sha256(file)}:
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
        weights = part_weights(self.dataset, part, self.negatives)
        report = evaluate_ranking(labels, logits, slices, users, kind="logits", weights=weights)
        write_json(file, report.to_json())
        return report

    @property
    def negatives(self) -> NegativeSampler | None:
        """Of the held-out parts: the same for every seed, None where the log has negatives of its own."""
        if self._negatives is None:
            per_positive = self.config.negatives or self.dataset.settings.negatives
            self._negatives = negative_sampler(self.dataset, per_positive, EVALUATION_SEED)
        return self._negatives

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def history(self) -> HistorySource:
        """Where the model's histories come from; a semantic one is prepared on first use."""
        if self._history is None:
            config = self.config.model.history
            vectors = self._knowledge if config.kind == "semantic_topk" else None
            self._history = history_source(self.dataset, config, vectors)
        return self._history

    @property
    def _knowledge(self) -> NDArray[np.float32]:
        if self._vectors is None:
            self._vectors = item_matrix(self.config.knowledge, self.dataset)
        return self._vectors

    # -- recommendation -----------------------------------------------------------------------------------------------

    @property
    def num_items(self) -> int:
        """Catalogue and added items."""
        return self.dataset.num_items + len(self._added_ids)

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
        _check_count(k)
        past = self._known(user) if user is not None else self._stranger(items or ())
        found = self._rank(past, k, self._candidates(allow, deny), exclude_seen)
        if not found:
            raise DataError(
                "no candidate is left: every allowed item is denied or already seen; loosen --allow, --deny or --include-seen"
            )
        return found

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

        user, item: raw ids as text; rank from 1 on; probability, highest first.  Users without a candidate have no rows.
        """
        import polars as pl

        from braidrec.progress import progress

        _check_count(k)
        candidates = self._candidates(allow, deny)
        columns: dict[str, list[Any]] = {"user": [], "rank": [], "item": [], "probability": []}
        with progress("recommending", self.dataset.num_users, "users", show=show_progress) as advance:
            for raw in self.dataset.user_ids:
                for rank, found in enumerate(self._rank(self._known(raw), k, candidates, exclude_seen), start=1):
                    for name, value in (
                        ("user", raw),
                        ("rank", rank),
                        ("item", found.item),
                        ("probability", found.probability),
                    ):
                        columns[name].append(value)
                advance(1)
        kinds = {"user": pl.String, "rank": pl.Int32, "item": pl.String, "probability": pl.Float32}
        write_atomic(out, lambda temporary: pl.DataFrame(columns, schema=kinds).write_parquet(temporary))
        return len(columns["user"])

    def score_items(self, user: str | int, items: Sequence[str | int]) -> NDArray[np.float32]:
        """Probabilities (n,) of ``items`` for a known user as of now."""
        return self._probabilities(self._known(user), np.array([self._item_row(item) for item in items], np.int32))

    def _rank(self, past: _Past, k: int, candidates: NDArray[np.int32], exclude_seen: bool) -> list[Recommendation]:
        rows = candidates[~np.isin(candidates, past.items.numpy())] if exclude_seen else candidates
        if not len(rows):
            return []
        probability = self._probabilities(past, rows)
        order = np.lexsort((rows, -probability))[:k]  # equal scores: smaller catalogue row first
        return [
            Recommendation(self.item_id(int(rows[at])), self.item_title(int(rows[at])), float(probability[at])) for at in order
        ]

    def _probabilities(self, past: _Past, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        if not len(rows):
            return np.zeros(0, np.float32)
        parts = []
        self.model.eval()
        with torch.inference_mode():
            for chunk in torch.from_numpy(rows).split(8192):
                batch = self.view.candidates(past.user, chunk, self._window(past, chunk)).to(self.device)
                parts.append(torch.sigmoid(self.model(batch).float()).cpu())
        return torch.cat(parts).numpy()

    def _window(self, past: _Past, candidates: torch.Tensor) -> History:
        """The history that the model reads: the latest behaviours (1, K), or those most similar to each candidate (B, K)."""
        length = self.config.model.history.length
        if self.config.model.history.kind == "semantic_topk":
            if self._similar is None:
                added = np.concatenate(self._added_vectors) if self._added_vectors else None
                self._similar = SimilarPast.of(self._knowledge, added, length)
            return self._similar.window(past.items, past.signals, candidates)
        items, signals = past.items[-length:], past.signals[-length:]
        left = length - len(items)
        mask = torch.arange(length)[None] < len(items)
        return History(F.pad(items, (0, left))[None], F.pad(signals, (0, left))[None], mask)

    @property
    def view(self) -> RankingView:
        if self._view is None:
            self._view = RankingView(self.dataset, self.history)
        return self._view

    def _known(self, user: str | int) -> _Past:
        row = self.dataset.user_rows.get(str(user))
        if row is None:
            raise DataError(
                f"user '{user}' is not in {self.dataset.name}{_near(str(user), self.dataset.user_ids)}; "
                "for somebody new pass the items they liked (--items a,b,c)"
            )
        log = self.dataset.log
        events = slice(int(log.start[row]), int(log.start[row + 1]))
        return _Past(row, torch.from_numpy(log.slot_item[events]), torch.from_numpy(log.slot_signal[events]))

    def _stranger(self, items: Sequence[str | int]) -> _Past:
        rows = torch.tensor([self._item_row(item) for item in items], dtype=torch.int32)
        return _Past(0, rows, torch.full_like(rows, self.dataset.num_signals))

    def _candidates(self, allow: Sequence[str | int] | None, deny: Sequence[str | int]) -> NDArray[np.int32]:
        rows = np.arange(1, self.num_items + 1, dtype=np.int32)
        if allow is not None:
            rows = np.unique(np.array([self._item_row(item) for item in allow], np.int32))
        return rows[~np.isin(rows, [self._item_row(item) for item in deny])] if len(deny) else rows

    def _item_row(self, item: str | int) -> int:
        row = self.dataset.item_rows.get(str(item)) or self._added.get(str(item))
        if row is None:
            raise DataError(
                f"item '{item}' is not in the catalogue of {self.dataset.name}{_near(str(item), self.dataset.item_ids)}"
            )
        return row

    def item_id(self, row: int) -> str:
        own = self.dataset.num_items
        return self.dataset.item_ids[row - 1] if row <= own else self._added_ids[row - own - 1]

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
        if not len(items):
            return 0
        added = encode_additions(self, items)
        stored = self.path / "added"
        old = load_added(stored)
        if [entry["id"] for entry in (old[0] if old else [])] != self._added_ids:
            raise RunError(f"{self.path}: items were added from elsewhere since this run was loaded; load it again first")
        tensors = added.tensors if old is None else {name: _stacked(old[1][name], part) for name, part in added.tensors.items()}
        entries = (old[0] if old else []) + [
            {"id": raw, "title": title} for raw, title in zip(added.ids, added.titles, strict=True)
        ]
        file = stored / f"items-{len(entries)}.safetensors"
        digest = save_tensors(file, tensors)
        about = {"file": file.name, "sha256": digest, "items": entries}
        write_json(stored / "items.json", about | {"digest": record_digest(about)})
        for earlier in stored.glob("items-*.safetensors"):
            if earlier != file:
                earlier.unlink()
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
        self._added |= {raw: self.num_items + 1 + at for at, raw in enumerate(ids)}
        self._added_ids += ids
        self._added_titles += titles
        self._added_vectors.append(tensors["vectors"].numpy())
        self._similar = None


def load(path: Path | str, *, dataset: Dataset | None = None) -> Run:
    """Open a run directory.  Raises RunError when it is missing, unfinished, damaged, or its data set changed."""
    keep_freed_pages()
    path = Path(path)
    if not (path / "run.json").exists():
        state = "is unfinished; run 'braidrec fit' with the same settings to go on" if path.is_dir() else "does not exist"
        raise RunError(f"{path}: the run {state}")
    record = read_json(path / "run.json", RunError)
    found = record.get("format") if isinstance(record, dict) else None
    if found != RUN_FORMAT:
        raise RunError(f"{path}: run format {found!r}, this version reads {RUN_FORMAT}; train it again")
    if record.pop("digest", None) != record_digest(record):
        raise RunError(f"{path / 'run.json'}: its content does not have its digest; the file is damaged or was edited")
    for name in RUN_FILES:
        check_digest(path / name, record["files"].get(name, ""), RunError)
    config = _moved(from_toml(path / "config.toml"), record)
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
    if not isinstance(about, dict) or about.pop("digest", None) != record_digest(about):
        raise RunError(f"{folder / 'items.json'}: its content does not have its digest; the file is damaged or was edited")
    return about["items"], load_tensors(folder / about["file"], about["sha256"], RunError)


def record_digest(record: Mapping[str, Any]) -> str:
    """Of run.json's content, so that a damaged entry is noticed like a damaged file."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _moved(config: RunConfig, record: Mapping[str, Any]) -> RunConfig:
    """Relative paths were written from the folder where the run was started: elsewhere the recorded whole ones help."""
    paths = {}
    for key, written, recorded in (
        ("data", config.data, record["data"]),
        ("knowledge", config.knowledge, record["knowledge"] or {}),
    ):
        if written is not None and not Path(written).exists() and Path(recorded.get("path", "")).is_absolute():
            paths[key] = recorded["path"]
    return config.model_copy(update=paths)


def _check_count(k: int) -> None:
    if k < 1:
        raise DataError(f"k = {k}: ask for at least one item")


def _near(raw: str, ids: Sequence[str]) -> str:
    """The id that was perhaps meant, else an example of what ids look like."""
    close = difflib.get_close_matches(raw, ids[:20_000], n=1, cutoff=0.8)
    return f" (did you mean '{close[0]}'?)" if close else f" (its ids look like '{ids[0]}')"


def _stacked(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Rows of both, padded with 0 to one width."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(part, (0, width - part.shape[1])) for part in (first, second)])


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
    labels, weights = part_labels(dataset, "test", None), part_weights(dataset, "test", None)
    rankings = ranking_baselines(RankingLog(log.user, log.item, log.label, split["train"], split["valid"], split["test"]))
    return {each.name: evaluate_ranking(labels, each.test, slices, users, kind="scores", weights=weights) for each in rankings}


def _save_array(path: Path, values: NDArray[np.float32]) -> None:
    with path.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
