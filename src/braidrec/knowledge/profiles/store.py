"""Profiles as they were written, by kind and id: the texts that a knowledge base encodes, and what each was written from.

<knowledge base>/profiles/rows.lance     one row per (kind, id), of failures, too
<knowledge base>/profiles/writer.lock    held by the one process that writes
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from braidrec.errors import KnowledgeError
from braidrec.knowledge import lance
from braidrec.knowledge.profiles.writer import Kind
from braidrec.locks import writer_lock

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "profiles"
_KEPT_VERSIONS = 8


@dataclass(frozen=True)
class Profile:
    """What was written of an item or a user.

    source: digest of what it was written from, and by whom (`Question.source`)
    part: of a user, the digest of their training part (`TrainingPart.digest`); "" of an item
    text: "" where ``failure`` says why there is none    read, written: tokens that it took
    """

    id: str
    source: str
    part: str
    text: str
    failure: str
    read: int
    written: int


class ProfileStore:
    """folder: of the knowledge base whose texts they are."""

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER

    def __repr__(self) -> str:
        return f"ProfileStore({str(self.folder)!r})"

    def read(self, kind: Kind) -> dict[str, Profile]:
        """All of a kind, by id.  Raises KnowledgeError for a row that differs from its checksum."""
        table, found = lance.table_of(self.folder), {}
        if table is None:
            return {}
        names = ["key", "id", "source", "part", "profile", "failure", "read", "written", "crc"]
        with lance.reading(self.folder):
            for batch in table.search().select(names).where(f"kind = '{kind}'").to_batches(8192):
                columns = [batch.column(name).to_pylist() for name in names]
                for key, *values, crc in zip(*columns, strict=True):
                    profile = Profile(*values)
                    if key != f"{kind}:{profile.id}" or crc != _checksum(kind, profile):
                        raise KnowledgeError(
                            f"{self.folder}: the profile of {kind} {profile.id!r} differs from its checksum; the files are "
                            "damaged: restore them from a copy, or delete the folder and sync again, which writes all anew"
                        )
                    found[profile.id] = profile
        return found

    @contextlib.contextmanager
    def held(self, tell: Callable[[str], None]) -> Iterator[None]:
        """For as long as the block lasts no other process writes here."""

        def waiting(holder: str) -> None:
            tell(f"{self.folder}: process {holder} is writing profiles; waiting for it to finish")

        with contextlib.ExitStack() as stack:
            with lance.writing(self.folder, "taking the writer's lock"):
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(writer_lock(self.folder / "writer.lock", waiting))
            yield
            lance.tidy(self.folder, _KEPT_VERSIONS)
            lance.note_latest(self.folder)

    def put(self, kind: Kind, profiles: Sequence[Profile]) -> None:
        """In the place of those of their ids, in one commit."""
        import pyarrow as pa

        if not profiles:
            return
        ids, sources, parts, texts, failures, read, written = zip(*map(astuple, profiles), strict=True)
        with lance.writing(self.folder, f"committing {len(profiles):,} profiles"):
            rows = pa.table(
                [
                    pa.array([f"{kind}:{id}" for id in ids]),
                    pa.array([kind] * len(ids)),
                    *(pa.array(each, pa.string()) for each in (ids, sources, parts, texts, failures)),
                    pa.array(read, pa.uint64()),
                    pa.array(written, pa.uint64()),
                    pa.array([_checksum(kind, each) for each in profiles], pa.uint32()),
                ],
                schema=_schema(),
            )
            lance.put(lance.made_table(self.folder, _schema()), rows)


def _checksum(kind: str, profile: Profile) -> int:
    return zlib.crc32("\0".join([kind, *map(str, astuple(profile))]).encode(errors="surrogatepass"))


def _schema() -> pa.Schema:
    import pyarrow as pa

    texts = [pa.field(name, pa.string(), nullable=False) for name in ("kind", "id", "source", "part", "profile", "failure")]
    counts = [pa.field(name, pa.uint64(), nullable=False) for name in ("read", "written")]
    return pa.schema([lance.key_field(), *texts, *counts, pa.field("crc", pa.uint32(), nullable=False)])
