"""A catalogue's text into a knowledge base, and vectors back out in catalogue order; likewise profiles of items and users.

A knowledge base folder remembers in ``knowledge.json`` which encoder, prompt and writer of profiles filled it, so that later
syncs, new items and questions in words use the same.
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
from braidrec.data.training import TrainingPart
from braidrec.data.values import values_of
from braidrec.errors import ConfigError, DataError, KnowledgeError, RunError, remedy
from braidrec.files import read_json, write_json, writing
from braidrec.knowledge.base import Kind, KnowledgeBase, SyncReport
from braidrec.knowledge.encoders import ENCODERS, AnyEncoder, make_encoder
from braidrec.knowledge.encoders.base import LimitedEncoder, PricedEncoder
from braidrec.knowledge.profiles.answers import Usage
from braidrec.knowledge.profiles.store import ProfileStore
from braidrec.knowledge.profiles.writer import ProfileWriter, WriterConfig
from braidrec.knowledge.texts import ItemTexts, PromptTemplate
from braidrec.knowledge.trust import confirm as confirm_address
from braidrec.knowledge.trust import name_of, settings_file
from braidrec.locks import writer_lock
from braidrec.memory import held_whole
from braidrec.runs.profiles import Profiles
from braidrec.shown import plain, tell
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
    """How a knowledge base is filled.  missing: items without text take the mean of the others, or are an error.

    writer: who writes the profiles that are encoded; None: an item's text is what the catalogue says, and users have none
    """

    encoder: AnyEncoder
    prompt: PromptTemplate
    writer: WriterConfig | None = None
    missing: Literal["mean", "error"] = "mean"
    table: str | None = None  # set by the first sync

    @property
    def read(self) -> PromptTemplate | str:
        """What texts are made by, for the identity of their vectors."""
        return self.prompt if self.writer is None else f"{self.prompt.digest} {self.writer.identity}"


class _EncoderFile(Strict):
    encoder: AnyEncoder


class _WriterFile(Strict):
    writer: WriterConfig


def _none(who: str = "this") -> str:
    how = remedy("knowledge=FOLDER", '--knowledge FOLDER, or in the run file knowledge = "FOLDER"')
    made = remedy("build_knowledge(data, FOLDER)", "'braidrec knowledge build DATA'")
    return f"{who} needs item text vectors: give the run a knowledge base ({how}); {made} makes one"


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
    def open(cls, folders: Folders, who: str = "this") -> KnowledgeBases:
        """Those of ``who``.  Raises ConfigError for none and for one given twice, KnowledgeError where there is none."""
        paths = [path_of(each, "knowledge") for each in ((folders,) if isinstance(folders, str | Path) else folders or ())]
        if not paths:
            raise ConfigError(_none(who))
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
            | ({} if settings.writer is None else {"writer": settings.writer.label})
            for folder, base, settings in zip(self.folders, self.bases, self.settings, strict=True)
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

    def people(self, dataset: Dataset) -> Vectors | None:
        """Vectors of users by catalogue row: (U + 1, S) in the dtype of `matrix`, zero for row 0 and for who has none.

        None where no base knows users.

        Raises ConfigError where only some of the bases know users, KnowledgeError for a vector whose text was written from
        something else than what its user likes in the training part of ``dataset``: it may tell what is held out.
        """
        known = [bool(base.ids("user")) for base in self.bases]
        if not any(known):
            return None
        if not all(known):
            raise ConfigError(
                f"{self.folders[known.index(True)]} has vectors of users and {self.folders[known.index(False)]} has none, so "
                "those of a user cannot stand side by side as an item's do; name one of them, or write profiles for both"
            )
        part = TrainingPart(dataset)
        for folder, settings, base in zip(self.folders, self.settings, self.bases, strict=True):
            _refuse_held_out(folder, settings, base, dataset, part)
        ids = dataset.user_ids
        without = set[str]().union(*(base.absent(ids, "user") for base in self.bases))
        rows = np.array([row for row, id in enumerate(ids, start=1) if id not in without], np.int64)
        shape = (dataset.num_users + 1, self.width)
        stored = np.result_type(*(base.identity.dtype for base in self.bases))
        vectors: Vectors = np.zeros(shape, np.float32 if held_whole(*shape) else stored)
        first = 0
        for base in self.bases:
            last = first + base.width
            vectors[rows, first:last] = base.matrix([ids[row - 1] for row in rows], "user")
            first = last
        if without:
            _log.info("%d of %d users have no profile: their training items speak for them", len(without), len(ids))
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
        """Of each base, what its own prompt says of each row of ``frame``; columns that are absent count as empty."""
        return [_render(settings.prompt, schema, frame).texts for settings in self.settings]

    @property
    def priced(self) -> bool:
        """Whether to read new text costs money."""
        written = any(settings.writer is not None for settings in self.settings)
        return written or any(isinstance(base.encoder, PricedEncoder) for base in self._reading)

    def encode(self, texts: Sequence[Sequence[str]]) -> Floats:
        """(n, S) of each base's n texts, by its own encoder, loaded once, and rounded as its table stores them.

        Where a base reads profiles, these are written of the texts first.
        Raises KnowledgeError where an answer is no profile.
        """
        parts = []
        for base, folder, settings, own in zip(self._reading, self.folders, self.settings, texts, strict=True):
            assert base.encoder is not None
            told = list(own) if settings.writer is None else _profiles_of(folder, settings.writer, own)
            parts.append(base.encoder.encode(told).astype(base.identity.dtype).astype(np.float32))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def tell_changes(self, dataset: Dataset) -> None:
        """Say how many items have another text now than when their vectors were made."""
        for base, settings, folder in zip(self.bases, self.settings, self.folders, strict=True):
            rendered = _render(settings.prompt, dataset.schema, dataset.items)
            if settings.writer is None:
                other = base.changed(rendered.ids, rendered.texts)
            else:
                other = Profiles(dataset, ProfileWriter(settings.writer), ProfileStore(folder), rendered).changed()
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
            _readable(folder, _encoding(folder, settings)) for folder, settings in zip(self.folders, self.settings, strict=True)
        ]


def open_knowledge(folder: Path | str | None, *, encode: bool = False) -> KnowledgeBase:
    """The one knowledge base at ``folder``; with ``encode`` also its encoder, ready to read new text."""
    if folder is None:
        raise ConfigError(_none())
    folder = path_of(folder, "knowledge")
    settings = read_settings(folder)
    return _readable(folder, _encoding(folder, settings)) if encode else KnowledgeBase.open(folder, table=settings.table)


def _encoding(folder: Path, settings: KnowledgeSettings) -> KnowledgeSettings:
    """Settings that a folder holds, whoever made it, as far as this user allows what its encoder asks for."""
    return settings.model_copy(update={"encoder": settings.encoder.confirmed(str(folder))})


def _allowed(folder: Path, settings: KnowledgeSettings) -> KnowledgeSettings:
    """The same, and what its writer asks for."""
    writer = None if settings.writer is None else settings.writer.confirmed(str(folder))
    return _encoding(folder, settings).model_copy(update={"writer": writer})


def _readable(folder: Path, settings: KnowledgeSettings) -> KnowledgeBase:
    """A knowledge base with the encoder of its settings.

    Raises KnowledgeError where that is not the encoder and prompt that filled its table.
    """
    encoder = make_encoder(settings.encoder)
    base = KnowledgeBase.open(folder, encoder, prompt=settings.read)
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
    dataset = Dataset.open(path_of(data, "data"))
    folder = path_of(out, "out") if out is not None else Path("knowledge") / dataset.name
    return _made(dataset, folder, str(encoder), missing, None, confirm=confirm)


def write_profiles(
    data: Path | str,
    out: Path | str | None,
    writer: Path | str,
    encoder: str | Path,
    *,
    missing: str = "mean",
    again: bool = False,
    confirm: Callable[[str], bool] | None = None,
) -> str:
    """Let a language model write profiles of the items and users of a prepared data set, and encode these into ``out``.

    Returns what to tell the user.  out: knowledge/<name>-profiles when left out

    writer: a TOML file with one ``[writer]`` table, a `WriterConfig`    encoder, missing: as `build` takes them
    again: ask once more for profiles that failed    confirm: asked before the first call that may cost something
    A user's profile is written from what they like in the training part, and says so: other data, or the same cut otherwise,
    cannot be trained on with it.  The same call goes on where an earlier one stopped, and writes what is new or changed.
    """
    dataset = Dataset.open(path_of(data, "data"))
    folder = path_of(out, "out") if out is not None else Path("knowledge") / f"{dataset.name}-profiles"
    file = path_of(writer, "writer")
    wanted = parse(_WriterFile, _toml(str(file), "a writer's settings"), str(file)).writer
    return _made(dataset, folder, str(encoder), missing, wanted, again=again, confirm=confirm)


def _made(
    dataset: Dataset,
    folder: Path,
    encoder: str,
    missing: str,
    writer: WriterConfig | None,
    *,
    again: bool = False,
    confirm: Callable[[str], bool] | None,
) -> str:
    if not dataset.schema.text:
        raise DataError(
            f"{dataset.path}: the catalogue has no text columns; name them in the description (items.text = [...]); in Python "
            "pass a schema"
        )
    prompt = PromptTemplate(noun=dataset.schema.noun, fields=dataset.schema.text)
    wanted = parse(
        KnowledgeSettings,
        {"encoder": _encoder_values(encoder), "prompt": prompt.model_dump(), "missing": missing},
        "knowledge build",
    ).model_copy(update={"writer": writer})
    table = _refuse_other(folder, wanted)
    wanted.encoder.own()
    if writer is not None:
        writer.own()
    return _sync(dataset, folder, wanted.model_copy(update={"table": table}), confirm, again=again)


def _refuse_other(folder: Path, wanted: KnowledgeSettings) -> str | None:
    """Only a folder without a knowledge base will do, or one that is filled in just this way, whose table is returned."""
    if not (folder / SETTINGS).exists():
        return None
    there = read_settings(folder)
    if _made_by(there) != _made_by(wanted):
        what = "encoder, prompt or policy" if there.writer is wanted.writer is None else "encoder, prompt, policy or writer"
        raise KnowledgeError(
            f"{folder}: filled by another {what} (see {SETTINGS}); vectors of two encoders never mix: "
            f"choose another folder ({remedy('out=...', '--out')})"
        )
    return there.table


def trust(
    folder: Path | str,
    key_variable: str | None,
    *,
    allow_private: bool,
    confirm: Callable[[str], bool] | None,
    address: str | None = None,
) -> str:
    """Let the knowledge base at ``folder`` send text to the address that it names, once ``confirm`` has agreed.

    address: which one, where its encoder and its writer name two
    """
    settings = read_settings(path_of(folder, "folder"))
    named = [settings.encoder.address, None if settings.writer is None else settings.writer.address]
    addresses = list(dict.fromkeys(each for each in named if each is not None))
    if not addresses:
        return f"{folder}: its encoder '{settings.encoder.kind}' sends text nowhere, so there is nothing to confirm"
    if address is not None and address.rstrip("/") not in addresses:
        raise KnowledgeError(f"{folder}: names {' and '.join(addresses)}, not {address}; confirm one of these")
    if address is None and len(addresses) > 1:
        raise KnowledgeError(
            f"{folder}: names two addresses, {addresses[0]} (encoder) and {addresses[1]} (writer of profiles), which may need "
            f"two keys; say which one is meant ({remedy('address=...', '--address')})"
        )
    wanted = addresses[0] if address is None else address.rstrip("/")
    key = "without a key" if key_variable is None else f"with the key in {name_of(key_variable)}"
    if confirm is not None and not confirm(plain(f"Send text to {wanted}, {key}?")):
        raise KnowledgeError("not confirmed: nothing was noted")
    confirm_address(wanted, key_variable=key_variable, allow_private=allow_private)
    return f"{wanted}: confirmed, {key}; noted in {settings_file()}"


def _shared(settings: KnowledgeSettings, table: str | None = None) -> KnowledgeSettings:
    """What a knowledge base keeps in its folder of how it is filled."""
    writer = None if settings.writer is None else settings.writer.shared()
    return settings.model_copy(update={"encoder": settings.encoder.shared(), "writer": writer, "table": table})


def _made_by(settings: KnowledgeSettings) -> tuple[KnowledgeSettings, str]:
    """What must be equal for two texts to stand in one knowledge base: of a writer what it writes, not how it is called."""
    identity = "" if settings.writer is None else settings.writer.identity
    return _shared(settings).model_copy(update={"writer": None}), identity


def sync(data: Path | str, folder: Path | str, *, again: bool = False, confirm: Callable[[str], bool] | None = None) -> str:
    """Encode only what is new or changed in the catalogue, and write such profiles, where the base holds these.

    again: ask once more for profiles that failed    confirm: asked before a paid endpoint starts
    """
    folder = path_of(folder, "folder")
    return _sync(Dataset.open(data), folder, _allowed(folder, read_settings(folder)), confirm, again=again)


def nearest(
    folder: Path | str, item: str | None, text: str | None, k: int, *, user: str | None = None, kind: Kind = "item"
) -> list[tuple[str, str, float]]:
    """(id, stored text, cosine) of the items nearest to an item, a user or a text; kind: or of the users."""
    base = open_knowledge(folder, encode=text is not None)
    if sum(given is not None for given in (item, text, user)) != 1:
        raise KnowledgeError(
            f"nearest: say of what, by exactly one of {remedy('item, user and text', '--id, --user and --text')}"
        )
    own: Kind = "user" if user is not None else "item"
    id = item if user is None else user
    if id is not None and own != kind:
        found = base.nearest(vector=base.matrix([id], own)[0], k=k, kind=kind)
    else:
        found = base.nearest(id=id, text=text, k=k, kind=kind)
    texts = base.texts([each for each, _ in found], kind)
    return [(each, texts[each], score) for each, score in found]


def versions(folder: Path | str) -> list[tuple[Any, ...]]:
    """(number, time, rows, users among them) of each kept version."""
    return [
        (each.number, f"{each.committed:%Y-%m-%d %H:%M:%S}", each.rows, each.users)
        for each in open_knowledge(folder).versions()
    ]


def verify(folder: Path | str) -> str:
    """Raises KnowledgeError when something does not agree."""
    folder = path_of(folder, "folder")
    report, store = open_knowledge(folder).verify(), ProfileStore(folder)
    profiles = len(store.read("item")) + len(store.read("user"))
    written = f", and {profiles:,} profiles" if profiles else ""
    agree = f"{report.items:,} items and {report.users:,} users agree with their checksums"
    return f"{folder}: version {report.version}, {agree}{written}"


@own_randomness()
def _sync(
    dataset: Dataset,
    folder: Path,
    settings: KnowledgeSettings,
    confirm: Callable[[str], bool] | None,
    *,
    again: bool = False,
) -> str:
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
    profiles = None
    if settings.writer is not None:
        profiles = Profiles(dataset, ProfileWriter(settings.writer), ProfileStore(folder), rendered, again)
        _settle_writing(profiles, confirm)
    if confirm is not None and isinstance(base.encoder, PricedEncoder):
        cost = base.encoder.estimate([text for text in rendered.texts if text])
        if cost.price and not confirm(plain(f"{base.encoder!r}: {cost}. Start?")):
            raise KnowledgeError("not started: the cost was not accepted")
    with writing(folder), contextlib.ExitStack() as held:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(writer_lock(folder / f"{SETTINGS}.lock"))
        _refuse_other(folder, settings)  # once more, since another process may have begun to fill the folder meanwhile
        unsaid = {"writer"} if settings.writer is None else None  # earlier versions do not know the key
        write_json(folder / SETTINGS, _shared(settings, base.identity.table).model_dump(exclude=unsaid))
    if profiles is None:
        return _summary(base, rendered, [base.sync(rendered.ids, rendered.texts)], [])
    done = profiles.write(tell)
    usage = sum((each.usage for each in done), Usage())
    lines = [line for each in done for line in each.lines()]
    if usage.calls:
        price = profiles.writer.config.costs(usage)
        told = "" if usage.counted else ", of which some are estimated by their characters"
        cost = "no price is set" if price is None else f"{price:.4f} in price"
        lines.append(f"{usage.calls:,} calls, {usage.read:,} tokens read and {usage.written:,} written{told}; {cost}")
    reports = [base.sync(rendered.ids, _texts(folder, settings, rendered))]
    if profiles.writer.config.users:
        reports.append(base.sync(dataset.user_ids, profiles.people(), "user", prune=True))
    return _summary(base, rendered, reports, lines)


def _settle_writing(profiles: Profiles, confirm: Callable[[str], bool] | None) -> None:
    """Say what is left to write and what it is expected to take, before the first call.  Raises KnowledgeError for a no."""
    outlook = profiles.outlook()
    if outlook is None:
        return
    said = plain(f"{profiles.writer!r}: {outlook}")
    if confirm is None:
        tell(said)
    elif not confirm(f"{said}. Start?"):
        raise KnowledgeError("not started: the calls were not accepted")


def _texts(folder: Path, settings: KnowledgeSettings, rendered: ItemTexts) -> list[str | None]:
    """What is encoded of each item: its profile where the base has one, else what the catalogue says."""
    if settings.writer is None:
        return rendered.texts
    stored = ProfileStore(folder).read("item")
    return [(stored[id].text if id in stored else "") or text for id, text in zip(rendered.ids, rendered.texts, strict=True)]


def _profiles_of(folder: Path, writer: WriterConfig, texts: Sequence[str]) -> list[str]:
    """Profiles of items that are none of the data set's, which are not kept.  Raises KnowledgeError where one does not fit."""
    author = ProfileWriter(writer.confirmed(str(folder)))
    answers, trouble = author.answers([author.about_item(text) for text in texts], lambda count: None)
    if trouble is not None:
        raise trouble
    found = [answer for answer in answers if answer is not None]
    for text, answer in zip(texts, found, strict=True):
        if answer.failure:
            raise KnowledgeError(
                f"{author.config.label}: no profile of {text[:80]!r}: the answer does not fit ({answer.failure})"
            )
    return [answer.text for answer in found]


