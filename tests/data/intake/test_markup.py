"""HTML and lists in texts are taken out where that is asked for, and counted where it is not."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidrec.data.dataset import Dataset
from braidrec.data.intake.description import load_description, read_tables
from braidrec.data.intake.markup import cleaned
from braidrec.data.schema import Field, Schema
from braidrec.data.tables import Tables


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<p>One<br/>two</p>", "One two"),
        ("Tom &amp; Jerry &#39;live&#x27; &nbsp; &eacute;", "Tom & Jerry 'live' é"),
        ("<B CLASS='x'>bold</B> <!-- not seen --> here", "bold here"),
        ("<script>alert(1 < 2)</script>word<style>p {}</style>", "word"),
        ("&lt;b&gt; is a tag", "<b> is a tag"),
        ("a < b and c > d", "a < b and c > d"),
        ("I <3 you", "I <3 you"),
        ("<unknown> stays", "<unknown> stays"),
        ("AT&T; R&D", "AT&T; R&D"),
        ("['One', \"two's\"]", "One, two's"),
        ('["a", "b"]', "a, b"),
        ("['<i>One</i>']", "One"),
        ("[Remastered] Hits", "[Remastered] Hits"),
    ],
)
def test_what_is_no_text_is_taken_out(text: str, plain: str) -> None:
    found = cleaned(pl.Series([text, None, "plain"]), lists=True)
    assert found.texts.to_list() == [plain, None, "plain"]
    assert (found.html + found.lists > 0) == (text != plain)


@given(st.lists(st.text(max_size=12).filter(lambda text: not set(text) & set("<&[")), max_size=4))
def test_texts_without_any_stay_as_they_are(texts: list[str]) -> None:
    found = cleaned(pl.Series(texts, dtype=pl.String), lists=True)
    assert (found.texts.to_list(), found.html, found.lists) == (texts, 0, 0)


def _read(folder: Path, keys: str) -> Tables:
    (folder / "log.csv").write_text(
        "user,item,order\n" + "".join(f"{user},{item},{item}\n" for user in "ab" for item in range(4))
    )
    (folder / "items.csv").write_text(
        "item,title,tags,about\n"
        "0,<b>One</b>,\"['x', 'y']\",\"['a story', 'told &amp; read']\"\n"
        "1,Two &amp; more,\"['x']\",plain\n2,Three,,\n3,Four,\"['z']\",[sic]\n"
    )
    (folder / "d.toml").write_text(
        f'name = "d"\n[interactions]\nfile = "log.csv"\n[items]\nfile = "items.csv"\ntext = ["title", "tags", "about"]\n{keys}'
    )
    return read_tables(load_description(folder / "d.toml"), folder)


def test_it_is_asked_for_in_the_description_and_counted(tmp_path: Path) -> None:
    tables = _read(tmp_path, "clean = true\n")
    assert tables.items is not None
    assert tables.items["title"].to_list() == ["One", "Two & more", "Three", "Four"]
    assert tables.items["about"].to_list() == ["a story, told & read", "plain", None, "[sic]"]
    assert tables.items["tags"].to_list() == [
        "['x', 'y']",
        "['x']",
        None,
        "['z']",
    ]  # a field of several values reads lists itself
    notes = " ".join(tables.report.notes)
    assert "column 'title': HTML in 2 of 4 texts, taken out (clean = true)" in notes
    assert "column 'about': HTML in 1 and lists written as text in 1 of 4 texts, taken out" in notes


def test_where_it_is_not_it_is_said(tmp_path: Path) -> None:
    tables = _read(tmp_path, "")
    assert tables.items is not None
    assert tables.items["title"][0] == "<b>One</b>"
    assert "column 'title': HTML in 2 of 4 texts, read as it is; clean = true ([items] in TOML) takes it out" in " ".join(
        tables.report.notes
    )


def test_in_python_likewise(tmp_path: Path) -> None:
    log = pl.DataFrame({"user": ["a"] * 4, "item": range(4), "time": range(4)})
    items = pl.DataFrame({"item": range(4), "title": ["<p>x</p>", "y", "z", "w"]})
    schema = Schema(user="user", item="item", timestamp="time", text=("title",), item_fields=(Field(name="item"),))
    from braidrec.data.dataset import PrepareSettings
    from braidrec.data.settings import SplitConfig

    settings = PrepareSettings(split=SplitConfig(min_history=0, ratios=(0.5, 0.25, 0.25)))
    dataset = Dataset.from_frames(log, items, schema=schema, settings=settings, clean=True, path=tmp_path / "data")
    assert dataset.items["title"].to_list() == ["x", "y", "z", "w"]
