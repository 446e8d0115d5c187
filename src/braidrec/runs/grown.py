"""A log that went on after training: its histories in the rows that a run knows, and what is new in it, counted.

A prepared data set numbers its users and items anew, so everything is matched by raw id: what training knew keeps its row,
items that were added to the run keep theirs, and what nobody knew before stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from braidrec.data.dataset import Dataset
from braidrec.data.features import Bag, Features, encode_fields, read_vocabulary
from braidrec.data.followed import followed_positions
from braidrec.data.log import InteractionLog
from braidrec.data.schema import Schema
from braidrec.data.splits import Split
from braidrec.data.vocabulary import Owner
from braidrec.runs.added import Additions
from braidrec.runs.catalogue import Catalogue
from braidrec.runs.trained import Trained

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Grown:
    """served: the longer log in the run's rows    late: items that are new in it and known by their text, behind the others
    said: that it has grown, in words    notes: what is new, counted
    """

    served: Dataset
    late: Additions | None
    said: str
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        schema: Schema,
        trained: Trained,
        catalogue: Catalogue,
        vocabulary: Path,
        read: Callable[[pl.DataFrame], tuple[Additions | None, str]],
    ) -> Grown:
        """schema: the run's    catalogue: with the items added to it    vocabulary: its ``vocabulary.json``
        read: new items, as rows of the catalogue by the run's names, to those that a model knows, and why it knows no others
        """
        known, users = set(catalogue.all_ids), set(trained.users)
        new = [at for at, raw in enumerate(dataset.item_ids) if raw not in known]
        late, why = None, ""
        if new:
            late, why = read(_in_order(dataset.items, dataset.schema.item, schema.item, [dataset.item_ids[at] for at in new]))
        taken = [] if late is None else late.ids
        served, lost = _in_rows_of(dataset, schema, trained, [*catalogue.all_ids, *taken], vocabulary)
        count, left = len(dataset.log), len(new) - len(taken)
        more = f"its log has grown since training: {trained.count:,} events then, {count:,} now"
        said = more if count > trained.count else "its data were prepared otherwise for training"
        notes = [f"{said}; histories are of today"]
        if strangers := sum(raw not in users for raw in dataset.user_ids):
            notes.append(f"new users, answered like anybody new by their history: {strangers:,}")
        if taken:
            notes.append(f"new items, known by their text as if they had been added: {len(taken):,}")
        if left:
            notes.append(f"new items that are left out, with {lost:,} events: {left:,} ({why})")
        lacking = [each for each in _columns(vocabulary) if each not in (*served.users.columns, *served.items.columns)]
        if lacking:
            notes.append(f"columns that are no longer there count as unknown: {', '.join(lacking)}")
        return cls(served, late, said, tuple(notes))


def _in_rows_of(
    dataset: Dataset, schema: Schema, trained: Trained, items: Sequence[str], vocabulary: Path
) -> tuple[Dataset, int]:
    """``dataset`` in the rows of a run, and how many of its events are left out, since nothing knows their items.

    items: ids by row, those of the run first    The result has no parts, since what is held out was so in the data that were
    trained on: it answers for users, and there is nothing to evaluate on.
    """
    known = set(trained.users)
    users = [*trained.users, *(raw for raw in dataset.user_ids if raw not in known)]
    old = dataset.log
    user, item = _rows(dataset.user_ids, users)[old.user], _rows(dataset.item_ids, items)[old.item]
    kept = item > 0
    rating = old.rating[kept]
    signal = np.searchsorted(np.array(trained.signals, np.float32), rating, side="right").clip(1).astype(np.int32)
    log = InteractionLog.build(
        user[kept],
        item[kept],
        old.timestamp[kept],
        rating,
        old.label[kept],
        None if old.weight is None else old.weight[kept],
        signal,
        len(users),
        exclude_ties=trained.settings.ties == "exclude",
    )
    frames: dict[Owner, pl.DataFrame] = {
        "user": _in_order(dataset.users, dataset.schema.user, schema.user, users),
        "item": _in_order(dataset.items, dataset.schema.item, schema.item, items),
    }
    served = replace(
        dataset,
        schema=schema,
        settings=trained.settings,
        log=log,
        split=Split({}),
        features=_features(frames, vocabulary, len(log)),
        num_users=len(users),
        num_items=len(items),
        num_signals=len(trained.signals),
    )
    # what would be read from the folder, where it stands in the order of that data set
    vars(served).update(user_ids=users, item_ids=items, users=frames["user"], items=frames["item"])
    vars(served)["followed"] = _followed(served)
    return served, int((~kept).sum())


def _followed(served: Dataset) -> Dataset:
    """What `Dataset.followed` gives, of a log without parts."""
    positions = followed_positions(served.log, served.settings)
    if len(positions) == len(served.log):
        return served
    log = served.log.at(positions, exclude_ties=served.settings.ties == "exclude")
    return replace(served, log=log, features=served.features.at(positions))


def _columns(vocabulary: Path) -> list[str]:
    """Of users and items, that a model reads."""
    vocabularies, scalings = read_vocabulary(vocabulary)
    owned = [(each.name, each.owner) for each in vocabularies] + [(each.name, each.owner) for each in scalings]
    return [name for name, owner in owned if owner != "context"]


def _rows(ids: Sequence[str], known: Sequence[str]) -> NDArray[np.int32]:
    """(n + 1,) the row from 1 on in ``known`` of each of ``ids``, 0 of one that is not there; entry 0 is padding."""
    places = {raw: row for row, raw in enumerate(known, start=1)}
    return np.array([0, *(places.get(raw, 0) for raw in ids)], np.int32)


def _in_order(frame: pl.DataFrame, key: str, name: str, ids: Sequence[str]) -> pl.DataFrame:
    """Rows of ``frame`` in the order of ``ids``, these as text in the column ``name``; empty cells for one that it lacks."""
    import polars as pl

    places = {raw: at for at, raw in enumerate(frame[key].alias("").cast(pl.String).to_list())}
    at = pl.Series([places.get(raw) for raw in ids], dtype=pl.UInt32)
    columns = [frame[each].alias("").gather(at).alias(each) for each in frame.columns if each not in (key, name)]
    return pl.DataFrame([pl.Series(name, ids, dtype=pl.String), *columns])


def _features(frames: Mapping[Owner, pl.DataFrame], vocabulary: Path, events: int) -> Features:
    """Fields of users and items by the run's vocabulary; of the events none, which is what now is like."""
    vocabularies, scalings = read_vocabulary(vocabulary)
    user, item = (encode_fields(owner, vocabularies, scalings, frames[owner]) for owner in ("user", "item"))
    owned: dict[Owner, list[Any]] = {owner: [each for each in vocabularies if each.owner == owner] for owner in _OWNERS}
    stranger = np.array([[each.unknown_row for each in owned["user"] if not each.multi]], np.int32)
    unknown = np.array([each.unknown_row for each in owned["context"] if not each.multi], np.int32)
    numbers = sum(each.owner == "context" for each in scalings)
    rows = {"user": [_behind_padding(bag) for bag in user[2]], "item": [_behind_padding(bag) for bag in item[2]]}
    rows["context"] = [np.broadcast_to(np.zeros(1, np.int32), (events, 1)) for each in owned["context"] if each.multi]
    return Features(
        vocabularies,
        scalings,
        user_fields=np.concatenate([stranger, user[0]]),
        item_fields=_behind_padding(item[0]),
        context_fields=np.broadcast_to(unknown, (events, len(unknown))),
        user_numbers=_behind_padding(user[1]),
        item_numbers=_behind_padding(item[1]),
        context_numbers=np.broadcast_to(np.zeros(numbers, np.float32), (events, numbers)),
        bags=tuple(
            Bag(entry.name, owner, bag)
            for owner in _OWNERS
            for entry, bag in zip((each for each in owned[owner] if each.multi), rows[owner], strict=True)
        ),
    )


_OWNERS: tuple[Owner, ...] = ("user", "item", "context")


def _behind_padding(rows: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([np.zeros((1, rows.shape[1]), rows.dtype), rows])
