"""A data set prepared once into a directory, opened instantly after: columnar arrays by memory map, one manifest.

manifest.json            version, schema, settings, counts, sources, fingerprint of the contents, digest of every file
log.*.npy  split.*.npy   the InteractionLog and the positions of each part
fields.*.npy             what each catalogue row's fields are
vocabulary.json          raw values by row
items.parquet            the catalogue, row k of the file being catalogue row k + 1 (users.parquet likewise)
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from braidrec.arguments import instance_of, path_of
from braidrec.data import describe, splits, vocabulary
from braidrec.data.cleaning import clean
from braidrec.data.features import Bag, Features, Scaling, encode_fields, number_column
from braidrec.data.fingerprint import Fingerprint, of_contents, of_files
from braidrec.data.followed import followed, followed_positions
from braidrec.data.log import InteractionLog
from braidrec.data.rates import CausalRates
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import LEAVE, PART_NAMES
from braidrec.data.settings import PrepareSettings as PrepareSettings
from braidrec.data.splits import Split
from braidrec.data.statistics import CausalStatistics
from braidrec.data.vocabulary import Owner, Rows, Vocabulary
from braidrec.errors import DataError, remedy
from braidrec.files import check_digest, new_directory, read_json, sha256, understanding, write_json

if TYPE_CHECKING:
    import polars as pl

    from braidrec.data.intake.readers import ReadConfig
    from braidrec.data.tables import Tables

FORMAT = 1
_MAX_SIGNALS = 64
_READ_WHOLE = 1 << 30  # bytes of arrays up to which a data set is read into memory instead of mapped
_LOG_PARTS = (
    "user",
    "item",
    "timestamp",
    "rating",
    "label",
    "signal",
    "rank",
    "slot_event",
    "slot_item",
    "slot_signal",
    "start",
)
_LOG_EXTRAS = ("weight", "visible", "origin")  # stored where a log has them
_FIELD_PARTS = ("user_fields", "item_fields", "context_fields", "user_numbers", "item_numbers", "context_numbers")


@dataclass(frozen=True)
class Dataset:
    """One prepared data set.  Catalogue rows are 1-based; row 0 is padding everywhere."""

    path: Path
    name: str
    schema: Schema
    settings: PrepareSettings
    log: InteractionLog
    split: Split
    features: Features
    num_users: int
    num_items: int
    num_signals: int
    manifest: Mapping[str, Any]
    statistics: CausalStatistics | None = None
    rates: CausalRates | None = None

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name}, {len(self.log):,} events, {self.num_users:,} users, {self.num_items:,} items, {self.path})"
        )

    def __str__(self) -> str:
        return describe.as_text(*self._described)

    def _repr_html_(self) -> str:
        return describe.as_html(*self._described)

    @property
    def _described(self) -> tuple[str, describe.Lines]:
        with understanding(self.path / "manifest.json", DataError):
            lines = describe.lines_of(self.schema, self.settings, self.log, self.split, self.manifest, self.path)
        return f"data set {self.name} at {self.path}", lines

    @property
    def notes(self) -> list[str]:
        """What was guessed and decided when it was prepared."""
        return [str(note) for note in self.manifest.get("notes") or ()]

    @classmethod
    def prepare(
        cls, tables: Tables, path: Path | str, settings: PrepareSettings | None = None, *, overwrite: bool = False
    ) -> Dataset:
        """Number, order, split and store ``tables``; nothing is left behind when it fails."""
        from braidrec.data.tables import Tables

        path, settings = path_of(path, "path"), PrepareSettings() if settings is None else settings
        instance_of(tables, Tables, "tables", "Dataset.from_frames takes frames and files")
        instance_of(settings, PrepareSettings, "settings", "write PrepareSettings(...)")
        if path.exists() and not overwrite:
            raise DataError(
                f"{path} already exists; choose another folder or pass overwrite{remedy('=True', ' (--overwrite)')}"
            )
        if path.exists() and not (path / "manifest.json").is_file():
            raise DataError(
                f"{path} is not a prepared data set, so it is not overwritten; choose another folder or remove it yourself"
            )
        with new_directory(path, overwrite=overwrite) as folder:
            _Preparation(tables, settings).write(folder)
        return cls.open(path)

    @classmethod
    def from_frames(
        cls,
        interactions: Any,
        items: Any = None,
        users: Any = None,
        *,
        schema: Schema | None = None,
        settings: PrepareSettings | None = None,
        path: Path | str | None = None,
        overwrite: bool = False,
        read: ReadConfig | None = None,
        clean: bool = False,
    ) -> Dataset:
        """Prepare Polars, Arrow or pandas frames, or files of such; column roles are guessed when no ``schema`` is given.

        read: how values are read where there are two readings (`ReadConfig`)    clean: takes HTML out of the items' texts
        path: the folder to prepare into; a temporary one when left out.  Where the same data are prepared there already they
        are opened, so that a script can be run twice; other data are replaced with ``overwrite`` alone.
        """
        from braidrec.data.intake.description import tables_from_frames, with_usual_split

        if schema is not None:
            instance_of(schema, Schema, "schema", "write Schema(user=..., item=...), or leave it out")
        tables = tables_from_frames(interactions, items, users, schema=schema, read=read, clean=clean)
        if settings is None:
            tables, settings = with_usual_split(tables)
        target = path_of(path, "path") if path is not None else Path(tempfile.mkdtemp(prefix="braidrec-")) / tables.name
        if not target.exists() or overwrite:
            return cls.prepare(tables, target, settings, overwrite=overwrite)
        held = cls.open(target)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            fresh = cls.prepare(tables, Path(folder) / target.name, settings)
            if not fresh.identity.matches(held.identity):
                raise DataError(
                    f"{target}: holds other data, or the same prepared otherwise ({len(held.log):,} events, fingerprint "
                    f"{held.fingerprint}; these frames give {len(fresh.log):,}, {fresh.fingerprint}); choose another path, or "
                    "pass overwrite=True"
                )
        return held

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Dataset:
        """Map a prepared directory.

        Raises DataError when it is missing, of another version, or damaged: a file's digest differs, or with digests that fit,
        what it holds does not go together.
        """
        path = path_of(path, "path")
        with understanding(path, DataError):
            return cls._open(path, verify)

    @classmethod
    def _open(cls, path: Path, verify: bool) -> Dataset:
        if not path.is_dir():
            how = remedy(f"Dataset.from_frames(..., path={str(path)!r})", "'braidrec data prepare'")
            raise DataError(f"{path}: no prepared data set here; make one with {how}")
        manifest = read_json(path / "manifest.json", DataError)
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found != FORMAT:
            raise DataError(f"{path / 'manifest.json'}: format {found!r}, this version reads {FORMAT}; prepare it again")
        if manifest.pop("digest", None) != _digest(manifest):
            raise DataError(
                f"{path / 'manifest.json'}: its content does not have its digest; the file is damaged or was edited"
            )
        if verify:
            for name, digest in manifest["files"].items():
                check_digest(path / name, digest, DataError)
        names = [name for name in manifest["files"] if name.endswith(".npy")]
        # A random gather pays a page fault per row of a fresh map: what fits is read once, from front to back.
        small = sum((path / name).stat().st_size for name in names) <= _READ_WHOLE
        arrays = {name[:-4]: np.load(path / name, mmap_mode=None if small else "c", allow_pickle=False) for name in names}
        stored = read_json(path / "vocabulary.json", DataError)
        log = InteractionLog(
            **{part: arrays[f"log.{part}"] for part in _LOG_PARTS},
            weight=arrays.get("log.weight"),
            visible=arrays.get("log.visible"),
            origin=arrays.get("log.origin"),
        )
        features = Features(
            tuple(Vocabulary.from_json(entry) for entry in stored["vocabularies"]),
            tuple(Scaling(**entry) for entry in stored["scalings"]),
            **{part: arrays[f"fields.{part}"] for part in _FIELD_PARTS},
            bags=tuple(
                Bag(entry["name"], entry["owner"], arrays[f"fields.bag.{at}"]) for at, entry in enumerate(stored["bags"])
            ),
        )
        found = cls(
            path,
            manifest["name"],
            Schema.model_validate(manifest["schema"]),
            PrepareSettings.of_record(manifest["settings"]),
            log,
            Split({name: arrays[f"split.{name}"] for name in manifest["parts"]}),
            features,
            manifest["counts"]["users"],
            manifest["counts"]["items"],
            manifest["counts"]["signals"],
            manifest,
        )
        if verify:
            _check_arrays(found)
        return found

    @property
    def identity(self) -> Fingerprint:
        """Which data these are: a run remembers it, and goes with whatever it `matches`."""
        former = of_files(self.manifest["files"])
        return Fingerprint(self.manifest.get("fingerprint", former), former)

    @property
    def fingerprint(self) -> str:
        """Short digest of what was prepared, made then; of data prepared before there was one, `former_fingerprint`."""
        return self.identity.own

    @property
    def former_fingerprint(self) -> str:
        """Short digest of the files' bytes, which another version of Polars writes otherwise."""
        return self.identity.former

    def with_statistics(self) -> Dataset:
        """The same data with the time-causal counts and rates as one more numeric field."""
        self._has_time("statistics")
        return replace(self, statistics=CausalStatistics(self.log, self.num_items, self.split["train"]))

    def with_rates(self) -> Dataset:
        """The same data with the time-causal rates as one more numeric field."""
        self._has_time("rates")
        return replace(self, rates=CausalRates(self.log, self.features, self.split["train"]))

    def _has_time(self, what: str) -> None:
        if self.schema.timestamp is None:
            has = "has neither time nor order" if self.schema.order is None else "only has each user's own order"
            raise DataError(f"time-causal {what} need a timestamp column; this log {has}: bring one, or train without them")

    @cached_property
    def followed(self) -> Dataset:
        """The same with the events alone that next-item and collaborative models follow: see `braidrec.data.followed`.

        Raises DataError where these leave a part of the split without a row.
        """
        positions = followed_positions(self.log, self.settings)
        if len(positions) == len(self.log):
            return self
        log = self.log.at(positions, exclude_ties=self.settings.ties == "exclude")
        split = followed(log, self.split, self.settings, positions, self.name)
        return replace(self, log=log, split=split, features=self.features.at(positions), statistics=None, rates=None)

    def item_counts(self, part: str = "train") -> NDArray[np.int64]:
        """(I + 1,) events of each item in a part of the split, whatever its kind; entry 0, padding, is 0."""
        return np.bincount(self.log.item[self.split[part]], minlength=self.num_items + 1)

    @property
    def number_groups(self) -> tuple[tuple[str, int], ...]:
        """(name, width) of each numeric field in the order of `RankingBatch.numbers`."""
        groups = [
            (scaling.name, 1)
            for owner in ("user", "item", "context")
            for scaling in self.features.scalings
            if scaling.owner == owner
        ]
        statistics = [("statistics", 7)] if self.statistics is not None else []
        rates = [("rates", self.rates.width)] if self.rates is not None else []
        return (*groups, *statistics, *rates)

    @cached_property
    def items(self) -> pl.DataFrame:
        """The catalogue, item row k at index k - 1."""
        return self._table("items", self.schema.item, self.num_items)

    @cached_property
    def users(self) -> pl.DataFrame:
        return self._table("users", self.schema.user, self.num_users)

    def _table(self, name: str, ids: str, count: int) -> pl.DataFrame:
        import polars as pl

        file = self.path / f"{name}.parquet"
        with understanding(file, DataError):
            frame = pl.read_parquet(file)
            if len(frame) != count or frame[ids].dtype.is_nested():
                raise DataError(f"{file}: {len(frame):,} rows, ids of {frame[ids].dtype}; {count:,} ids are needed; {_MADE}")
            return frame

    @cached_property
    def item_ids(self) -> list[str]:
        """Raw ids as text, in catalogue order."""
        import polars as pl

        return self.items[self.schema.item].alias("").cast(pl.String).to_list()

    @cached_property
    def user_ids(self) -> list[str]:
        import polars as pl

        return self.users[self.schema.user].alias("").cast(pl.String).to_list()

    @cached_property
    def item_rows(self) -> Mapping[str, int]:
        """Catalogue row by raw id as text."""
        return {raw: row for row, raw in enumerate(self.item_ids, start=1)}

    @cached_property
    def user_rows(self) -> Mapping[str, int]:
        return {raw: row for row, raw in enumerate(self.user_ids, start=1)}

    def encode_items(self, frame: pl.DataFrame) -> tuple[NDArray[np.int32], NDArray[np.float32], tuple[NDArray[np.int32], ...]]:
        """Fields (n, F_I), numbers (n, N_I) and bags of items outside the catalogue; unknown values take the unknown row."""
        return encode_fields("item", self.features.vocabularies, self.features.scalings, frame)