def _refuse_held_out(
    folder: Path, settings: KnowledgeSettings, base: KnowledgeBase, dataset: Dataset, part: TrainingPart
) -> None:
    """Raise KnowledgeError where a user's vector is not that of a profile written from their training part."""
    stored = {} if settings.writer is None else ProfileStore(folder).read("user")
    absent = set(base.absent(dataset.user_ids, "user"))
    own = {id: row for row, id in enumerate(dataset.user_ids, start=1) if id not in absent}
    how = f"'braidrec knowledge sync {dataset.path} {folder}'"
    unknown = [id for id in own if id not in stored]
    if unknown:
        raise KnowledgeError(
            f"{folder}: nothing says what the text of {len(unknown):,} of {len(own):,} users was written from (first: "
            f"'{unknown[0]}'), and what came from validation or test would give away what is asked there; let their profiles "
            "be written from the training part: 'braidrec knowledge profiles'"
        )
    other = [id for id, row in own.items() if stored[id].part != part.digest(row)]
    if other:
        raise KnowledgeError(
            f"{folder}: the profiles of {len(other):,} of {len(own):,} users (first: '{other[0]}') were written from other "
            f"events than those that {dataset.name} at {dataset.path} has for training, so they may tell what validation and "
            f"test ask for; write these anew: {how}"
        )
    stale = base.changed(list(own), [stored[id].text for id in own], "user")
    if stale:
        raise KnowledgeError(
            f"{folder}: the vectors of {len(stale):,} users (first: '{stale[0]}') are not of their profiles; encode these: "
            f"{how}"
        )


