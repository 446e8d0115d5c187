"""The tour: whole and small every time, and whole and real where there is time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

import small_runs
from braidrec import quickstart
from braidrec.data.planted import PlantedConfig
from braidrec.errors import DataError
from braidrec.runs.run import load
from braidrec.runs.tables import reasons


def test_the_tour_ends_with_numbers_and_a_second_one_reuses_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "_tables", lambda planted: (small_runs.world_tables(), "small"))
    monkeypatch.setattr(quickstart, "_TRAINING", small_runs.TRAINING)
    monkeypatch.setattr(quickstart, "_CROWD", PlantedConfig(users=150, items=120, interactions=12_000))
    monkeypatch.setattr(quickstart, "_SEQUENCE_TRAINING", {"max_epochs": 1})
    shown: list[Any] = []
    quickstart.run(tmp_path, show=shown.append)
    words = "\n".join(each for each in shown if isinstance(each, str))
    for step in ("[1/6] data: planted (small)", "[2/6]", "[3/6]", "[4/6]", "[5/6]", "[6/6]", "120 texts encoded", "next:"):
        assert step in words
    tables = [each for each in shown if isinstance(each, Table)]
    assert len(tables) == 7
    assert "EASE" in str(tables[-2].columns[-1].header)
    ease = load(tmp_path / "planted-ease")
    assert ease.config.knowledge
    first = ease.recommend(ease.dataset.user_ids[0], k=3, explain=True)[0]
    assert sum(each.share for each in first.because) == pytest.approx(1)
    titles, behind = (list(column.cells) for column in tables[-1].columns)
    assert len(titles) == 3
    assert titles[0] == first.title
    assert behind[0] == reasons(first.because)
    model = (tmp_path / "planted-din-disco" / "model.safetensors").stat().st_mtime_ns
    shown.clear()
    quickstart.run(tmp_path, show=shown.append)
    assert (tmp_path / "planted-din-disco" / "model.safetensors").stat().st_mtime_ns == model
    assert any("0 texts encoded" in each for each in shown if isinstance(each, str))
    someone = load(tmp_path / "planted-din-disco").dataset.user_ids[0]
    assert f"--user {someone}" in shown[-1]
    assert f"recommend {tmp_path / 'planted-ease'} --user {ease.dataset.user_ids[0]} -k 5 --explain" in shown[-1]
    assert load(tmp_path / "planted-din-disco").recommend(someone, k=5)
    assert load(tmp_path / "planted-sasrec-pad").recommend(someone, k=5)


def test_without_movielens_the_planted_world_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> Path:
        raise DataError(f"{name}: not found")

    monkeypatch.setattr(quickstart, "locate", nowhere)
    tables, why = quickstart._tables(planted=False)
    assert tables.name == "planted"
    assert why.startswith("generated, since ml-latest-small")
    assert quickstart._tables(planted=True)[1] == "as asked"


@pytest.mark.slow
def test_the_real_tour_on_the_planted_world_shows_that_text_helps(tmp_path: Path) -> None:
    quickstart.run(tmp_path, planted=True, show=lambda value: None)
    plain, enhanced = (load(tmp_path / f"planted-{name}").evaluate()["all"]["auc"] for name in ("din", "din-disco"))
    assert plain is not None
    assert enhanced is not None
    assert enhanced > plain + 0.01
