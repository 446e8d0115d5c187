"""Finding, fetching and opening the files of public data sets; none of them is shipped."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.data.tables import SourceFile
from braidrec.errors import DataError
from braidrec.files import sha256, write_atomic

if TYPE_CHECKING:
    from braidrec.data.tables import Tables

FOLDER_SETTING = "BRAIDREC_DATA"
_LARGEST_MEMBER = 1 << 30  # bytes; a zip member that claims or turns out to be larger is refused


@dataclass(frozen=True)
class PublicDataset:
    """A data set that anyone can get, and how it becomes `Tables`."""

    name: str
    title: str
    files: tuple[str, ...]  # what must be there: the archive, or the plain files
    read: Callable[[Path], Tables]  # from the archive or the folder that `locate` returns
    license: str
    homepage: str
    members: tuple[str, ...] = ()  # what the archive holds, where ``files`` is one zip archive
    urls: Mapping[str, str] = field(default_factory=dict)  # file -> address, where it can be fetched without a form
    sha256: Mapping[str, str] = field(default_factory=dict)  # file -> digest of a known copy; another one is noted, not refused
    notes: str = ""
    split: SplitConfig = field(default_factory=SplitConfig)
    negatives: int | None = None  # per positive, for positives-only logs
    sequences: Literal["positives", "all"] = "positives"
    duplicates: Literal["merge", "keep", "error"] = "merge"

    @property
    def settings(self) -> PrepareSettings:
        """The cut this data set is usually prepared with."""
        return PrepareSettings(split=self.split, negatives=self.negatives, sequences=self.sequences, duplicates=self.duplicates)


def locate_files(dataset: PublicDataset, source: Path | str | None = None, *, download: bool = True) -> Path:
    """The archive or folder with the data set's files: ``source``, else under $BRAIDREC_DATA, else fetched into the cache.

    Raises DataError naming all three ways when none works.
    """
    if source is not None:
        found = _holding(dataset, Path(source))
        if found is None:
            raise DataError(f"{source}: {_missing(dataset, Path(source))}{_ways(dataset)}")
        return found
    folders = [Path(setting) for setting in [os.environ.get(FOLDER_SETTING)] if setting]
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{FOLDER_SETTING}={folder}: this is no folder{_ways(dataset)}")
    cache = _cache()
    for folder in (*folders, cache):
        for place in (folder / dataset.name, folder):
            found = _holding(dataset, place)
            if found is not None:
                return found
    if download and set(dataset.urls) == set(dataset.files):
        for name, address in dataset.urls.items():
            _fetch(address, cache / dataset.name / name, dataset)
        return locate_files(dataset, download=False)
    looked = (
        f"${FOLDER_SETTING} = {folders[0]} has no {' and '.join(dataset.files)}" if folders else f"${FOLDER_SETTING} is not set"
    )
    raise DataError(f"{dataset.name}: not found ({looked}){_ways(dataset)}")


def archive_members(path: Path, names: tuple[str, ...]) -> tuple[dict[str, bytes], SourceFile]:
    """The named files (bare names) of a zip archive, or of a folder it was unpacked into, as bytes; nothing is written.

    Raises DataError for damaged archives, names that lead out of the folder, links, and members beyond 1 GiB.
    """
    if path.is_dir():
        places = {name: path / name for name in names}
        missing = [name for name, place in places.items() if not place.is_file()]
        if missing:
            raise DataError(f"{path}: {', '.join(missing)} is not there; unpack the whole archive, or name the archive itself")
        main = places[names[0]]
        return {name: place.read_bytes() for name, place in places.items()}, SourceFile(main.name, sha256(main))
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(entry.filename).name: entry for entry in _safe_entries(archive, path)}
            missing = [name for name in names if name not in members]
            if missing:
                raise DataError(f"{path}: {', '.join(missing)} is not in the archive (it holds: {', '.join(sorted(members))})")
            return {name: _content(archive, members[name], path) for name in names}, SourceFile(path.name, sha256(path))
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as cause:
        raise DataError(f"{path}: not a whole zip archive ({cause}); fetch it again") from None


def expect_counts(name: str, path: Path, found: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """The published counts stand in for a checksum: an archive may be packed again, its rows may not change."""
    wrong = [f"{found[key]:,} {key} instead of {expected[key]:,}" for key in expected if found[key] != expected[key]]
    if wrong:
        raise DataError(
            f"{path}: not the published {name}: {', '.join(wrong)}; fetch it again, or describe your own version in a TOML file"
        )


def _holding(dataset: PublicDataset, place: Path) -> Path | None:
    """``place`` itself or what it holds, when the files of the data set are there, packed or unpacked."""
    if place.is_file():
        return place if dataset.members and zipfile.is_zipfile(place) else None
    if all((place / name).is_file() for name in dataset.files):
        return place / dataset.files[0] if dataset.members else place
    for unpacked in (place, place / dataset.name):
        if dataset.members and all((unpacked / name).is_file() for name in dataset.members):
            return unpacked
    return None


def _missing(dataset: PublicDataset, place: Path) -> str:
    if not place.exists():
        return "does not exist"
    if place.is_file():
        return "is not a whole zip archive" if dataset.members else "is a file, where the folder with the files is needed"
    return f"does not hold {' and '.join(dataset.files)}"


def _ways(dataset: PublicDataset) -> str:
    files = " and ".join(dataset.files)
    third = "3. let braidrec fetch it, on a machine with a network" if dataset.urls else f"3. get it from {dataset.homepage}"
    return (
        f".\nThree ways: 1. put {files} into a folder DIR/{dataset.name} and set {FOLDER_SETTING}=DIR; "
        f"2. name the {'archive' if dataset.members else 'folder'} with --source; {third}"
    )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "braidrec" / "data"


def _fetch(address: str, target: Path, dataset: PublicDataset) -> None:
    import httpx

    from braidrec.progress import progress

    def write(temporary: Path) -> None:
        with (
            httpx.stream("GET", address, follow_redirects=True, timeout=httpx.Timeout(60, connect=10)) as response,
            temporary.open("wb") as stream,
        ):
            response.raise_for_status()
            total = int(response.headers.get("content-length", 0))
            with progress(f"fetching {target.name}", total, "bytes") as advance:
                for block in response.iter_bytes(1 << 20):
                    stream.write(block)
                    advance(len(block))
        if target.suffix == ".zip" and not zipfile.is_zipfile(temporary):
            raise DataError(f"{address}: what came is no whole zip archive; try again")

    try:
        write_atomic(target, write)
    except httpx.HTTPError as cause:
        raise DataError(f"{dataset.name}: could not be fetched from {address} ({cause}){_ways(dataset)}") from None


def _safe_entries(archive: zipfile.ZipFile, path: Path) -> Iterator[zipfile.ZipInfo]:
    seen = set()
    for entry in archive.infolist():
        parts = entry.filename.replace("\\", "/").split("/")
        if entry.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise DataError(f"{path}: the member {entry.filename!r} leads out of the archive's folder; the archive is refused")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DataError(f"{path}: the member {entry.filename!r} is a link; the archive is refused")
        if entry.file_size > _LARGEST_MEMBER:
            raise DataError(f"{path}: the member {entry.filename!r} claims {entry.file_size:,} bytes; the archive is refused")
        if entry.is_dir():
            continue
        if parts[-1] in seen:
            raise DataError(f"{path}: the member {parts[-1]!r} is there twice; the archive is refused")
        seen.add(parts[-1])
        yield entry


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> bytes:
    import zlib

    try:
        with archive.open(entry) as stream:
            content = stream.read(entry.file_size + 1)
    except (zlib.error, zipfile.BadZipFile, EOFError) as cause:
        raise DataError(f"{path}: the member {entry.filename!r} is damaged ({cause}); fetch the archive again") from None
    if len(content) != entry.file_size:
        raise DataError(f"{path}: the member {entry.filename!r} is not of the size it claims; fetch the archive again")
    return content
