"""LanceDB tables as knowledge bases use them: one table "rows" in a folder, whatever goes wrong with it said in our words."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidrec.errors import KnowledgeError
from braidrec.files import read_json, understanding, write_json

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import LanceTable

FRAGMENTS = 64  # files per table above which they are merged
_LATEST = "latest.json"
_SLACK = datetime.timedelta(milliseconds=10)  # between asking the clock and LanceDB asking it again


def table_of(folder: Path) -> LanceTable | None:
    """The table at its latest version, None before it was made.

    Raises KnowledgeError for one whose latest version is gone: Lance would take the one before it for the latest.
    """
    noted = _noted(folder)  # before the table is opened, since a writer notes what it has committed
    table = _table_of(folder)
    if noted > (version := 0 if table is None else int(table.version)):
        raise KnowledgeError(
            f"{folder}: damaged: version {noted} was written, and {version} is the last one left; restore the folder from a "
            "copy, or delete it and sync again"
        )
    return table


def note_latest(folder: Path) -> None:
    """Write down which version is the latest, when a writer is done."""
    table = table_of(folder)
    with writing(folder, "noting the version"):
        write_json(folder / _LATEST, {"version": 0 if table is None else int(table.version)})


def _noted(folder: Path) -> int:
    """0 where nobody noted it: an earlier version, or a writer that was killed."""
    if not (folder / _LATEST).exists():
        return 0
    with understanding(folder / _LATEST, KnowledgeError):
        return int(read_json(folder / _LATEST, KnowledgeError)["version"])


def _table_of(folder: Path) -> LanceTable | None:
    if not (folder / "rows.lance").is_dir():
        return None
    with reading(folder):
        try:
            return _connect(folder).open_table("rows")
        except ValueError as cause:
            if "was not found" in str(cause):  # its maker was killed before the first version
                return None
            raise


def made_table(folder: Path, schema: pa.Schema) -> LanceTable:
    """The same, made where there is none."""
    if table_of(folder) is None:
        _connect(folder).create_table("rows", schema=schema, exist_ok=True)
    table = table_of(folder)
    assert table is not None
    return table


def put(table: LanceTable, rows: pa.Table) -> None:
    """Rows in the place of those of their keys, in one commit."""
    table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(rows)


def key_field() -> pa.Field:
    """The column "key".  Without its metadata, concurrent merges of one new key leave it twice in LanceDB 0.40."""
    import pyarrow as pa

    return pa.field("key", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})


def tidy(folder: Path, keep_versions: int) -> None:
    """Merge small files and forget old versions, once there are more than 64 of either."""
    table = table_of(folder)
    if table is None:
        return
    with writing(folder, "merging small files"):
        versions = table.list_versions()
        if max(len(versions), int(versions[-1]["metadata"]["total_fragments"])) <= FRAGMENTS:
            return
        oldest_kept = sorted(version["timestamp"] for version in versions)[-keep_versions]
        age = max(datetime.datetime.now() - oldest_kept, datetime.timedelta()) + _SLACK
        table.optimize(cleanup_older_than=age)


@contextlib.contextmanager
def writing(folder: Path, action: str) -> Iterator[None]:
    try:
        yield
    except BaseException as cause:
        if not _of_the_table(cause):
            raise
        raise KnowledgeError(
            f"{folder}: {action} failed ({_short(cause)}); nothing of it was kept, earlier batches are safe. "
            "Check free space and write permission, then run sync again: it goes on where it stopped"
        ) from cause


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as cause:
        if not _of_the_table(cause):
            raise
        raise KnowledgeError(
            f"{folder}: the table cannot be read ({_short(cause)}); try again if another process is writing it, else "
            "restore the folder from a copy, or delete it and sync again"
        ) from cause


def _connect(folder: Path) -> Any:
    import lancedb

    return lancedb.connect(str(folder))


def _of_the_table(cause: BaseException) -> bool:
    """Whether Lance, Arrow or the system raised it about the files: a damaged one may take any of their ways to fail."""
    if type(cause).__name__ in ("PanicException", "RustPanic"):  # the first of them is no Exception
        return True
    return isinstance(cause, OSError | RuntimeError | ValueError | LookupError | TypeError | AttributeError)


def _short(cause: BaseException) -> str:
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else 'no reason given'}"[:300]