def _check_arrays(data: Dataset) -> None:
    """Raise DataError for an array whose shape, type or rows the others do not go with: what multiplies by it trusts them."""
    log, features, count = data.log, data.features, len(data.log)
    users, items, signals, last = data.num_users, data.num_items, data.num_signals, features.num_rows - 1

    def check(name: str, array: NDArray[Any] | None, shape: tuple[int | None, ...], rows: tuple[int, int] | None) -> None:
        if array is None:
            return
        fits = array.ndim == len(shape) and all(want in (None, own) for own, want in zip(array.shape, shape, strict=True))
        if not fits or array.dtype.kind != ("i" if rows else "f"):
            raise DataError(f"{data.path / name}.npy: shape {array.shape} of {array.dtype} does not go with its log; {_MADE}")
        if rows and array.size and not (rows[0] <= array.min() and array.max() <= rows[1]):
            raise DataError(
                f"{data.path / name}.npy: {array.min()} to {array.max()}, where {rows[0]} to {rows[1]} is possible; {_MADE}"
            )

    clock = np.iinfo(np.int64)
    for name, rows in {
        "user": (1, users),
        "item": (1, items),
        "timestamp": (int(clock.min), int(clock.max)),
        "signal": (0, signals),
        "rank": (0, count),
        "visible": (0, count),
        "origin": (0, count),
        "rating": None,
        "label": None,
        "weight": None,
    }.items():
        check(f"log.{name}", getattr(log, name), (count,), rows)
    for name, rows in {"event": (-1, count - 1), "item": (0, items), "signal": (0, signals)}.items():
        check(f"log.slot_{name}", getattr(log, f"slot_{name}"), (count + 1,), rows)
    check("log.start", log.start, (users + 2,), (0, count + 1))
    if len(log.start) and bool((np.diff(log.start) < 0).any()):
        raise DataError(f"{data.path / 'log.start'}.npy: it does not ascend; {_MADE}")
    for part, positions in data.split.parts.items():
        check(f"split.{part}", positions, (None,), (0, count - 1))
    lengths = {"user": users + 1, "item": items + 1, "context": count}
    for owner, length in lengths.items():
        check(f"fields.{owner}_fields", getattr(features, f"{owner}_fields"), (length, None), (0, last))
        check(f"fields.{owner}_numbers", getattr(features, f"{owner}_numbers"), (length, None), None)
    for at, bag in enumerate(features.bags):
        check(f"fields.bag.{at}", bag.rows, (lengths[bag.owner], None), (0, last))


