"""One text per catalogue row: the paper's sentence, and what happens where cells are empty."""

from __future__ import annotations

import polars as pl
import pytest

from braidrec.errors import ConfigError, KnowledgeError
from braidrec.knowledge.texts import PromptTemplate
from braidrec.strict import parse

TITANIC = {"title": ["Titanic"], "genre": ["Romantic"], "director": ["James Cameron"], "id": [7]}


def render(fields: tuple[str, ...], columns: dict[str, list[object]], noun: str = "movie") -> list[str | None]:
    return PromptTemplate(noun=noun, fields=fields).render(pl.DataFrame(columns, strict=False), "id").texts


def test_the_paper_s_sentence() -> None:
    expected = "Here is a movie, title is Titanic, genre is Romantic, and director is James Cameron."
    assert render(("title", "genre", "director"), TITANIC) == [expected]


def test_two_fields_one_field_and_a_vowel() -> None:
    assert render(("title", "genre"), TITANIC) == ["Here is a movie, title is Titanic, and genre is Romantic."]
    assert render(("title",), TITANIC) == ["Here is a movie, title is Titanic."]
    for noun in ("item", "album", "event", "object", "Umbrella"):
        assert render(("title",), TITANIC, noun=noun) == [f"Here is an {noun}, title is Titanic."]
    assert render(("title",), TITANIC, noun="product") == ["Here is a product, title is Titanic."]


def test_empty_cells_leave_their_field_out_and_are_counted() -> None:
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "title": ["Heat", "  Up \n now ", None, " "],
            "year": [1995.0, float("nan"), 2001.0, None],
            "tags": [["crime", None, "drama"], [], [None], None],
        }
    )
    result = PromptTemplate(noun="movie", fields=("title", "year", "tags")).render(frame, "id")
    assert result.ids == ["a", "b", "c", "d"]
    assert result.texts == [
        "Here is a movie, title is Heat, year is 1995.0, and tags is crime, drama.",
        "Here is a movie, title is Up now.",
        "Here is a movie, year is 2001.0.",
        None,
    ]
    assert (result.partial, result.empty) == (2, 1)


def test_ids_become_strings_and_must_be_there() -> None:
    template = PromptTemplate(fields=("title",))
    assert template.render(pl.DataFrame(TITANIC), "id").ids == ["7"]
    with pytest.raises(KnowledgeError, match="column 'id', row 1"):
        template.render(pl.DataFrame({"id": ["x", None], "title": ["A", "B"]}), "id")


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(KnowledgeError, match="no column 'titel' \\(did you mean 'title'"):
        render(("titel",), TITANIC)


def test_the_digest_follows_every_setting() -> None:
    base = PromptTemplate(noun="movie", fields=("title", "genre"))
    others = [PromptTemplate(noun="film", fields=("title", "genre")), PromptTemplate(noun="movie", fields=("genre", "title"))]
    assert len({each.digest for each in (base, *others)}) == 3
    assert base.digest == PromptTemplate(noun="movie", fields=("title", "genre")).digest


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ConfigError, match="style"):
        parse(PromptTemplate, {"fields": ["title"], "style": "poem"}, "prompt")
