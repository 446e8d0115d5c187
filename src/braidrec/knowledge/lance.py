"""LanceDB tables as knowledge bases use them: one table "rows" in a folder, whatever goes wrong with it said in our words."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidrec.errors import KnowledgeError
from braidrec.files import read_json, sha256, understanding, write_json

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import LanceTable

FRAGMENTS = 64  # files per table above which they are merged
_LATEST, _TABLE = "latest.json", "rows.lance"
_READ = ("data/*", "_deletions/*", "_versions/*.manifest")  # in it; none of these files is changed once it is written
_SLACK = datetime.timedelta(milliseconds=10)  # between asking the clock and LanceDB asking it again


@dataclass(frozen=True)
class _Latest:
    """What a writer noted when it was done: the latest version, and the sha256 of each file by its path in the table.

    0 and none where nobody did, before there was such a note or after a writer was killed.
    """

    version: int = 0
    files: Mapping[str, str] = field(default_factory=dict)


_whole: dict[Path, tuple[object, ...]] = {}  # files that were held against their digest, as they were then


def table_of(folder: Path) -> LanceTable | None:
    """The table at its latest version, None before it was made.

    Raises KnowledgeError for one whose latest version is gone: Lance would take the one before it for the latest.
    """
    noted = _noted(folder)  # before the table is opened, since a writer notes what it has committed
    if (listed := files_of(folder, noted.version)) is not None:
        _check(folder, noted, [listed])
    table = _table_of(folder)
    if noted.version > (version := 0 if table is None else int(table.version)):
        raise KnowledgeError(
            f"{folder}: damaged: version {noted.version} was written, and {version} is the last one left; restore the folder "
            "from a copy, or delete it and sync again"
        )
    return table


def files_of(folder: Path, version: int) -> Path | None:
    """The table's list of files at ``version``, by either of Lance's ways to number them."""
    names = (f"{version}.manifest", f"{2**64 - 1 - version:020d}.manifest")
    found = (folder / _TABLE / "_versions" / name for name in names)
    return next((file for file in found if file.is_file()), None)


def note_latest(folder: Path) -> None:
    """Write down which version is the latest, and the digests of its files, when a writer is done."""
    table, before = table_of(folder), _noted(folder)
    with writing(folder, "noting the version"):
        names = {file.relative_to(folder / _TABLE).as_posix(): file for file in _held(folder)}
        files = {name: before.files.get(name) or sha256(file) for name, file in names.items()}
        noted = _Latest(0 if table is None else int(table.version), files)
        if noted != before:
            write_json(folder / _LATEST, asdict(noted))


def _noted(folder: Path) -> _Latest:
    if not (folder / _LATEST).exists():
        return _Latest()
    with understanding(folder / _LATEST, KnowledgeError):
        values = read_json(folder / _LATEST, KnowledgeError)
        return _Latest(int(values["version"]), dict(values.get("files", {})))  # an earlier version noted no files


def _held(folder: Path) -> list[Path]:
    """The files that are read for an answer."""
    return sorted(file for name in _READ for file in (folder / _TABLE).glob(name) if file.is_file())


def _check(folder: Path, noted: _Latest, files: Iterable[Path]) -> None:
    """Raise KnowledgeError for a file that is not the one that was written.

    Lance takes a length in a damaged file at its word, asks for so much memory and ends the process, so no file is given to
    it unread.  A file is read again only where it is another one by its time and size.
    """
    for file in files:
        digest = noted.files.get(file.relative_to(folder / _TABLE).as_posix())
        with contextlib.suppress(FileNotFoundError):  # a writer has merged it with others
            state = file.stat()
            seen = (digest, state.st_mtime_ns, state.st_size, state.st_ino)
            if digest is None or _whole.get(file) == seen:
                continue
            if sha256(file) != digest:
                raise KnowledgeError(
                    f"{file}: damaged: it is not the file that was written; restore the folder from a copy, or delete it and "
                    "sync again"
                )
            _whole[file] = seen


def _table_of(folder: Path) -> LanceTable | None:
    if not (folder / _TABLE).is_dir():
        return None
    with _saying(folder):
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
    """Around whatever reads rows: its files are held against their digests first, whatever fails is said in our words."""
    with _saying(folder):
        _check(folder, _noted(folder), _held(folder))
        yield


@contextlib.contextmanager
def _saying(folder: Path) -> Iterator[None]:
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