_MADE = "it was changed, or made by another version: prepare the data again"


class _Preparation:
    """The steps from three tables to the arrays of a prepared directory."""

    def __init__(self, tables: Tables, settings: PrepareSettings):
        self.tables, self.schema, self.settings = tables, tables.schema, settings
        schema = self.schema
        splits.check_split(settings.split, schema, tables.interactions.columns)
        if settings.ties == "exclude" and schema.clock is None:
            raise DataError(
                "ties = \"exclude\" needs to know what came first: the interactions need a 'timestamp' column, or 'order'; for "
                "pairs alone leave it out"
            )
        cleaned = clean(tables.interactions, schema, settings)
        self.interactions, self.cleaned = cleaned.interactions, cleaned.notes
        self.items = _catalogue(tables.items, self.interactions, schema.item, cleaned.core)
        self.users = _catalogue(tables.users, self.interactions, schema.user, cleaned.core)
        events, user, item = self._ordered()
        self.log = self._log(events, user, item)
        given = _parts(events[schema.part]) if settings.split.kind == "given" and schema.part is not None else None
        self.split = splits.make_split(self.log, settings.split, ordered=schema.clock is not None, given=given)
        self.hidden = 0
        if settings.split.cold_items:
            events = self._hide(events)
        self.events = events

    def write(self, folder: Path) -> None:
        features = self._features()
        arrays = arrays_of(self.log, self.split, features)
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
        self.items.write_parquet(folder / "items.parquet")
        self.users.write_parquet(folder / "users.parquet")
        write_json(
            folder / "vocabulary.json",
            {
                "vocabularies": [entry.to_json() for entry in features.vocabularies],
                "scalings": [entry.__dict__ for entry in features.scalings],
                "bags": [{"name": bag.name, "owner": bag.owner} for bag in features.bags],
            },
        )
        files = sorted(path.name for path in folder.iterdir())
        catalogues = {"items": self.items, "users": self.users}
        own = of_contents(self.schema, self.settings, arrays, features, self._signals, catalogues)
        manifest = self._manifest(features, {name: sha256(folder / name) for name in files}, own)
        write_json(folder / "manifest.json", manifest | {"digest": _digest(manifest)})

    def _ordered(self) -> tuple[pl.DataFrame, Rows, Rows]:
        """Interactions in log order, with the catalogue rows (N,) of their users and items; raw ids break ties (as numbers, or
        as text where asked).

        Rows and order are found in frames of their own, so that no column of the log can have a name that is used here.
        """
        import polars as pl

        schema, log = self.schema, self.interactions
        as_text = self.settings.split.tie == "string"
        ids = [log[name].alias("") for name in (schema.user, schema.item)]  # Polars reads some names as patterns
        keys = [column.cast(pl.String) if as_text else column for column in ids]
        if schema.clock is not None:
            keys = [log[name] for name in (schema.clock, self.tables.moment) if name is not None] + keys
        named = pl.DataFrame([column.alias(str(at)) for at, column in enumerate(keys)])
        order = named.select(pl.arg_sort_by(named.columns, maintain_order=True)).to_series()
        tables = (self.users[schema.user].alias(""), self.items[schema.item].alias(""))
        user, item = (_rows_of(column.gather(order), known) for column, known in zip(ids, tables, strict=True))
        return log[order], user, item

    def _log(self, events: pl.DataFrame, user: Rows, item: Rows) -> InteractionLog:
        import polars as pl

        schema = self.schema
        count = len(events)
        clock = np.zeros(count, np.int64) if schema.clock is None else events[schema.clock].cast(pl.Int64).to_numpy()
        if schema.rating is not None:
            rating = events[schema.rating].cast(pl.Float32).to_numpy()
        else:
            rating = np.ones(count, np.float32) if schema.label is None else events[schema.label].cast(pl.Float32).to_numpy()
        if schema.label is not None:
            label = events[schema.label].cast(pl.Float32).to_numpy()
        elif schema.rating is not None:
            label = (rating > schema.positive_above).astype(np.float32)
        else:
            label = np.ones(count, np.float32)
        weight = None if schema.weight is None else np.ascontiguousarray(events[schema.weight].cast(pl.Float32).to_numpy())
        self.signals = _signal_edges(rating)
        signal = (np.searchsorted(self.signals, rating, side="right")).clip(1).astype(np.int32)
        user, item, clock, rating, label = (np.ascontiguousarray(part) for part in (user, item, clock, rating, label))
        exclude = self.settings.ties == "exclude"
        return InteractionLog.build(user, item, clock, rating, label, weight, signal, len(self.users), exclude_ties=exclude)

    def _hide(self, events: pl.DataFrame) -> pl.DataFrame:
        """Take the hidden items' events out of the training time: they launch with the validation part."""
        import polars as pl

        hidden = splits.hidden_items(self.log, self.settings.split)
        border = int(self.split["valid"][0])
        keep = ~(np.isin(self.log.item, hidden) & (np.arange(len(self.log)) < border))
        moved = np.cumsum(keep) - 1
        parts = {name: moved[rows[keep[rows]]] for name, rows in self.split.parts.items()}
        events = events.filter(pl.Series(keep))
        self.log, self.hidden = self._log(events, self.log.user[keep], self.log.item[keep]), len(hidden)
        enough = self.log.past >= self.settings.split.min_history
        self.split = splits.named_parts(
            self.log, self.settings.split, {name: rows[enough[rows]] for name, rows in parts.items()}
        )
        return events

    def _features(self) -> Features:
        """Fit every field on the rows that may be learned from (or the whole log) and look all catalogue rows up in it."""
        schema, log = self.schema, self.log
        all_rows = self.settings.vocabulary == "all"
        source = np.arange(len(log)) if all_rows else self.split.learned
        owners: tuple[tuple[Owner, tuple[Field, ...], pl.DataFrame, NDArray[Any]], ...] = (
            ("user", (Field(name=schema.user), *schema.user_fields), self.users, log.user[source] - 1),
            ("item", (Field(name=schema.item), *schema.item_fields), self.items, log.item[source] - 1),
            ("context", schema.context_fields, self.events, source),
        )
        fitted: list[Vocabulary] = []
        scalings: list[Scaling] = []
        for owner, fields, frame, rows in owners:
            seen = np.zeros(len(frame), np.bool_)
            seen[rows] = True
            for field in fields:
                if field.kind == "numeric" and field.buckets is None:
                    scalings.append(_fit_scaling(field, owner, number_column(frame[field.name])[rows]))
                else:
                    fitted.append(vocabulary.fit(field, owner, frame[field.name], seen, has_unknown=not all_rows))
        placed = vocabulary.stack([entry for entry in fitted if not entry.multi] + [entry for entry in fitted if entry.multi])
        encoded = {owner: encode_fields(owner, placed, scalings, frame) for owner, _, frame, _ in owners}
        # Row 0 of the user table is the user nobody knows yet; row 0 of the item table is padding.
        stranger = np.array([[entry.unknown_row for entry in placed if entry.owner == "user" and not entry.multi]], np.int32)
        bags = []
        for owner in ("user", "item", "context"):
            multi = [entry for entry in placed if entry.owner == owner and entry.multi]
            pad = owner != "context"
            bags += [
                Bag(entry.name, entry.owner, _padded(rows) if pad else rows)
                for entry, rows in zip(multi, encoded[owner][2], strict=True)
            ]
        return Features(
            placed,
            tuple(scalings),
            user_fields=np.concatenate([stranger, encoded["user"][0]]),
            item_fields=_padded(encoded["item"][0]),
            context_fields=encoded["context"][0],
            user_numbers=_padded(encoded["user"][1]),
            item_numbers=_padded(encoded["item"][1]),
            context_numbers=encoded["context"][1],
            bags=tuple(bags),
        )

    @property
    def _signals(self) -> list[float]:
        return [float(edge) for edge in self.signals]

    def _manifest(self, features: Features, files: Mapping[str, str], fingerprint: str) -> dict[str, Any]:
        from importlib.metadata import version

        log, split = self.log, self.split
        train_users, train_items = np.unique(log.user[split["train"]]), np.unique(log.item[split["train"]])
        unknown_items = ~np.isin(log.item[split["test"]], train_items)
        return {
            "format": FORMAT,
            "braidrec": version("braidrec"),
            "name": self.tables.name,
            "schema": self.schema.model_dump(),
            "settings": self.settings.model_dump(),
            "parts": list(split.parts),
            "counts": {
                "events": len(log),
                "users": len(self.users),
                "items": len(self.items),
                "items_met": len(np.unique(log.item)),
                "signals": len(self.signals),
                "samples": {name: len(rows) for name, rows in split.parts.items()},
                "positives": {name: int(log.label[rows].sum()) for name, rows in split.parts.items()},
                "train_users": len(train_users),
                "train_items": len(train_items),
                "test_items_unseen": len(np.unique(log.item[split["test"]][unknown_items])),
                "test_rows_item_unseen": int(unknown_items.sum()),
                "test_rows_user_unseen": int((~np.isin(log.user[split["test"]], train_users)).sum()),
                "hidden_items": self.hidden,
            },
            "fields": {
                name: {"owner": entry.owner, "rows": entry.known, "values": self._cardinality(entry)}
                for name, entry in zip(_own_names(features.vocabularies), features.vocabularies, strict=True)
            },
            "signals": self._signals,
            "notes": [*self.tables.report.notes, *self.cleaned, *self._notes()],
            "rows_skipped": self.tables.report.rows_skipped,
            "sources": [source.__dict__ for source in self.tables.sources],
            "fingerprint": fingerprint,
            "files": dict(files),
            **({"ids": dict(self.tables.ids)} if self.tables.ids else {}),
        }

    def _notes(self) -> Iterator[str]:
        if self.schema.clock is None:
            yield "no time and no order: histories and sequences mean nothing here, and split.min_history counts as 0"
        kind = self.settings.split.kind
        if self.schema.part is not None and kind != "given":
            yield f"the ready-made parts in column '{self.schema.part}' are not used: split.kind = '{kind}'"
        yield from self._notes_on_ties()
        yield from self._notes_on_parts()
        if kind == "knowledge":
            yield from self._notes_on_knowledge()
        negatives = int((self.log.label == 0).sum())
        if negatives and self.settings.sequences == "positives" and kind in LEAVE:
            least, liked = 2 * self.settings.split.held_out + 1, np.bincount(self.log.user[self.log.label > 0])
            yield (
                f"{int((liked >= least).sum()):,} of {int((liked > 0).sum()):,} users with a positive have {least} or more, "
                "and so rows in validation and test of next-item models"
            )
        if negatives and self.settings.sequences == "positives":
            yield (
                'sequences = "positives": next-item and collaborative models follow and name the '
                f"{len(self.log) - negatives:,} positives alone; {negatives:,} events without a positive label "
                'are left out there ("all" takes them as well)'
            )
        elif negatives:
            yield (
                f'sequences = "all": next-item models follow and name all {len(self.log):,} events, {negatives:,} of them '
                "without a positive label"
            )

    def _notes_on_ties(self) -> Iterator[str]:
        log, schema, own = self.log, self.schema, self.log.slot_event[1:]  # user by user
        user, item, time = log.user[own], log.item[own], log.timestamp[own]
        again = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
        if schema.clock is not None and again.any():
            tied = int((np.r_[again, False] | np.r_[False, again]).sum())
            how = (
                f"in histories they follow one another by '{schema.item}' (\"exclude\" keeps them out of each other's)"
                if self.settings.ties == "order"
                else "none is in the history of another"
            )
            yield (
                f"{tied:,} events ({tied / len(log):.1%}) share '{schema.clock}' with another of their user; "
                f'ties = "{self.settings.ties}": {how}'
            )
        copies = int((again & (item[1:] == item[:-1])).sum())
        if copies:
            keys = ", ".join(f"'{name}'" for name in (schema.user, schema.item, schema.clock) if name is not None)
            yield f"{copies:,} events repeat an earlier one in {keys}; kept, none in the history of another"

    def _notes_on_parts(self) -> Iterator[str]:
        """Who is in no part, or in training alone."""
        split, log = self.settings.split, self.log
        met = np.bincount(log.user, minlength=log.num_users + 1)
        if split.kind in LEAVE:
            least = 2 * split.held_out + 1
            few, all_users = int(((met > 0) & (met < least)).sum()), int((met > 0).sum())
            if few:
                yield f"{few:,} of {all_users:,} users have fewer than {least} events, so all of theirs are training"
            enough = met >= least
            for part in ("valid", "test"):
                lost = int((enough & (np.bincount(log.user[self.split[part]], minlength=len(met)) == 0)).sum())
                if lost:
                    yield (
                        f"{lost:,} of the {int(enough.sum()):,} users with {least} or more events have no row in '{part}': "
                        f"split.min_history = {split.min_history} asks for more events before it"
                    )
            return
        outside = np.ones(len(log), np.bool_)
        for rows in self.split.parts.values():
            outside[rows] = False
        if outside.any():
            alone = (met > 0) & (np.bincount(log.user[~outside], minlength=len(met)) == 0)
            whole = f", all of {int(alone.sum()):,} users among them," if alone.any() else ""
            why = (
                f"split.min_history = {split.min_history} asks for that many earlier ones of their user; they are history alone"
            )
            if split.kind == "given":
                why = "they are history alone, as they are given"
            yield f"{int(outside.sum()):,} of {len(log):,} events{whole} are in no part: {why}"

    def _notes_on_knowledge(self) -> Iterator[str]:
        """What of each later part the old events have not seen."""
        log, split = self.log, self.split
        said = []
        for part in ("knowledge_valid", "train", "valid", "test"):
            unseen = [~np.isin(ids[split[part]], ids[split["knowledge"]]) for ids in (log.user, log.item)]
            users, items = (f"{share.mean():.1%}" for share in unseen)
            said.append(f"'{part}' {users} by user, {items} by item")
        yield f"rows whose id 'knowledge' has not seen: {'; '.join(said)}"
        if self.schema.timestamp is not None and not self.settings.split.per_user:
            old, held = (
                int(min(log.timestamp[split[part]].min() for part in parts)) for parts in (("train",), ("valid", "test"))
            )
            first, second = (f"{np.datetime64(moment, 's')}Z" for moment in (old, held))
            yield f"'knowledge' is before {first}, 'train' before {second}"

    def _cardinality(self, entry: Vocabulary) -> int:
        """Distinct raw values over the whole log, whatever the vocabulary was fitted on."""
        import polars as pl

        frames = {"user": self.users, "item": self.items, "context": self.events}
        rows: dict[str, NDArray[Any]] = {
            "user": self.log.user - 1,
            "item": self.log.item - 1,
            "context": np.arange(len(self.log)),
        }
        met = np.unique(rows[entry.owner])
        cells = vocabulary.cells_of(entry.field, frames[entry.owner][entry.name], entry.edges).gather(met)
        return int((cells.explode(empty_as_null=True).drop_nulls() if cells.dtype == pl.List(pl.String) else cells).n_unique())


