"""Which runs are one model of several seeds, when they take stages over from other runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build
from braidrec.runs.run import Run, load
from braidrec.runs.tables import comparison_tables, models_by_seed
from small_sequences import LAST_TWO

MODEL = {"dim": 8, "length": 4, "buckets": 4}
TRAINING = {"max_epochs": 1, "batch_size": 256}


def printed(value: object) -> str:
    stream = io.StringIO()
    Console(width=200, file=stream).print(value)
    return stream.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of SASRec, of PAD that starts from them, and of another SASRec."""
    folder = tmp_path_factory.mktemp("pooled")
    Dataset.prepare(small_runs.world_tables(), folder / "data", LAST_TWO)
    build(folder / "data", folder / "text", "tfidf")
    for seed in (1, 2, 3):
        train(folder, f"sasrec-s{seed}", seed)
        train(folder, f"pad-s{seed}", seed, start=f"sasrec-s{seed}")
    train(folder, "other-s2", 2, backbone={"dropout": 0.5})
    train(folder, "from-other-s2", 2, start="other-s2")
    return folder


def train(folder: Path, name: str, seed: int, *, start: str | None = None, backbone: dict[str, Any] | None = None) -> Run:
    model = {**MODEL, "backbone": {"blocks": 1, **(backbone or {})}}
    more: dict[str, Any] = {}
    if start:
        model |= {"start_from": {"pretrain": str(folder / start)}}
        more = {"enhance": "pad", "knowledge": folder / "text"}
    return fit(
        Dataset.open(folder / "data"),
        path=folder / name,
        backbone="sasrec",
        seed=seed,
        model=model,
        training=TRAINING,
        show_progress=False,
        **more,
    )


def named(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


SEEDS = ("sasrec-s1", "sasrec-s2", "sasrec-s3", "pad-s1", "pad-s2", "pad-s3")


def test_seeds_that_start_from_seeds_of_one_model_are_one_model(world: Path) -> None:
    _, tests = comparison_tables(named(world, *SEEDS))
    text = printed(tests)
    assert "Holm over 2" in text  # one model against one, two metrics: not three models, six tests
    lines = [line for line in text.splitlines() if "SASRec + PAD (ours)" in line]
    assert len(lines) == 2
    assert all(f"{seed}:" in line for line in lines for seed in (1, 2, 3))


def test_one_that_starts_from_another_model_is_another(world: Path) -> None:
    *_, tests = comparison_tables(named(world, "sasrec-s1", "sasrec-s2", "pad-s1", "from-other-s2"))
    text = printed(tests)
    assert "Holm over 4" in text
    assert "[from-other-s2]" in text


def test_where_the_other_run_is_gone_the_stages_names_are_compared_and_it_is_said(world: Path, tmp_path: Path) -> None:
    paths = named(world, "sasrec-s1", "sasrec-s3", "pad-s1", "pad-s2")
    assert len(comparison_tables(paths)) == 2  # nothing to be said
    (world / "sasrec-s2").rename(tmp_path / "away")
    try:
        _, tests, note = comparison_tables(paths)
        [reference, pad], _ = models_by_seed([load(path) for path in paths])
    finally:
        (tmp_path / "away").rename(world / "sasrec-s2")
    assert (list(reference.runs), list(pad.runs)) == ([1, 3], [1, 2])
    assert "Holm over 2" in printed(tests)
    assert str(note).startswith(f"note: {world / 'sasrec-s2'} is not there: of what takes a stage over from it, the names")


def test_two_runs_of_one_model_and_seed_are_refused(world: Path) -> None:
    again = train(world, "pad-again", 1, start="sasrec-s2")
    with pytest.raises(ConfigError, match=r"pad-s1 and .*pad-again are the same model with the same seed \(1\)"):
        comparison_tables([world / "sasrec-s1", world / "pad-s1", again.path])