def _summary(base: KnowledgeBase, rendered: ItemTexts, reports: Sequence[SyncReport], written: Sequence[str]) -> str:
    encoded, seconds = sum(each.encoded for each in reports), sum(each.seconds for each in reports)
    rate = f" ({encoded / max(seconds, 1e-9):,.0f} texts/s)" if encoded else ""
    unchanged = sum(each.unchanged for each in reports)
    lines = [
        f"{base.folder.parent}: {base.label}, width {base.width}, {base.identity.dtype}",
        *written,
        f"{encoded:,} texts encoded{rate}, {unchanged:,} unchanged; version {reports[-1].version}",
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
    if name.endswith(".toml"):
        return parse(_EncoderFile, _toml(name, "an encoder's settings"), name).encoder.model_dump()
    if name not in ENCODERS:
        return {"kind": "sentence-transformers", "model": name}
    needed = [key for key, field in ENCODERS[name].config.model_fields.items() if field.is_required()]
    if needed:
        raise ConfigError(
            f"the text encoder '{name}' needs settings ({', '.join(needed)}); write them into a TOML file with one [encoder] "
            f'table, kind = "{name}" among them, and name that file'
        )
    return {"kind": name}


def _toml(name: str, what: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise ConfigError(f"{name}: cannot be read as {what} ({cause})") from None