def _own_names(vocabularies: Sequence[Vocabulary]) -> list[str]:
    """A name for each field, which two tables may call alike."""
    names: list[str] = []
    for entry in vocabularies:
        name = entry.name
        while name in names:
            name += f" of the {entry.owner}"
        names.append(name)
    return names


def arrays_of(log: InteractionLog, split: Split, features: Features) -> dict[str, NDArray[Any]]:
    """The arrays of a prepared directory by the names of their files."""
    arrays: dict[str, NDArray[Any]] = {f"log.{part}": getattr(log, part) for part in _LOG_PARTS}
    arrays |= {f"log.{part}": values for part in _LOG_EXTRAS if (values := getattr(log, part)) is not None}
    arrays |= {f"split.{name}": rows for name, rows in split.parts.items()}
    arrays |= {f"fields.{part}": getattr(features, part) for part in _FIELD_PARTS}
    return arrays | {f"fields.bag.{at}": bag.rows for at, bag in enumerate(features.bags)}


def _catalogue(table: pl.DataFrame | None, interactions: pl.DataFrame, key: str, core: bool) -> pl.DataFrame:
    """The table's rows, then ids that only the log knows, in ascending order.  core: no rows that the log does not know."""
    import polars as pl

    met = interactions[key].alias("").unique().sort()  # without its name, since Polars reads some as patterns
    if table is None:
        return met.to_frame(key)
    known = table[key].alias("")
    twice = known.filter(known.is_duplicated())
    if len(twice):
        raise DataError(
            f"column '{key}': {twice[0]!r} stands in {(known == twice[0]).sum()} rows of its table; keep one row per id"
        )
    if core:
        table = table.filter(known.is_in(met.implode()))
        known = table[key].alias("")
    return pl.concat([table, met.filter(~met.is_in(known.implode())).to_frame(key)], how="diagonal")


