"""A catalogue's text into a knowledge base, and vectors back out in catalogue order.

A knowledge base folder remembers in ``knowledge.json`` which encoder and prompt filled it, so that later syncs, new items
and questions in words use the same.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from braidrec.arguments import path_of
from braidrec.data.dataset import Dataset
from braidrec.data.schema import Schema
from braidrec.data.values import values_of
from braidrec.errors import ConfigError, DataError, KnowledgeError, RunError, remedy
from braidrec.files import read_json, write_json, writing
from braidrec.knowledge.base import KnowledgeBase, SyncReport
from braidrec.knowledge.encoders import ENCODERS, AnyEncoder, make_encoder
from braidrec.knowledge.encoders.base import LimitedEncoder, PricedEncoder
from braidrec.knowledge.texts import ItemTexts, PromptTemplate
from braidrec.knowledge.trust import confirm as confirm_address
from braidrec.knowledge.trust import name_of, settings_file
from braidrec.locks import writer_lock
from braidrec.memory import held_whole
from braidrec.shown import plain
from braidrec.strict import Strict, parse
from braidrec.training.seeding import own_randomness

if TYPE_CHECKING:
    import polars as pl

_log = logging.getLogger(__name__)
SETTINGS = "knowledge.json"
Floats = NDArray[np.float32]
Vectors = NDArray[np.float16] | NDArray[np.float32]
Folders = Sequence[Path | str] | Path | str | None


class KnowledgeSettings(Strict):
    """How a knowledge base is filled.  missing: items without text take the mean of the others, or are an error."""

    encoder: AnyEncoder
    prompt: PromptTemplate
    missing: Literal["mean", "error"] = "mean"
    table: str | None = None  # set by the first sync


class _EncoderFile(Strict):
    encoder: AnyEncoder


def _none() -> str:
    how = remedy("knowledge=FOLDER", '--knowledge FOLDER, or in the run file knowledge = "FOLDER"')
    return f"this needs item text vectors: give the run a knowledge base ({how})"


def read_settings(folder: Path) -> KnowledgeSettings:
    """Raises KnowledgeError when ``folder`` holds no knowledge base."""
    if not (folder / SETTINGS).exists():
        raise KnowledgeError(f"{folder}: no knowledge base here; make one with {_build(folder)}")
    return parse(KnowledgeSettings, read_json(folder / SETTINGS, KnowledgeError), str(folder / SETTINGS))


def _build(folder: Path) -> str:
    return remedy(f"build_knowledge(data, {str(folder)!r}, encoder)", f"'braidrec knowledge build DATA --out {folder}'")


@dataclass(frozen=True)
class KnowledgeBases:
    """The knowledge bases of one run, in its order: an item's vectors stand side by side.  Made by ``open``."""

    folders: tuple[Path, ...]
    settings: tuple[KnowledgeSettings, ...]
    bases: tuple[KnowledgeBase, ...]

    @classmethod
    def open(cls, folders: Folders) -> KnowledgeBases:
        """Raises ConfigError for none and for one that is given twice, KnowledgeError for a folder that holds none."""
        paths = [path_of(each, "knowledge") for each in ((folders,) if isinstance(folders, str | Path) else folders or ())]
        if not paths:
            raise ConfigError(_none())
        for at, path in enumerate(paths):
            if path.resolve() in [other.resolve() for other in paths[:at]]:
                raise ConfigError(f"the knowledge base {path} is given twice, which says nothing new; name each folder once")
        settings = [read_settings(path) for path in paths]
        bases = [KnowledgeBase.open(path, table=each.table) for path, each in zip(paths, settings, strict=True)]
        return cls(tuple(paths), tuple(settings), tuple(bases))

    @property
    def width(self) -> int:
        """S, of all of them together."""
        return sum(base.width for base in self.bases)

    @property
    def identities(self) -> list[dict[str, Any]]:
        """What a run remembers of each: the identity of its vectors, the encoder's fit, the version read, the whole path."""
        return [
            {**base.identity.model_dump(), "fitted": base.fitted, "version": base.version, "path": str(folder.resolve())}
            for folder, base in zip(self.folders, self.bases, strict=True)
        ]

    def check(self, trained: Sequence[Mapping[str, Any]], where: Path | str) -> None:
        """Raise RunError, opened by ``where``, when vectors are others than those of ``trained``, a run's `identities`."""
        if len(trained) != len(self.bases):
            raise RunError(
                f"{where}: trained on {len(trained)} knowledge bases, now given {len(self.bases)}; name the same ones"
            )
        for own, record in zip(self.identities, trained, strict=True):
            for name, value in own.items():
                # runs of earlier versions remember no fit
                if name not in ("version", "path") and record.get(name, value) != value:
                    raise RunError(
                        f"{where}: trained on a knowledge base with {name} {record[name]!r}, which now has {value!r}"
                        + ("; its encoder was fitted to other texts, so its vectors are others" if name == "fitted" else "")
                    )

    def matrix(self, dataset: Dataset) -> Vectors:
        """Text vectors by catalogue row: (I + 1, S), row 0 zero; missing text follows each base's stated policy.

        float32 where they are small (`braidrec.memory.held_whole`); larger ones keep the dtype in which the bases store them
        (float16, unless one of them has float32), so that half the memory holds the same numbers.
        """
        shape = (dataset.num_items + 1, self.width)
        stored = np.result_type(*(base.identity.dtype for base in self.bases))
        vectors: Vectors = np.zeros(shape, np.float32 if held_whole(*shape) else stored)
        first = 0
        for base, settings in zip(self.bases, self.settings, strict=True):
            last = first + base.width
            base.read_into(vectors[1:, first:last], dataset.item_ids, missing=settings.missing)
            first = last
        return vectors

    def refuse_strange(self, dataset: Dataset) -> None:
        """Raise KnowledgeError where a base knows no item of the log: a model would train on text that is not there."""
        met = [dataset.item_ids[row - 1] for row in np.unique(dataset.log.item).tolist()]
        for base, folder in zip(self.bases, self.folders, strict=True):
            if met and len(base.absent(met)) == len(met):
                raise KnowledgeError(
                    f"{folder}: has no vector for any of the {len(met):,} items in the log of {dataset.name}, whose ids look "
                    f"like '{met[0]}', while it has '{base.ids()[0]}'; either it was built from another catalogue, or log and "
                    "catalogue write their ids in two ways: mend them, prepare the data again, and build it from these: "
                    + _build(folder)
                )

    def render(self, schema: Schema, frame: pl.DataFrame) -> list[list[str | None]]:
        """Of each base, one text per row of ``frame`` by its own prompt; columns that are absent count as empty."""
        return [_render(settings.prompt, schema, frame).texts for settings in self.settings]

    @property
    def priced(self) -> bool:
        """Whether to read new text costs money."""
        return any(isinstance(base.encoder, PricedEncoder) for base in self._reading)

    def encode(self, texts: Sequence[Sequence[str]]) -> Floats:
        """(n, S) of each base's n texts, by its own encoder, loaded once, and rounded as its table stores them."""
        parts = []
        for base, own in zip(self._reading, texts, strict=True):
            assert base.encoder is not None
            parts.append(base.encoder.encode(list(own)).astype(base.identity.dtype).astype(np.float32))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def tell_changes(self, dataset: Dataset) -> None:
        """Say how many items have another text now than when their vectors were made."""
        for base, settings, folder in zip(self.bases, self.settings, self.folders, strict=True):
            rendered = _render(settings.prompt, dataset.schema, dataset.items)
            other = base.changed(rendered.ids, rendered.texts)
            if other:
                _log.warning(
                    "%s: the text of %d of %d items of %s has changed since it was encoded (first: '%s'); the model reads the "
                    "former one until 'braidrec knowledge sync %s %s' encodes it again",
                    folder,
                    len(other),
                    len(rendered.ids),
                    dataset.name,
                    other[0],
                    dataset.path,
                    folder,
                )

    @cached_property
    def _reading(self) -> list[KnowledgeBase]:
        """The bases with their encoders."""
        return [
            _readable(folder, _allowed(folder, settings)) for folder, settings in zip(self.folders, self.settings, strict=True)
        ]


