"""The knowledge base: what a text encoder made of every item and user, stored once, by id.

    <path>/<table>/manifest.json        identity of the vectors: encoder, revision, pooling, prompt, width, dtype
    <path>/<table>/rows.lance/          the record of truth, a LanceDB table: one row per (kind, id)
    <path>/<table>/fitted.safetensors   what an encoder that must be fitted has learnt
    <path>/<table>/matrix/              derived: memory-mapped matrices, one per kind and version, made again at need
    <path>/<table>/writer.lock          held by the one process that writes, gone when it is done

Every batch of a sync is one commit: a process that dies loses the batch in flight and nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import re
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from braidrec import shown
from braidrec.arguments import path_of
from braidrec.errors import KnowledgeError
from braidrec.files import load_tensors, read_json, save_tensors, sha256, write_json
from braidrec.knowledge import lance
from braidrec.knowledge.encoders.base import FittedEncoder, PricedEncoder, TextEncoder
from braidrec.knowledge.matrix import Floats, Matrix
from braidrec.knowledge.texts import PromptTemplate
from braidrec.locks import writer_lock
from braidrec.progress import Advance, progress
from braidrec.strict import Strict, parse

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import LanceTable
    from torch import nn

Kind = Literal["item", "user"]
Dtype = Literal["float16", "float32"]

FORMAT = 2
_FORMER = 1  # its checksums cover the vector alone; such tables are read, and filled further by their own rule
_KINDS = ("item", "user")
_ROWS = 16_384  # rows gathered at a time
_SLICE = 512  # texts given to the encoder at a time, so that a bar can move inside a commit
_DELETE = 500  # ids per delete statement
_log = logging.getLogger(__name__)


class Identity(Strict):
    """What two vectors must share to live in one table."""

    encoder: str
    revision: str
    pooling: str
    prompt: str  # digest of the template, or "plain"
    width: int
    dtype: Dtype

    @property
    def table(self) -> str:
        """Folder name: readable encoder name, then a digest of (encoder, revision, pooling, prompt)."""
        key = json.dumps([self.encoder, self.revision, self.pooling, self.prompt])
        readable = re.sub(r"[^a-z0-9]+", "-", self.encoder.lower()).strip("-")[:40]
        return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


class _Manifest(Strict):
    format: int
    identity: Identity
    fitted: str | None  # sha256 of fitted.safetensors


@dataclass(frozen=True)
class SyncReport:
    """What one sync did; the numbers of ``encoded + unchanged + missing`` are those of the given ids."""

    encoded: int  # new or changed texts
    unchanged: int
    missing: int  # given without a text
    removed: int  # rows that ``prune`` took away
    seconds: float
    texts_per_second: float  # of the encoded ones, committing included
    version: int


@dataclass(frozen=True)
class TableVersion:
    """users: how many of its rows are of users"""

    number: int
    committed: datetime.datetime
    rows: int
    users: int


@dataclass(frozen=True)
class VerifyReport:
    """Counts of a table in which everything agreed."""

    items: int
    users: int
    version: int


class KnowledgeBase:
    """One table of vectors and, when given, the encoder that fills it.  Made by ``open``."""

    def __init__(self, folder: Path, identity: Identity, encoder: TextEncoder | None):
        self.folder = folder
        self.identity = identity
        self.encoder = encoder
        self._views: dict[str, Matrix] = {}
        self._format = FORMAT
        self._restore()

    @classmethod
    def open(
        cls,
        path: Path | str,
        encoder: TextEncoder | None = None,
        *,
        prompt: PromptTemplate | str | None = None,
        dtype: Dtype | None = None,
        table: str | None = None,
    ) -> KnowledgeBase:
        """The table at ``path`` that belongs to ``encoder`` and ``prompt``, made on its first sync.

        Without an encoder: the only table there, or the one named ``table``; it can be read, not synced.
        dtype: how vectors are stored, float16 for a new table.  Nothing is written here.
        Raises KnowledgeError when the table's width or dtype differs from what is asked, or none or several match.
        """
        path = path_of(path, "path")
        if encoder is None:
            folder = _choose_table(path, table)
            identity = _read_manifest(folder).identity
            if dtype not in (None, identity.dtype):
                raise KnowledgeError(f"{folder}: vectors are stored as {identity.dtype}, not {dtype}")
            return cls(folder, identity, None)
        identity = Identity(
            encoder=encoder.name,
            revision=encoder.revision,
            pooling=encoder.pooling,
            prompt=_prompt_digest(prompt),
            width=encoder.width,
            dtype=dtype or "float16",
        )
        folder = path / identity.table
        if table not in (None, identity.table):
            raise KnowledgeError(f"{path}: table '{table}' is not the one of {encoder!r} and this prompt ('{identity.table}')")
        if dtype is None and (folder / "manifest.json").is_file():
            identity = identity.model_copy(update={"dtype": _read_manifest(folder).identity.dtype})
        return cls(folder, identity, encoder)

    @property
    def fitted(self) -> str | None:
        """Digest of what its encoder was fitted to; None for an encoder that is not fitted, and before the first sync."""
        return _read_manifest(self.folder).fitted if (self.folder / "manifest.json").is_file() else None

    def __repr__(self) -> str:
        return f"KnowledgeBase({str(self.folder)!r}, {self.identity.encoder}, width {self.width}, {self.identity.dtype})"

    @property
    def width(self) -> int:
        return self.identity.width

    @property
    def label(self) -> str:
        """Who made these vectors, for tables of results: "<encoder> (<revision>)"."""
        return f"{self.identity.encoder} ({self.identity.revision})"

    @property
    def version(self) -> int:
        """Number of the last commit, 0 before the first."""
        table = lance.table_of(self.folder)
        return 0 if table is None else int(table.version)

    # ---- writing

    def sync(
        self,
        ids: Sequence[str],
        texts: Sequence[str | None],
        kind: Kind = "item",
        *,
        batch_rows: int = 4096,
        show_progress: bool = True,
        prune: bool = False,
        keep_versions: int = 8,
    ) -> SyncReport:
        """Encode what is new or whose text changed; everything else stays as it is.

        The to-do list is sorted by id and cut into batches of ``batch_rows`` before the first commit; each batch is one
        commit.  A sync that was killed goes on where it stopped.  ``prune`` removes rows of this kind that ``ids`` lacks or
        gives no text.  One process writes at a time; a second one waits, then finds only what is left to do.
        Raises KnowledgeError: duplicate or empty ids, a failed write (nothing of its batch is kept), an encoder's failure.
        """
        if self.encoder is None:
            raise KnowledgeError(
                f"{self.folder}: opened without an encoder, so it can only be read; pass one to KnowledgeBase.open"
            )
        if batch_rows < 1 or keep_versions < 1:
            raise KnowledgeError(f"batch_rows = {batch_rows}, keep_versions = {keep_versions}: both must be at least 1")
        wanted = _wanted(ids, texts, kind)
        tell = _teller(show_progress)
        started = time.monotonic()
        with lance.writing(self.folder, "preparing the table"):
            self.folder.mkdir(parents=True, exist_ok=True)

        def waiting(holder: str) -> None:
            tell(f"{self.folder}: process {holder} is writing this table; waiting for it to finish")

        with contextlib.ExitStack() as stack:
            with lance.writing(self.folder, "taking the writer's lock"):
                waited = stack.enter_context(writer_lock(self.folder / "writer.lock", waiting))
            self._restore()  # another process may have made the table meanwhile
            stored = self._hashes(kind)
            todo = sorted(id for id, (text, digest) in wanted.items() if text and stored.get(id) != digest)
            if waited and not todo:
                tell(f"{self.folder}: nothing left to do, the other process encoded it all")
            if todo:
                self._begin([wanted[id][0] for id in todo], tell)
                batches = [todo[start : start + batch_rows] for start in range(0, len(todo), batch_rows)]
                with progress(f"encoding {kind} texts", len(todo), "texts", show=show_progress) as advance:
                    for number, batch in enumerate(batches, start=1):
                        self._commit(self._encode_rows(kind, batch, wanted, advance))
                        if number % lance.FRAGMENTS == 0:
                            lance.tidy(self.folder, keep_versions)
            present = {id for id, (text, _) in wanted.items() if text}
            removed = self._remove(kind, sorted(stored.keys() - present)) if prune else 0
            lance.tidy(self.folder, keep_versions)
            self._check_count(kind, len(stored.keys() | present) - removed)
            version = self.version
            lance.note_latest(self.folder)
        seconds = time.monotonic() - started
        return SyncReport(
            encoded=len(todo),
            unchanged=len(present) - len(todo),
            missing=len(wanted) - len(present),
            removed=removed,
            seconds=seconds,
            texts_per_second=len(todo) / max(seconds, 1e-9),
            version=version,
        )

    def _begin(self, texts: list[str], tell: Callable[[str], None]) -> None:
        """Before the first batch: the price is shown, the encoder fitted, the table made.  Each step survives a kill."""
        if isinstance(self.encoder, PricedEncoder):
            tell(f"{self.encoder!r}: {self.encoder.estimate(texts)}")
        with lance.writing(self.folder, "making the table"):
            if not (self.folder / "manifest.json").exists():
                fitted = None
                if isinstance(self.encoder, FittedEncoder):
                    self.encoder = self.encoder if self.encoder.state is not None else self.encoder.fit(texts)
                    fitted = save_tensors(self.folder / "fitted.safetensors", self.encoder.state or {})
                manifest = _Manifest(format=self._format, identity=self.identity, fitted=fitted)
                write_json(self.folder / "manifest.json", manifest.model_dump())
            lance.made_table(self.folder, _schema(self.identity))

    def _encode_rows(self, kind: Kind, ids: list[str], wanted: dict[str, tuple[str, str]], advance: Advance) -> pa.Table:
        """The Arrow rows of one batch, in the order of ``ids``."""
        import pyarrow as pa

        assert self.encoder is not None
        vectors = np.empty((len(ids), self.width), self.identity.dtype)
        by_length = sorted(range(len(ids)), key=lambda row: len(wanted[ids[row]][0]))  # texts alike in length share batches
        for start in range(0, len(ids), _SLICE):
            rows = by_length[start : start + _SLICE]
            vectors[rows] = self._encode([wanted[ids[row]][0] for row in rows])
            advance(len(rows))
        keys, digests = [f"{kind}:{id}" for id in ids], [wanted[id][1] for id in ids]
        return pa.table(
            {
                "key": keys,
                "kind": [kind] * len(ids),
                "id": ids,
                "text": [wanted[id][0] for id in ids],
                "text_hash": digests,
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.width),
                "vector_crc": pa.array(self._checksums(keys, digests, vectors), pa.uint32()),
            },
            schema=_schema(self.identity),
        )

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        """The encoder's answer, checked for shape and for values that the table can hold."""
        assert self.encoder is not None
        vectors = self.encoder.encode(texts)
        if vectors.shape != (len(texts), self.width):
            raise KnowledgeError(
                f"{self.encoder!r} gave {vectors.shape} for {len(texts)} texts, expected ({len(texts)}, {self.width})"
            )
        bad = np.flatnonzero(~(np.abs(vectors) <= np.finfo(self.identity.dtype).max).all(axis=1))
        if len(bad):
            raise KnowledgeError(
                f"{self.encoder!r}: {len(bad)} of {len(texts)} vectors hold NaN, infinity or more than {self.identity.dtype} "
                f"can (first text: {texts[bad[0]][:80]!r}); use precision = 'float32', or dtype = 'float32' for the table"
            )
        return vectors

    def _commit(self, rows: pa.Table) -> None:
        with lance.writing(self.folder, f"committing {len(rows):,} rows"):
            lance.put(self._written(), rows)

    def _remove(self, kind: Kind, ids: list[str]) -> int:
        with lance.writing(self.folder, f"removing {len(ids):,} rows"):
            for start in range(0, len(ids), _DELETE):
                keys = ", ".join("'" + f"{kind}:{id}".replace("'", "''") + "'" for id in ids[start : start + _DELETE])
                self._written().delete(f"key IN ({keys})")
        return len(ids)

    def _check_count(self, kind: Kind, expected: int) -> None:
        table = lance.table_of(self.folder)
        with lance.reading(self.folder):
            found = 0 if table is None else table.count_rows(f"kind = '{kind}'")
        if found != expected:
            raise KnowledgeError(f"{self.folder}: {found:,} {kind} rows after the sync, expected {expected:,}; run verify")

    # ---- reading

    def ids(self, kind: Kind = "item") -> list[str]:
        """Every id that has a vector, sorted."""
        return sorted(self._view(kind).ids)

    def texts(self, ids: Sequence[str], kind: Kind = "item") -> dict[str, str]:
        """The stored text of each of ``ids`` that has one."""
        wanted, found = set(ids), {}
        for keys, own, texts, digests in self._columns(lance.table_of(self.folder), kind, ["key", "id", "text", "text_hash"]):
            for key, id, text, digest in zip(keys, own, texts, digests, strict=True):
                if key != f"{kind}:{id}":
                    raise self._damaged(kind, id, "key")
                if id in wanted:
                    if digest != _hash(text):
                        raise self._damaged(kind, id, "text")
                    found[id] = text
        if len(found) < len(wanted) and (
            lost := next((id for id in wanted - found.keys() if id in self._view(kind).index), None)
        ):
            raise self._damaged(kind, lost, "kind")  # what is damaged there is not among the rows that are asked for
        return found

    def absent(self, ids: Iterable[str], kind: Kind = "item") -> list[str]:
        """Those of ``ids`` that have no vector."""
        index = self._view(kind).index
        return [id for id in ids if id not in index]

    def changed(self, ids: Sequence[str], texts: Sequence[str | None], kind: Kind = "item") -> list[str]:
        """Those of ``ids`` whose vector is of another text than theirs of ``texts``."""
        stored = self._hashes(kind)
        pairs = ((id, _hash(text if text and text.strip() else "")) for id, text in zip(ids, texts, strict=True))
        return [id for id, digest in pairs if stored.get(id, digest) != digest]

    def matrix(self, ids: Sequence[str], kind: Kind = "item", *, missing: Literal["error", "mean"] = "error") -> Floats:
        """[len(ids), width] in the dtype of the table, row i for ids[i]; read from a checked memory map.

        missing="mean": an id without a vector gets the mean over all of its kind, and a warning counts them (``absent``
        lists them); "error": KnowledgeError naming the first ones.
        """
        return self._gather(self._view(kind), ids, kind, missing)

    def read_into(
        self, out: Floats, ids: Sequence[str], kind: Kind = "item", *, missing: Literal["error", "mean"] = "error"
    ) -> None:
        """`matrix` written into ``out`` [len(ids), width], of any dtype, with no copy of all of it on the way.

        What has been read is let go, so that a process never holds the whole map and ``out``.
        """
        self._gather(self._view(kind), ids, kind, missing, out)
        del self._views[kind]

    def _gather(
        self, view: Matrix, ids: Sequence[str], kind: Kind, missing: Literal["error", "mean"], out: Floats | None = None
    ) -> Floats:
        rows = np.fromiter((view.index.get(id, -1) for id in ids), np.int64, len(ids))
        gaps = np.flatnonzero(rows < 0)
        if len(gaps) and (missing == "error" or not len(view.vectors)):
            first = ", ".join(repr(ids[gap]) for gap in gaps[:3])
            raise KnowledgeError(
                f"{self.folder}: {len(gaps):,} of {len(ids):,} {kind} ids have no vector (first: {first}); "
                "sync their texts, or pass missing='mean'"
            )
        bulk = out is not None
        if out is None:
            out = np.empty((len(ids), self.width), view.vectors.dtype)
        order = np.argsort(rows, kind="stable")[len(gaps) :]  # the map is read from front to back
        for start in range(0, len(order), _ROWS):
            part = order[start : start + _ROWS]
            out[part] = view.vectors[rows[part]]
            if bulk:
                view.let_go()
        if len(gaps):
            out[gaps] = view.mean.astype(view.vectors.dtype)  # rounded like the others
            _log.warning("%s: %d of %d %s ids have no vector and get the mean", self.folder, len(gaps), len(ids), kind)
        return out

    def nearest(
        self,
        *,
        id: str | None = None,
        vector: NDArray[np.floating[Any]] | None = None,
        text: str | None = None,
        k: int = 10,
        kind: Kind = "item",
    ) -> list[tuple[str, float]]:
        """The ``k`` ids of the highest cosine to an id (itself left out), a vector (width,) or a text; ties by id.  Exact."""
        if sum(given is not None for given in (id, vector, text)) != 1 or k < 1:
            raise KnowledgeError("nearest: give exactly one of id, vector and text, and k of at least 1")
        view = self._view(kind)
        if id is not None:
            query = self._gather(view, [id], kind, "error")[0]
        elif text is not None:
            if self.encoder is None:
                raise KnowledgeError(f"{self.folder}: opened without an encoder, so a text has no vector; pass one to open")
            query = self._encode([text])[0].astype(self.identity.dtype)
        else:
            query = np.asarray(vector)
        if query.shape != (self.width,) or not np.isfinite(query).all():
            raise KnowledgeError(f"nearest: the vector has shape {query.shape}, expected ({self.width},) of finite numbers")
        return view.nearest(query.astype(np.float32), k, leave_out=id)

    def reduce(
        self,
        mlp: nn.Module,
        ids: Sequence[str],
        kind: Kind = "item",
        *,
        missing: Literal["error", "mean"] = "error",
        block: int = 8192,
    ) -> NDArray[np.float32]:
        """``mlp`` over the vectors of ``ids``, float32 [len(ids), d]: the small table that inference needs (DisCo, sec. 7).

        The module runs in evaluation mode on its own device, ``block`` rows at a time, and is left as it was.
        """
        import torch

        from braidrec.training.devices import place_of

        view = self._view(kind)
        device = place_of(mlp)
        training = mlp.training
        mlp.eval()
        try:
            with torch.inference_mode():
                parts = [
                    mlp(torch.from_numpy(self._gather(view, ids[start : start + block], kind, missing)).to(device).float())
                    for start in range(0, max(len(ids), 1), block)
                ]
        finally:
            mlp.train(training)
        reduced: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
        return reduced

    def versions(self) -> list[TableVersion]:
        """The commits that are still kept, oldest first."""
        table = lance.table_of(self.folder)
        found = []
        with lance.reading(self.folder):
            for each in sorted([] if table is None else table.list_versions(), key=lambda each: int(each["version"])):
                assert table is not None
                table.checkout(int(each["version"]))
                users, rows = table.count_rows("kind = 'user'"), int(each["metadata"]["total_rows"])
                found.append(TableVersion(int(each["version"]), each["timestamp"], rows, users))
        return found

    def verify(self) -> VerifyReport:
        """Read everything: keys, text hashes, vector checksums, and the derived matrices that exist.

        Raises KnowledgeError listing what does not agree.
        """
        table = lance.table_of(self.folder)
        counts: Counter[str] = Counter()
        keys: set[str] = set()
        problems: Counter[str] = Counter()
        for *columns, vectors in self._columns(table, None, ["key", "kind", "id", "text", "text_hash", "vector_crc", "vector"]):
            keys_here, _, _, _, digests, _ = columns
            found_here = self._checksums(keys_here, digests, vectors)
            for found, key, kind, id, text, digest, crc in zip(found_here, *columns, strict=True):
                counts[kind] += 1
                problems["duplicate keys"] += key in keys
                problems["keys that are not kind:id"] += key != f"{kind}:{id}"
                problems["texts that differ from their hash"] += digest != _hash(text)
                problems["vectors that differ from their checksum"] += crc != found
                keys.add(key)
        version = 0 if table is None else int(table.version)
        for kind in _KINDS:
            folder = self._matrix_folder(kind, version)
            problems["damaged derived matrices"] += folder.is_dir() and Matrix.load(folder, self._source(version)) is None
        faults = [f"{count:,} {what}" for what, count in problems.items() if count]
        if faults:
            raise KnowledgeError(
                f"{self.folder}, version {version}: {', '.join(faults)}; restore the folder from a copy, or delete it and "
                "sync again (a damaged matrix/ alone may be deleted: it is made again)"
            )
        return VerifyReport(items=counts["item"], users=counts["user"], version=version)

    # ---- inside

    def _restore(self) -> None:
        """Compare with the manifest, if there is one, and take over what a fitted encoder learnt."""
        if not (self.folder / "manifest.json").is_file():
            return
        manifest = _read_manifest(self.folder)
        self._format = manifest.format
        for name, received in self.identity.model_dump().items():
            stored = getattr(manifest.identity, name)
            if stored != received:
                raise KnowledgeError(
                    f"{self.folder}: its vectors have {name} = {stored!r}, asked was {received!r}; such vectors do not mix. "
                    "Open it as it is, or use another folder"
                )
        if manifest.fitted is None or not isinstance(self.encoder, FittedEncoder):
            return
        state = load_tensors(self.folder / "fitted.safetensors", manifest.fitted, KnowledgeError)
        own = self.encoder.state
        if own is not None and not (own.keys() == state.keys() and all(own[name].equal(state[name]) for name in state)):
            raise KnowledgeError(
                f"{self.folder}: its vectors were made by a fit on other texts than {self.encoder!r}; pass one not fitted"
            )
        self.encoder = self.encoder.with_state(state)

    def _written(self) -> LanceTable:
        table = lance.table_of(self.folder)
        assert table is not None
        return table

    def _hashes(self, kind: Kind) -> dict[str, str]:
        hashes: dict[str, str] = {}
        for keys, ids, digests in self._columns(lance.table_of(self.folder), kind, ["key", "id", "text_hash"]):
            for key, id in zip(keys, ids, strict=True):
                if key != f"{kind}:{id}":
                    raise self._damaged(kind, id, "key")
            hashes.update(zip(ids, digests, strict=True))
        return hashes

    def _columns(self, table: LanceTable | None, kind: Kind | None, names: list[str]) -> Iterator[list[Any]]:
        """Rows part by part: a list of each column, of the vectors an array [rows, width]."""
        if table is None:
            return
        with lance.reading(self.folder):
            query = table.search().select(names)
            for batch in (query.where(f"kind = '{kind}'") if kind else query).to_batches(8192):
                yield [_vectors(batch, self.width) if name == "vector" else batch.column(name).to_pylist() for name in names]

    def _checksums(self, keys: Sequence[str], digests: Sequence[str], vectors: Floats) -> list[int]:
        """Of each row: key, hash of the text and vector; in a former table of the vector alone."""
        if self._format == _FORMER:
            return [zlib.crc32(vector.data) for vector in vectors]
        heads = (zlib.crc32(f"{key}\0{digest}\0".encode()) for key, digest in zip(keys, digests, strict=True))
        return [zlib.crc32(vector.data, head) for vector, head in zip(vectors, heads, strict=True)]

    def _damaged(self, kind: str, id: str, what: str) -> KnowledgeError:
        return KnowledgeError(
            f"{self.folder}: the {what} of {kind} {id!r} differs from its checksum; the files are damaged: "
            "restore them from a copy, or delete the folder and sync again"
        )

    def _source(self, version: int) -> str:
        """What a derived matrix was made from: the digest of the table's list of files at ``version``."""
        file = lance.files_of(self.folder, version)
        return "" if file is None else sha256(file)

    def _matrix_folder(self, kind: str, version: int) -> Path:
        return self.folder / "matrix" / f"{kind}-{version}"

    def _view(self, kind: Kind) -> Matrix:
        """The derived matrix of the latest version: from memory, from disk, or made now."""
        _check_kind(kind)
        table = lance.table_of(self.folder)
        version = 0 if table is None else int(table.version)
        view = self._views.get(kind)
        if view is None or view.version != version:
            folder = self._matrix_folder(kind, version)
            view = Matrix.load(folder, self._source(version)) if folder.is_dir() else None
            if view is None or view.vectors.shape[1] != self.width:
                if folder.is_dir():
                    _log.warning("%s: damaged; made again from the table", folder)
                    shutil.rmtree(folder, ignore_errors=True)
                view = self._derive(table, kind, version)
            self._views[kind] = view
        return view

    def _derive(self, table: LanceTable | None, kind: Kind, version: int) -> Matrix:
        with lance.reading(self.folder):
            counts = [0 if table is None else table.count_rows(f"kind = '{each}'") for each in _KINDS]
            whole = 0 if table is None else table.count_rows()
        if sum(counts) != whole:
            raise KnowledgeError(
                f"{self.folder}: {whole - sum(counts):,} rows are of no known kind; the files are damaged: restore them from a "
                "copy, or delete the folder and sync again"
            )
        count = counts[_KINDS.index(kind)]
        if not count:
            return Matrix(version, [], np.empty((0, self.width), self.identity.dtype))

        def rows() -> Iterator[tuple[list[str], Floats]]:
            names = ["key", "id", "text_hash", "vector_crc", "vector"]
            for keys, ids, digests, sums, vectors in self._columns(table, kind, names):
                found = self._checksums(keys, digests, vectors)
                for key, id, one, other in zip(keys, ids, found, sums, strict=True):
                    if one != other:
                        raise self._damaged(kind, id, "vector")
                    if key != f"{kind}:{id}":
                        raise self._damaged(kind, id, "key")
                yield ids, vectors

        return Matrix.build(
            self._matrix_folder(kind, version),
            rows,
            count=count,
            width=self.width,
            dtype=self.identity.dtype,
            version=version,
            source=self._source(version),
        )