def _rows_of(ids: pl.Series, known: pl.Series) -> Rows:
    """(N,) place from 1 on of each of ``ids`` in ``known``, which has all of them."""
    import polars as pl

    table = pl.DataFrame({"id": known, "row": np.arange(1, len(known) + 1, dtype=np.int32)})
    return pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")["row"].to_numpy()


def _parts(column: pl.Series) -> NDArray[np.object_]:
    """(N,) train, valid or test."""
    import polars as pl

    parts = column.alias("").cast(pl.String).replace_strict(PART_NAMES, default=None, return_dtype=pl.String)
    if parts.null_count():
        wrong = column[int(parts.is_null().arg_true()[0])]
        raise DataError(f"column '{column.name}': {wrong!r} is no part of a split; accepted: {', '.join(PART_NAMES)}")
    return parts.to_numpy()


def _digest(manifest: Mapping[str, Any]) -> str:
    """Of the manifest's content, so that a damaged entry is noticed like a damaged file."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _signal_edges(rating: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lower borders of the signal rows: the distinct ratings, or quantiles where there are too many."""
    distinct = np.unique(rating)
    if len(distinct) <= _MAX_SIGNALS:
        return distinct
    return np.unique(np.quantile(rating, np.arange(_MAX_SIGNALS) / _MAX_SIGNALS)).astype(np.float32)


def _fit_scaling(field: Field, owner: Owner, values: NDArray[np.float64]) -> Scaling:
    present = values[~np.isnan(values)]
    if not len(present):
        raise DataError(f"field '{field.name}': no number in the training rows; drop the field")
    numbers = np.log1p(np.maximum(present, 0.0)) if field.scale == "log" else present
    # of one value alone there is no spread to go by, and by next to none another value later would be a billion
    spread = max(numbers.std(), 1e-9) if numbers.min() < numbers.max() else 1.0
    return Scaling(field.name, owner, field.scale == "log", float(numbers.mean()), float(spread))


def _padded(values: NDArray[Any]) -> NDArray[Any]:
    """The same rows behind a padding row of zeros."""
    return np.concatenate([np.zeros((1, values.shape[1]), values.dtype), values])
