"""A catalogue's text into a knowledge base, and vectors back out in catalogue order.

A knowledge base folder remembers in ``knowledge.json`` which encoder and prompt filled it, so that later syncs, new items
and questions in words use the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from braidrec.data.dataset import Dataset
from braidrec.data.schema import Schema
from braidrec.errors import ConfigError, DataError, KnowledgeError
from braidrec.files import read_json, write_json
from braidrec.knowledge.base import KnowledgeBase, SyncReport
from braidrec.knowledge.encoders import EncoderConfig, make_encoder
from braidrec.knowledge.encoders.base import PricedEncoder
from braidrec.knowledge.texts import ItemTexts, PromptTemplate
from braidrec.memory import keep_freed_pages
from braidrec.strict import Strict, parse

if TYPE_CHECKING:
    import polars as pl

SETTINGS = "knowledge.json"
Floats = NDArray[np.float32]


class KnowledgeSettings(Strict):
    """How a knowledge base is filled.  missing: items without text take the mean of the others, or are an error."""

    encoder: EncoderConfig
    prompt: PromptTemplate
    missing: Literal["mean", "error"] = "mean"
    table: str | None = None  # set by the first sync


class _EncoderFile(Strict):
    encoder: EncoderConfig


def read_settings(folder: Path) -> KnowledgeSettings:
    """Raises KnowledgeError when ``folder`` holds no knowledge base."""
    if not (folder / SETTINGS).exists():
        raise KnowledgeError(f"{folder}: no knowledge base here; make one with 'braidrec knowledge build DATA --out {folder}'")
    return parse(KnowledgeSettings, read_json(folder / SETTINGS, KnowledgeError), str(folder / SETTINGS))


def open_knowledge(folder: Path | str | None, *, encode: bool = False) -> KnowledgeBase:
    """The knowledge base at ``folder``; with ``encode`` also its encoder, ready to read new text."""
    if folder is None:
        raise ConfigError('this needs item text vectors: give the run a knowledge base (knowledge = "FOLDER", or --knowledge)')
    settings = read_settings(Path(folder))
    if encode:
        return KnowledgeBase.open(folder, make_encoder(settings.encoder), prompt=settings.prompt)
    return KnowledgeBase.open(folder, table=settings.table)


def item_matrix(folder: Path | str | None, dataset: Dataset) -> Floats:
    """Text vectors by catalogue row: (I + 1, S) float32, row 0 zero; missing text follows the stated policy."""
    base, settings = open_knowledge(folder), read_settings(Path(str(folder)))
    vectors = base.matrix(dataset.item_ids, missing=settings.missing)
    return np.concatenate([np.zeros((1, base.width), np.float32), np.asarray(vectors, np.float32)])


def encode_texts(folder: Path | str | None, texts: list[str]) -> Floats:
    """Vectors (n, S) of new texts, by the knowledge base's own encoder, rounded as its table stores them."""
    base = open_knowledge(folder, encode=True)
    assert base.encoder is not None
    return base.encoder.encode(texts).astype(base.identity.dtype).astype(np.float32)


def render_items(folder: Path | str | None, schema: Schema, frame: pl.DataFrame) -> list[str | None]:
    """One text per row of ``frame`` by the knowledge base's prompt; columns that are absent count as empty."""
    return _render(read_settings(Path(str(folder))).prompt, schema, frame).texts


def build(
    data: Path | str,
    out: Path | str | None,
    encoder: str,
    *,
    missing: str = "mean",
    confirm: Callable[[str], bool] | None = None,
) -> str:
    """Encode the catalogue of a prepared data set into ``out`` (default: knowledge/<name>); returns what to tell the user.

    encoder: "offline", "tfidf", a TOML file with one ``[encoder]`` table, or a sentence-transformers name or folder.
    confirm: asked before a paid endpoint starts.
    """
    dataset = Dataset.open(data)
    folder = Path(out) if out is not None else Path("knowledge") / dataset.name
    if not dataset.schema.text:
        raise DataError(f"{data}: the catalogue has no text columns; name them in the description (items.text = [...])")
    prompt = PromptTemplate(noun=dataset.schema.noun, fields=dataset.schema.text)
    wanted = parse(
        KnowledgeSettings,
        {"encoder": _encoder_values(encoder), "prompt": prompt.model_dump(), "missing": missing},
        "knowledge build",
    )
    if (folder / SETTINGS).exists():
        held = read_settings(folder)
        if held.model_copy(update={"table": None}) != wanted:
            raise KnowledgeError(
                f"{folder}: filled by another encoder, prompt or policy (see {SETTINGS}); vectors of two encoders never mix: "
                "choose another folder with --out"
            )
    return _sync(dataset, folder, wanted, confirm)


