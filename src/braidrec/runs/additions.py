"""Items that arrive after training: their text to vectors, their values to rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from braidrec.errors import DataError, RunError
from braidrec.runs.knowledge import encode_texts, open_knowledge, render_items

if TYPE_CHECKING:
    import polars as pl

    from braidrec.runs.run import Run


@dataclass(frozen=True)
class Additions:
    """n new items: ids, titles, and tensors ``vectors`` (n, S), ``fields`` (n, F_I), ``numbers`` (n, N_I), ``bag.k`` (n, M)."""

    ids: Sequence[str]
    titles: Sequence[str]
    tensors: Mapping[str, Tensor]


def encode_additions(run: Run, items: Mapping[str, str] | pl.DataFrame) -> Additions:
    """Raises DataError for ids that are empty, taken or come twice, and for items without text; RunError when the knowledge
    base is not the one that the model was trained on.
    """
    import polars as pl

    schema, dataset = run.dataset.schema, run.dataset
    texts: Sequence[str | None]
    if isinstance(items, Mapping):
        frame = pl.DataFrame({schema.item: [str(raw) for raw in items]}, schema={schema.item: pl.String})
        texts = titles = [text.strip() for text in items.values()]
    else:
        if schema.item not in items.columns:
            raise DataError(f"the new items have no id column '{schema.item}' (columns: {', '.join(items.columns)})")
        frame = items
        texts = render_items(run.config.knowledge, schema, items)
        titles = (
            [str(value or "") for value in items[schema.text[0]].to_list()]
            if schema.text[:1] and schema.text[0] in items.columns
            else [str(text or "") for text in texts]
        )
    ids = frame[schema.item].cast(pl.String).to_list()
    known = set(dataset.item_ids) | set(run._added)
    for at, raw in enumerate(ids):
        if not raw:
            raise DataError(f"the new items, row {at}: the id is empty; every item needs one")
        if raw in known:
            raise DataError(f"item '{raw}' is already known; an item is added once, under an id of its own")
        known.add(raw)
        if not texts[at]:
            raise DataError(f"item '{raw}' has no text; a new item is known by its text alone")
    base, trained = open_knowledge(run.config.knowledge).identity, run.record["knowledge"]
    for name, value in base.model_dump().items():
        if trained[name] != value:
            raise RunError(f"{run.path}: trained on a knowledge base with {name} {trained[name]!r}, which now has {value!r}")
    fields, numbers, bags = dataset.encode_items(frame)
    vectors = encode_texts(run.config.knowledge, [text for text in texts if text])
    for raw, vector in zip(ids, vectors, strict=True):
        if not np.isfinite(vector).all():
            raise DataError(f"item '{raw}': its text vector holds NaN or infinity; look at the text encoder")
    tensors = {
        "vectors": torch.from_numpy(vectors),
        "fields": torch.from_numpy(fields),
        "numbers": torch.from_numpy(numbers),
    }
    return Additions(ids, titles, tensors | {f"bag.{at}": torch.from_numpy(bag) for at, bag in enumerate(bags)})