def _wanted(ids: Sequence[str], texts: Sequence[str | None], kind: str) -> dict[str, tuple[str, str]]:
    """id -> (text, hash of the text); text "" where there is none.  Raises KnowledgeError for ids that cannot be keys."""
    _check_kind(kind)
    if len(ids) != len(texts):
        raise KnowledgeError(f"{len(ids):,} ids but {len(texts):,} texts; they must pair up")
    for row, id in enumerate(ids):
        if not isinstance(id, str) or not id:
            raise KnowledgeError(f"row {row}: {id!r} is not an id; ids are non-empty strings")
    wanted: dict[str, tuple[str, str]] = {}
    for row, (id, text) in enumerate(zip(ids, texts, strict=True)):
        text = text if text and text.strip() else ""
        try:
            id.encode()
            wanted[id] = (text, _hash(text))
        except UnicodeEncodeError as cause:
            raise KnowledgeError(f"row {row}, id {id!r}: half a character ({cause.reason}); mend the id or text") from None
    if len(wanted) != len(ids):
        repeated = [(id, count) for id, count in Counter(ids).items() if count > 1]
        first = ", ".join(f"{id!r} x {count}" for id, count in repeated[:3])
        raise KnowledgeError(f"{len(repeated):,} {kind} ids occur more than once (first: {first}); give each id one text")
    return wanted