def open_knowledge(folder: Path | str | None, *, encode: bool = False) -> KnowledgeBase:
    """The one knowledge base at ``folder``; with ``encode`` also its encoder, ready to read new text."""
    if folder is None:
        raise ConfigError(_none())
    folder = path_of(folder, "knowledge")
    settings = read_settings(folder)
    return _readable(folder, _allowed(folder, settings)) if encode else KnowledgeBase.open(folder, table=settings.table)


def _allowed(folder: Path, settings: KnowledgeSettings) -> KnowledgeSettings:
    """Settings that a folder holds, whoever made it, as far as this user allows what they ask for."""
    return settings.model_copy(update={"encoder": settings.encoder.confirmed(str(folder))})


def _readable(folder: Path, settings: KnowledgeSettings) -> KnowledgeBase:
    """A knowledge base with the encoder of its settings.

    Raises KnowledgeError where that is not the encoder and prompt that filled its table.
    """
    encoder = make_encoder(settings.encoder)
    base = KnowledgeBase.open(folder, encoder, prompt=settings.prompt)
    if settings.table not in (None, base.identity.table):
        raise KnowledgeError(
            f"{folder}: filled as table '{settings.table}', but the encoder and prompt in {SETTINGS} now make "
            f"'{base.identity.table}' ({encoder!r}), which would encode every text anew; bring the file and the encoder back "
            f"as they were, or build another folder ({remedy('out=...', '--out')})"
        )
    return base


