"""Ids, titles, names and errors that hold what steers a terminal: none of it reaches one, nor a notebook or a log."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import small_runs
from braidrec import cli
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.errors import BraidError, DataError
from braidrec.runs.knowledge import build
from braidrec.runs.run import Run
from braidrec.shown import escape, plain, tell

HOSTILE = "\x1b]0;mine\x07\x1b[2J\x9b31m\x7f\u202egpj\u2066\u2069\u200e\r\b\x00\u2028\ufeff"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@cache
def dataset() -> Dataset:
    """Items, users, names and fields that are all hostile."""
    tables = small_runs.rich_tables()
    assert tables.items is not None
    own = pl.concat_str(pl.lit("i" + HOSTILE), pl.col("item").cast(pl.String))
    items = tables.items.with_columns(own, pl.concat_str(pl.lit("Film [b]" + HOSTILE), pl.col("title")).alias("title"))
    log = tables.interactions.with_columns(own, pl.col("user").cast(pl.String) + HOSTILE)
    found = Tables("rich" + HOSTILE, tables.schema.model_copy(update={"user_fields": ()}), log, items)
    return Dataset.prepare(found, small_runs.root() / "hostile", PrepareSettings(split=SplitConfig(min_history=2)))


@cache
def run() -> Run:
    return small_runs.train(small_runs.root() / "hostile-run", dataset(), backbone="lr", training={"batch_size": 512})


@cache
def knowledge() -> Path:
    build(dataset().path, small_runs.root() / "hostile-knowledge", "tfidf")
    return small_runs.root() / "hostile-knowledge"


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["braidrec", *map(str, words)])
    with pytest.raises(SystemExit):
        cli.main()
    return "".join(capsys.readouterr())


def test_no_command_lets_them_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    user = dataset().user_ids[0]
    (tmp_path / "deny").write_text("nobody" + HOSTILE.replace("\u2028", ""), encoding="utf-8")
    commands: dict[str, list[object]] = {
        "show": ["data", "show", dataset().path],
        "recommend": ["recommend", run().path, "--user", user, "-k", "3"],
        "new user": ["recommend", run().path, "--items", dataset().item_ids[0], "-k", "3"],
        "unknown user": ["recommend", run().path, "--user", "x" + HOSTILE.replace("\x00", "")],
        "unknown item": ["recommend", run().path, "--items", "x" + HOSTILE.replace("\x00", "")],
        "deny": ["recommend", run().path, "--user", user, "--deny", tmp_path / "deny"],
        "evaluate": ["evaluate", run().path],
        "nearest": ["knowledge", "nearest", knowledge(), "--text", "a film", "-k", "3"],
        "no file": ["recommend", tmp_path / HOSTILE.replace("\x00", ""), "--user", "1"],
        "no data": ["data", "prepare", str(tmp_path / HOSTILE.replace("\x00", "")) + ".toml"],
        "setting": ["fit", "--data", dataset().path, "--set", "model." + HOSTILE.replace("\x00", "") + "=1"],
    }
    for name, words in commands.items():
        text = shown(monkeypatch, capsys, *words)
        assert not STEERING.search(text), (name, text)
        assert "Traceback" not in text
    assert "\\x1b" in shown(monkeypatch, capsys, *commands["recommend"])


def test_nor_do_notebooks_errors_and_logs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        run().recommend("x" + HOSTILE)
    for text in (str(caught.value), str(dataset()), dataset()._repr_html_(), str(run()), run()._repr_html_(), repr(run())):
        assert not STEERING.search(text)
    tell(HOSTILE)
    assert not STEERING.search(capsys.readouterr().err)
    code = (
        "import logging; from braidrec.shown import plain_logs; plain_logs()\n"
        "logging.getLogger('braidrec.x').warning('%s', '\\x1b[2J\\u202e')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "\\x1b[2J\\u202e\n"


@given(st.text())
def test_what_is_escaped_is_harmless_and_the_rest_is_as_it_was(text: str) -> None:
    found = escape(text)
    assert not STEERING.search(found)
    assert escape(found) == found
    if all(unicodedata.category(each)[0] not in "C" and each not in "\u2028\u2029" for each in text):
        assert found == text
    assert str(BraidError(text)) == plain(text)


def test_joined_letters_and_emoji_stay() -> None:
    family, farsi = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    for text in (family, farsi, "tab\tand\nline", "naïve"):
        assert escape(text) == text
    assert logging.lastResort is not None