def sync(data: Path, folder: Path, *, confirm: Callable[[str], bool] | None = None) -> str:
    """Encode only what is new or changed in the catalogue; ``confirm`` is asked before a paid endpoint starts."""
    return _sync(Dataset.open(data), folder, read_settings(folder), confirm)


def nearest(folder: Path, item: str | None, text: str | None, k: int) -> list[tuple[str, str, float]]:
    """(id, stored text, cosine) of the nearest items."""
    base = open_knowledge(folder, encode=text is not None)
    found = base.nearest(id=item, text=text, k=k)
    texts = base.texts([each for each, _ in found])
    return [(each, texts[each], score) for each, score in found]


def versions(folder: Path) -> list[tuple[Any, ...]]:
    """(number, time, rows) of each kept version."""
    return [(each.number, f"{each.committed:%Y-%m-%d %H:%M:%S}", each.rows) for each in open_knowledge(folder).versions()]


def verify(folder: Path) -> str:
    """Raises KnowledgeError when something does not agree."""
    report = open_knowledge(folder).verify()
    return f"{folder}: version {report.version}, {report.items:,} items and {report.users:,} users agree with their checksums"


def _sync(dataset: Dataset, folder: Path, settings: KnowledgeSettings, confirm: Callable[[str], bool] | None) -> str:
    keep_freed_pages()
    rendered = _render(settings.prompt, dataset.schema, dataset.items)
    if settings.missing == "error" and rendered.empty:
        first = rendered.ids[rendered.texts.index(None)]
        raise KnowledgeError(f"{dataset.name}: {rendered.empty:,} items have no text (first: '{first}'); use --missing mean")
    base = KnowledgeBase.open(folder, make_encoder(settings.encoder), prompt=settings.prompt)
    if confirm is not None and isinstance(base.encoder, PricedEncoder):
        cost = base.encoder.estimate([text for text in rendered.texts if text])
        if cost.price and not confirm(f"{base.encoder!r}: {cost}. Start?"):
            raise KnowledgeError("not started: the cost was not accepted")
    write_json(folder / SETTINGS, settings.model_copy(update={"table": base.identity.table}).model_dump())
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
    return "\n".join(lines)


def _render(prompt: PromptTemplate, schema: Schema, frame: pl.DataFrame) -> ItemTexts:
    """Texts of catalogue rows; multi-valued columns are cut at their separator, so that a person could read them."""
    import polars as pl

    separators = {field.name: field.separator for field in schema.item_fields if field.kind == "multi"}
    columns = [
        pl.lit(None, pl.String).alias(name)
        if name not in frame.columns
        else pl.col(name).str.split(separators[name])
        if name in separators and frame[name].dtype == pl.String
        else pl.col(name)
        for name in prompt.fields
    ]
    return prompt.render(frame.select(pl.col(schema.item).cast(pl.String), *columns), schema.item)


def _encoder_values(name: str) -> dict[str, Any]:
    """The encoder's settings behind a short name, a TOML file or a model name."""
    import tomllib

    if name == "tfidf":
        return {"kind": "tfidf"}
    if name.endswith(".toml"):
        try:
            values = tomllib.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
            raise ConfigError(f"{name}: cannot be read as an encoder's settings ({cause})") from None
        return parse(_EncoderFile, values, name).encoder.model_dump()
    return {"kind": "sentence-transformers", "model": name}