def build(
    data: Path | str,
    out: Path | str | None,
    encoder: str | Path,
    *,
    missing: str = "mean",
    confirm: Callable[[str], bool] | None = None,
) -> str:
    """Encode the catalogue of a prepared data set into ``out`` (default: knowledge/<name>); returns what to tell the user.

    encoder: a registered kind that needs no settings, such as "tfidf"; a TOML file with one ``[encoder]`` table; else a
    sentence-transformers name or folder, or "offline".
    confirm: asked before a paid endpoint starts.
    """
    encoder = str(encoder)
    dataset = Dataset.open(path_of(data, "data"))
    folder = path_of(out, "out") if out is not None else Path("knowledge") / dataset.name
    if not dataset.schema.text:
        raise DataError(f"{data}: the catalogue has no text columns; name them in the description (items.text = [...])")
    prompt = PromptTemplate(noun=dataset.schema.noun, fields=dataset.schema.text)
    wanted = parse(
        KnowledgeSettings,
        {"encoder": _encoder_values(encoder), "prompt": prompt.model_dump(), "missing": missing},
        "knowledge build",
    )
    table = _refuse_other(folder, wanted)
    wanted.encoder.own()
    return _sync(dataset, folder, wanted.model_copy(update={"table": table}), confirm)


def _refuse_other(folder: Path, wanted: KnowledgeSettings) -> str | None:
    """Only a folder without a knowledge base will do, or one that is filled in just this way, whose table is returned."""
    if not (folder / SETTINGS).exists():
        return None
    there = read_settings(folder)
    if _shared(there) != _shared(wanted):
        raise KnowledgeError(
            f"{folder}: filled by another encoder, prompt or policy (see {SETTINGS}); vectors of two encoders never mix: "
            f"choose another folder ({remedy('out=...', '--out')})"
        )
    return there.table


def trust(
    folder: Path | str,
    key_variable: str | None,
    *,
    allow_private: bool,
    confirm: Callable[[str], bool] | None,
) -> str:
    """Let the knowledge base at ``folder`` send text to the address that it names, once ``confirm`` has agreed."""
    encoder = read_settings(path_of(folder, "folder")).encoder
    if encoder.address is None:
        return f"{folder}: its encoder '{encoder.kind}' sends text nowhere, so there is nothing to confirm"
    key = "without a key" if key_variable is None else f"with the key in {name_of(key_variable)}"
    if confirm is not None and not confirm(plain(f"Send text to {encoder.address}, {key}?")):
        raise KnowledgeError("not confirmed: nothing was noted")
    confirm_address(encoder.address, key_variable=key_variable, allow_private=allow_private)
    return f"{encoder.address}: confirmed, {key}; noted in {settings_file()}"


def _shared(settings: KnowledgeSettings, table: str | None = None) -> KnowledgeSettings:
    """What a knowledge base keeps in its folder of how it is filled."""
    return settings.model_copy(update={"encoder": settings.encoder.shared(), "table": table})


def sync(data: Path | str, folder: Path | str, *, confirm: Callable[[str], bool] | None = None) -> str:
    """Encode only what is new or changed in the catalogue; ``confirm`` is asked before a paid endpoint starts."""
    folder = path_of(folder, "folder")
    return _sync(Dataset.open(data), folder, _allowed(folder, read_settings(folder)), confirm)


def nearest(folder: Path | str, item: str | None, text: str | None, k: int) -> list[tuple[str, str, float]]:
    """(id, stored text, cosine) of the nearest items."""
    base = open_knowledge(folder, encode=text is not None)
    found = base.nearest(id=item, text=text, k=k)
    texts = base.texts([each for each, _ in found])
    return [(each, texts[each], score) for each, score in found]


def versions(folder: Path | str) -> list[tuple[Any, ...]]:
    """(number, time, rows) of each kept version."""
    return [(each.number, f"{each.committed:%Y-%m-%d %H:%M:%S}", each.rows) for each in open_knowledge(folder).versions()]


