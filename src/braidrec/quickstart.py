"""The tour in minutes: data, knowledge base, plain and enhanced models of two tasks, EASE with text, their test numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.sources import locate, public_dataset
from braidrec.data.planted import EXAMPLE, planted_world
from braidrec.data.tables import Tables
from braidrec.errors import BraidError

PUBLIC_NAME = "ml-latest-small"
# Small logs: small batches, and id rows hidden more often, so that the model learns to read where it has no id to go by.
_MODEL = {"unknown_rate": 0.05}
_TRAINING = {"batch_size": 512, "lr": 1e-3, "average_epochs": 1.0, "max_epochs": 10, "patience": 5}
_SEQUENCE = {"dim": 64, "windows": "all"}  # few users with long histories: every target counts, not just the latest
_SEQUENCE_TRAINING = {"batch_size": 128, "max_epochs": 8, "patience": 2}
# The same books, read by many: what is shown to a reader is drawn at random there, so likes alone make sequences.
_CROWD = EXAMPLE.model_copy(update={"users": 4_000, "interactions": 100_000})


def run(out: Path, *, planted: bool = False, show: Callable[[Any], None] = print) -> None:
    """Prepare, build, fit, evaluate; everything stays under ``out`` and a second call reuses it."""
    from braidrec.runs.fit import fit
    from braidrec.runs.knowledge import build
    from braidrec.runs.tables import comparison_tables, dataset_tables, evaluation_table, plain_table, reasons

    tables, why = _tables(planted)
    show(f"[1/6] data: {tables.name} ({why})")
    path = out / tables.name
    dataset = Dataset.open(path) if path.exists() else Dataset.prepare(tables, path, PrepareSettings())
    show(dataset_tables(dataset)[0])

    show("[2/6] knowledge base: every item's text to a vector")
    base = out / f"{tables.name}-knowledge"
    show(build(path, base, "offline"))

    show("[3/6] a plain DIN, and the same DIN with DisCo")
    plain = fit(dataset, path=out / f"{tables.name}-din", model=_MODEL, training=_TRAINING)
    enhanced = fit(
        dataset, path=out / f"{tables.name}-din-disco", enhance="disco", knowledge=base, model=_MODEL, training=_TRAINING
    )

    show("[4/6] test numbers: all rows, seen and unseen users, warm and cold items")
    for table in comparison_tables([plain.path, enhanced.path]):
        show(table)

    show("[5/6] what comes next: a plain SASRec, and the same with PAD, ranked over the whole catalogue")
    followed = dataset
    if tables.name == "planted":
        likes = out / "planted-likes"
        followed = Dataset.open(likes) if likes.exists() else Dataset.prepare(_likes(), likes, PrepareSettings())
        show(f"{len(followed.log):,} likes of {followed.num_users:,} users, the same catalogue")
    sequence = fit(
        followed, path=out / f"{tables.name}-sasrec", backbone="sasrec", model=_SEQUENCE, training=_SEQUENCE_TRAINING
    )
    padded = fit(
        followed,
        path=out / f"{tables.name}-sasrec-pad",
        backbone="sasrec",
        enhance="pad",
        knowledge=base,
        model={**_SEQUENCE, "start_from": {"pretrain": str(sequence.path)}},
        training=_SEQUENCE_TRAINING,
    )
    for table in comparison_tables([sequence.path, padded.path]):
        show(table)

    show("[6/6] what goes with what somebody has: EASE with text, solved at once from the positives of the same log")
    ease = fit(followed, path=out / f"{tables.name}-ease", backbone="ease", knowledge=base)
    show(evaluation_table([ease.path], "test", baselines=True))
    someone = followed.user_ids[0]
    found = ease.recommend(someone, k=3, explain=True)
    show(plain_table(f"for user {someone}", ("title", "behind it"), [(each.title, reasons(each.because)) for each in found]))
    show(
        "next:\n"
        f"  braidrec recommend {padded.path} --user {someone} -k 5\n"
        f"  braidrec recommend {ease.path} --user {someone} -k 5 --explain\n"
        f"  braidrec knowledge nearest {base} --text 'a story about space'\n"
        f"  braidrec fit --data {path} --knowledge {base} --backbone deepfm --enhance disco"
    )


def _likes() -> Tables:
    tables = planted_world(_CROWD).tables
    label = str(tables.schema.label)
    return replace(tables, name="planted-likes", interactions=tables.interactions.filter(tables.interactions[label] > 0))


def _tables(planted: bool) -> tuple[Tables, str]:
    """MovieLens latest-small where the archive is at hand or can be had, else the planted world; and which, and why."""
    reason = "as asked"
    if not planted:
        try:
            archive = locate(PUBLIC_NAME)
            return public_dataset(PUBLIC_NAME).read(archive), f"real ratings from {archive}"
        except BraidError:
            reason = f"generated, since {PUBLIC_NAME} is neither in BRAIDREC_DATA nor to be downloaded here"
    return planted_world(EXAMPLE).tables, reason
