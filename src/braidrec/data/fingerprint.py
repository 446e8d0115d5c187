"""What a prepared data set is known by: a digest of what was prepared, whatever the files that hold it look like.

own      "<algorithm>-<digest>" of contents (`of_contents`), so that another Parquet writer, or other compression, makes no
         other data set; what the number says was digested never changes
former   of the files' bytes, which stood alone before: of data sets prepared then, and in the records of runs trained on them

Contents are the arrays of the log, the split and the fields (name, dtype, shape, bytes), the vocabulary, the catalogues column
by column (name, type, values, in the order of their rows), schema, settings and the borders of signals.  The order of a
catalogue's columns is none of it, since every column is read by its name; neither are the data set's name and where it lies.
Settings that say what was done before they could be chosen are left out, so that one which is added later moves no fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from braidrec.data.features import Features
from braidrec.data.schema import Schema
from braidrec.data.settings import FORMER, PrepareSettings
from braidrec.errors import DataError
from braidrec.strict import Strict

if TYPE_CHECKING:
    import polars as pl

ALGORITHM = 1
_ROWS = 65_536  # of text at a time


@dataclass(frozen=True)
class Fingerprint:
    """own: of contents, or the former one where there is none    former: of the files' bytes"""

    own: str
    former: str

    @classmethod
    def of_record(cls, entry: Mapping[str, Any]) -> Fingerprint:
        """As `to_json` wrote it, or as records had it when files' bytes were all that was known."""
        return cls(entry["fingerprint"], entry.get("former_fingerprint", entry["fingerprint"]))

    def to_json(self) -> dict[str, str]:
        return {"fingerprint": self.own, "former_fingerprint": self.former}

    def matches(self, other: Fingerprint) -> bool:
        """Whether both are of the same data: by contents where both know them by one algorithm, else by bytes."""
        if _algorithm(self.own) == _algorithm(other.own):
            return self.own == other.own
        return self.former == other.former


def of_files(digests: Mapping[str, str]) -> str:
    """The former fingerprint: of the digests of a prepared directory's files."""
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:16]


def of_contents(
    schema: Schema,
    settings: PrepareSettings,
    arrays: Mapping[str, NDArray[Any]],
    features: Features,
    signals: Sequence[float],
    catalogues: Mapping[str, pl.DataFrame],
) -> str:
    """Algorithm 1: SHA-256 over labelled parts, its first 16 hexadecimal digits behind the algorithm's number.

    arrays: of the log, the split and the fields, by name    features: their vocabularies, scalings and the names of their bags
    signals: borders of the log's signals    catalogues: by name, such as items and users
    """
    digest = _Parts()
    digest.json("schema", _said(schema))
    digest.json("settings", _beyond(settings.model_dump(mode="json"), _FORMER))
    digest.json("vocabularies", [{**entry.to_json(), "field": _said(entry.field)} for entry in features.vocabularies])
    digest.json("scalings", [[each.name, each.owner, each.log, each.mean, each.spread] for each in features.scalings])
    digest.json("bags", [[bag.name, bag.owner] for bag in features.bags])
    digest.json("signals", list(signals))
    for name in sorted(arrays):
        digest.array(f"array {name}", arrays[name])
    for name in sorted(catalogues):
        frame = catalogues[name]
        digest.json(name, sorted(frame.columns))
        for column in sorted(frame.columns):
            digest.series(f"{name} {column}", frame[column])
    return f"{ALGORITHM}-{digest.hex()}"


_FORMER = PrepareSettings(**FORMER).model_dump(mode="json")


def _beyond(settings: Mapping[str, Any], former: Mapping[str, Any]) -> dict[str, Any]:
    """What is not as it was in former times, table by table."""
    return {
        key: _beyond(value, former[key]) if isinstance(value, dict) and isinstance(former[key], dict) else value
        for key, value in settings.items()
        if value != former[key]
    }


def _said(settings: Strict) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_defaults=True)


def _algorithm(fingerprint: str) -> str:
    """The number before the digest; "" of one of the former kind."""
    return fingerprint.rpartition("-")[0]


class _Parts:
    """A running digest.  Each part begins with its label, type and size, so that no two ways of cutting give one digest."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def hex(self) -> str:
        return self._digest.hexdigest()[:16]

    def json(self, label: str, value: Any) -> None:
        self._bytes(label, "json", json.dumps(value, sort_keys=True, separators=(",", ":")).encode())

    def array(self, label: str, values: NDArray[Any]) -> None:
        own = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        self._head(label, f"{own.dtype.str} {own.shape}")
        self._digest.update(own.reshape(-1).view(np.uint8).data)

    def series(self, label: str, values: pl.Series) -> None:
        """One column.  Types are by our own names: those of Polars change, and categories come back from Parquet as text."""
        import polars as pl

        name, values = values.name, values.alias("")  # Polars reads some names as patterns
        kind = values.dtype
        self.array(f"{label} present", values.is_not_null().to_numpy())
        known = values.drop_nulls()
        if kind == pl.Null:
            self._head(label, "nothing")
        elif kind in (pl.String, pl.Categorical, pl.Enum):
            self._texts(label, "text", known.cast(pl.String).cast(pl.Binary))
        elif kind == pl.Binary:
            self._texts(label, "bytes", known)
        elif isinstance(kind, pl.List | pl.Array):
            lists = known.cast(pl.List(kind.inner)) if isinstance(kind, pl.Array) else known
            self.array(f"{label} lengths", lists.list.len().to_numpy().astype(np.int64))
            self.series(f"{label} values", lists.explode(empty_as_null=False))
        elif isinstance(kind, pl.Struct):
            for field in sorted(each.name for each in kind.fields):
                self.series(f"{label} field {field}", known.struct.field(field))
        elif isinstance(kind, pl.Decimal):
            self._texts(label, f"decimal {kind.scale}", known.cast(pl.String).cast(pl.Binary))
        elif isinstance(kind, pl.Datetime | pl.Duration):
            zone = kind.time_zone if isinstance(kind, pl.Datetime) else None
            sort = "moment" if isinstance(kind, pl.Datetime) else "duration"
            self.array(f"{label} {sort} {kind.time_unit} {zone}", known.to_physical().to_numpy())
        elif kind in (pl.Date, pl.Time):
            self.array(f"{label} {'day' if kind == pl.Date else 'time of day'}", known.to_physical().to_numpy())
        elif kind.is_numeric() or kind == pl.Boolean:
            self.array(label, known.to_numpy())
        else:
            raise DataError(
                f"column '{name}': its values have the type {kind}, which no data set can hold; bring it as text, "
                "numbers, times, or lists of these"
            )

    def _texts(self, label: str, kind: str, values: pl.Series) -> None:
        """Binary without nulls: lengths, then all bytes behind one another."""
        self.array(f"{label} {kind} lengths", values.bin.size().to_numpy().astype(np.int64))
        for first in range(0, len(values), _ROWS):
            self._digest.update(b"".join(values[first : first + _ROWS].to_list()))

    def _head(self, label: str, kind: str) -> None:
        for text in (label, kind):
            name = text.encode()
            self._digest.update(len(name).to_bytes(8, "little") + name)

    def _bytes(self, label: str, kind: str, value: bytes) -> None:
        self._head(label, f"{kind} {len(value)}")
        self._digest.update(value)