def verify(folder: Path | str) -> str:
    """Raises KnowledgeError when something does not agree."""
    report = open_knowledge(folder).verify()
    return f"{folder}: version {report.version}, {report.items:,} items and {report.users:,} users agree with their checksums"


@own_randomness()
def _sync(dataset: Dataset, folder: Path, settings: KnowledgeSettings, confirm: Callable[[str], bool] | None) -> str:
    rendered = _render(settings.prompt, dataset.schema, dataset.items)
    if rendered.empty == len(rendered.texts):
        raise KnowledgeError(
            f"{dataset.name}: none of its {rendered.empty:,} items has text (columns: {', '.join(settings.prompt.fields)}), so "
            "there is nothing to encode; bring a catalogue with text, under the ids of the log"
        )
    if settings.missing == "error" and rendered.empty:
        first = rendered.ids[rendered.texts.index(None)]
        raise KnowledgeError(
            f"{dataset.name}: {rendered.empty:,} items have no text (first: '{first}'); "
            "use " + remedy("missing='mean'", "--missing mean")
        )
    base = _readable(folder, settings)
    if confirm is not None and isinstance(base.encoder, PricedEncoder):
        cost = base.encoder.estimate([text for text in rendered.texts if text])
        if cost.price and not confirm(plain(f"{base.encoder!r}: {cost}. Start?")):
            raise KnowledgeError("not started: the cost was not accepted")
    with writing(folder), contextlib.ExitStack() as held:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(writer_lock(folder / f"{SETTINGS}.lock"))
        _refuse_other(folder, settings)  # once more, since another process may have begun to fill the folder meanwhile
        write_json(folder / SETTINGS, _shared(settings, base.identity.table).model_dump())
    report = base.sync(rendered.ids, rendered.texts)
    return _summary(base, folder, rendered, report, settings)


def _summary(base: KnowledgeBase, folder: Path, rendered: ItemTexts, report: SyncReport, settings: KnowledgeSettings) -> str:
    rate = f" ({report.texts_per_second:,.0f} texts/s)" if report.encoded else ""
    lines = [
        f"{folder}: {base.label}, width {base.width}, {base.identity.dtype}",
        f"{report.encoded:,} texts encoded{rate}, {report.unchanged:,} unchanged; version {report.version}",
    ]
    if rendered.partial:
        lines.append(f"{rendered.partial:,} items lack a field: their text is made of the fields that are there")
    if rendered.empty:
        lines.append(f"{rendered.empty:,} items have no text: they take the mean vector")
    if isinstance(base.encoder, LimitedEncoder):
        longer = base.encoder.longer([text for text in rendered.texts if text])
        if longer:
            limit = base.encoder.limit
            lines.append(
                f"{longer:,} texts are longer than the {limit:,} tokens that the encoder reads: what is beyond is not read"
            )
    return "\n".join(lines)


def _render(prompt: PromptTemplate, schema: Schema, frame: pl.DataFrame) -> ItemTexts:
    """Texts of catalogue rows; multi-valued columns are cut into their values, so that a person could read them."""
    import polars as pl

    cut = {field.name: field for field in schema.item_fields if field.kind == "multi"}
    columns = {name: frame[name] for name in prompt.fields if name in frame.columns}
    for name, column in columns.items():
        if name in cut and column.dtype in (pl.String, pl.List(pl.String)):
            columns[name] = values_of(cut[name], column).alias(name)
    empty = {name: pl.Series(name, [None] * len(frame), dtype=pl.String) for name in prompt.fields}
    ids = frame[schema.item].cast(pl.String)
    return prompt.render(pl.DataFrame(list((empty | columns | {schema.item: ids}).values())), schema.item)


def _encoder_values(name: str) -> dict[str, Any]:
    """The encoder's settings behind a short name, a TOML file or a model name."""
    import tomllib

    if name.endswith(".toml"):
        try:
            values = tomllib.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as cause:
            raise ConfigError(f"{name}: cannot be read as an encoder's settings ({cause})") from None
        return parse(_EncoderFile, values, name).encoder.model_dump()
    if name not in ENCODERS:
        return {"kind": "sentence-transformers", "model": name}
    needed = [key for key, field in ENCODERS[name].config.model_fields.items() if field.is_required()]
    if needed:
        raise ConfigError(
            f"the text encoder '{name}' needs settings ({', '.join(needed)}); write them into a TOML file with one [encoder] "
            f'table, kind = "{name}" among them, and name that file'
        )
    return {"kind": name}