def _check_kind(kind: str) -> None:
    if kind not in _KINDS:
        raise KnowledgeError(f"kind = {kind!r} (accepted: 'item', 'user')")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _prompt_digest(prompt: PromptTemplate | str | None) -> str:
    if isinstance(prompt, PromptTemplate):
        return prompt.digest
    return "plain" if prompt is None else _hash(prompt)


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / "manifest.json"
    values = read_json(path, KnowledgeError)
    if not isinstance(values, dict) or values.get("format") not in (_FORMER, FORMAT):
        raise KnowledgeError(f"{path}: not a knowledge table of format {_FORMER} or {FORMAT}; delete the folder and sync again")
    manifest = parse(_Manifest, values, str(path))
    if manifest.identity.table != folder.name:
        raise KnowledgeError(
            f"{path}: names the encoder {manifest.identity.encoder!r} and a prompt whose table would be "
            f"'{manifest.identity.table}'; the file was changed or the folder renamed: bring it back as it was"
        )
    return manifest


def _choose_table(path: Path, name: str | None) -> Path:
    folders = {manifest.parent.name: manifest.parent for manifest in sorted(path.glob("*/manifest.json"))}
    if name is None and len(folders) == 1:
        return next(iter(folders.values()))
    if name is not None and name in folders:
        return folders[name]
    what = "no table yet" if not folders else f"tables: {', '.join(folders)}"
    raise KnowledgeError(f"{path}: {what}; " + ("sync one first" if not folders else "name one of them, or pass its encoder"))


def _schema(identity: Identity) -> pa.Schema:
    import pyarrow as pa

    number = pa.float16() if identity.dtype == "float16" else pa.float32()
    texts = [pa.field(name, pa.string(), nullable=False) for name in ("kind", "id", "text", "text_hash")]
    vector = pa.field("vector", pa.list_(number, identity.width), nullable=False)
    return pa.schema([lance.key_field(), *texts, vector, pa.field("vector_crc", pa.uint32(), nullable=False)])


def _vectors(batch: pa.RecordBatch, width: int) -> Floats:
    vectors: Floats = batch.column("vector").flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return vectors


def _teller(show: bool) -> Callable[[str], None]:
    return shown.tell if show else _log.info
