"""Roles guessed from names and contents."""

from __future__ import annotations

import polars as pl
import pytest

from braidrec.data.intake.guess import field_of, guess_schema
from braidrec.data.schema import Field
from braidrec.errors import DataError


def _log(*names: str) -> pl.DataFrame:
    return pl.DataFrame({name: [1, 2, 3] for name in names})


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("userId", "movieId", "rating", "timestamp"), ("userId", "movieId", "rating", "timestamp")),
        (("user_id", "item_id", "stars", "ts"), ("user_id", "item_id", "stars", "ts")),
        (("reviewerID", "asin", "overall", "unixReviewTime"), ("reviewerID", "asin", "overall", "unixReviewTime")),
        (("uid", "product_id", "score", "time"), ("uid", "product_id", "score", "time")),
    ],
)
def test_common_names(names: tuple[str, ...], roles: tuple[str, ...]) -> None:
    schema, guesses = guess_schema(_log(*names))
    assert (schema.user, schema.item, schema.rating, schema.timestamp) == roles
    assert [guess.role for guess in guesses] == ["user", "item", "timestamp", "rating"]


def test_contents_decide_what_a_name_may_mean() -> None:
    log = _log("user", "item", "label").with_columns(click=pl.Series([0, 1, 1]), rating=pl.Series(["good", "bad", "fair"]))
    with pytest.raises(DataError, match=r'2 columns could be the label: label, click; .*label = "label" or label = "click"'):
        guess_schema(log)
    schema, guesses = guess_schema(log.drop("label"))
    assert (schema.label, schema.rating) == ("click", None)
    assert "interactions.rating: not used (called like the rating, but it holds text)" in [
        f"{g.column}: {g.role} ({g.why})" for g in guesses
    ]


def test_pairs_alone_need_no_time_and_no_order() -> None:
    schema, guesses = guess_schema(_log("user", "item"))
    assert (schema.clock, schema.part) == (None, None)
    assert [guess.role for guess in guesses] == ["user", "item"]
    assert guess_schema(_log("user", "item", "position"))[0].clock == "position"


def test_a_ready_made_split_is_named_never_guessed() -> None:
    log = _log("user", "item", "timestamp").with_columns(part=pl.Series(["train", "valid", "test"]))
    schema, guesses = guess_schema(log)
    assert schema.part is None
    assert ("interactions.part", "not used") in [(guess.column, guess.role) for guess in guesses]
    schema, guesses = guess_schema(log, given={"part": "part"})
    assert schema.part == "part"
    assert [(guess.role, guess.why) for guess in guesses if guess.column == "interactions.part"] == [("part", "given")]


def test_what_names_do_not_say_is_asked() -> None:
    with pytest.raises(
        DataError, match=r'could be the user: user_id, uid; write under \[interactions\]: user = "user_id" or user = "uid"'
    ):
        guess_schema(_log("user_id", "uid", "item"))
    assert guess_schema(_log("user_id", "uid", "item"), given={"user": "uid"})[0].user == "uid"
    with pytest.raises(DataError, match=r"no column is called like a user id \(candidates: who, item\)"):
        guess_schema(_log("who", "item"))
    shared = guess_schema(_log("user", "thing"), pl.DataFrame({"thing": [1, 2], "title": ["a", "b"]}))
    assert shared[0].item == "thing"


def test_a_catalogue_gives_text_category_and_fields() -> None:
    items = pl.DataFrame(
        {
            "movieId": list(range(30)),
            "description": [f"about {at}" for at in range(30)],
            "title": [f"film {at}" for at in range(30)],
            "genres": ["a|b", "b", "a|c"] * 10,
            "price": [at + 0.5 for at in range(30)],
            "shelf": [1, 2, 3] * 10,
            "constant": ["x"] * 30,
        }
    )
    schema, guesses = guess_schema(_log("userId", "movieId", "timestamp"), items)
    assert schema.text == ("title", "genres", "description")
    assert schema.category == "genres"
    assert schema.item_fields == (
        Field(name="genres", kind="multi", separator="|"),
        Field(name="price", kind="numeric"),
        Field(name="shelf"),
    )
    by_column = {guess.column: guess.role for guess in guesses}
    assert by_column["items.genres"] == "text 2 + category + field (multi, cut at '|')"
    assert by_column["items.constant"] == "not used"


def test_what_is_not_read_says_how_it_would_be_and_only_text_is_cut() -> None:
    items = pl.DataFrame(
        {
            "item": range(20),
            "headline": [f"film {at}" for at in range(20)],
            "Beschreibung": [f"von {at}" for at in range(20)],
            "labels": [["a"], ["b", "c"]] * 10,
            "written": ["['a', 'b']", "['c']"] * 10,
            "vector": [[0.5, 1.0]] * 20,
            "vector as text": ["[0.5, -1e-3]", "[1, 2]"] * 10,
            "counts as text": ["[1, 2]", "[3]"] * 10,
        }
    )
    schema, guesses = guess_schema(_log("user", "item", "timestamp"), items)
    said = {guess.column.removeprefix("items."): f"{guess.role} ({guess.why})" for guess in guesses}
    assert schema.text == ("headline",)
    assert said["Beschreibung"] == "not used (nearly every row has its own value; to have it read name it in items.text)"
    assert said["labels"] == "field (multi) (lists)"
    assert said["written"] == "field (multi) (lists written as text)"
    assert said["vector"] == said["vector as text"] == "not used (lists of decimal numbers)"
    assert said["counts as text"] == "field (multi) (lists written as text)"
    with pytest.raises(DataError, match="no column is called like an item id"):
        guess_schema(_log("user", "what"))


def test_kinds_of_fields() -> None:
    assert field_of(pl.Series("zip", [str(at) for at in range(100)] * 2))[0] == Field(name="zip")
    assert field_of(pl.Series("price", list(range(100))))[0] == Field(name="price", kind="numeric")
    assert field_of(pl.Series("tags", [["a"], ["b", "c"]]))[0] == Field(name="tags", kind="multi")
    assert field_of(pl.Series("tags", ["a, b", "c"] * 20))[0] == Field(name="tags", kind="multi", separator=",")
    assert field_of(pl.Series("title", ["a, b", "c"] * 20))[0] == Field(name="title")
    assert field_of(pl.Series("title", [f"t{at}" for at in range(40)]))[0] is None


PROSE = {
    "English": "A sturdy pan of cast iron, made for daily use, that keeps its heat and goes from the stove into the oven.",
    "German": "Eine robuste Pfanne aus Gusseisen, die ihre Wärme lange hält und vom Herd auch direkt in den Ofen wandern kann.",
    "Russian": "Прочная чугунная сковорода для каждого дня, которая долго держит тепло и годится и для плиты, и для духовки.",
    "Japanese": "毎日使える丈夫な鋳鉄製のフライパンで、熱を長く保ち、コンロからそのままオーブンに入れることができます。",
    "Hindi": "यह कच्चे लोहे का मज़बूत तवा है जो रोज़ के काम के लिए बना है और देर तक गर्म रहता है और ओवन में भी जाता है।",
}
LABELS = {
    "label": "Kitchen",
    "path": "Home & Kitchen > Kitchen & Dining > Cookware > Pots & Pans > Skillets > Cast Iron > Large and Heavy Ones",
    "lower path": "home and garden/kitchen and dining/pots and pans/cast iron/for the oven/large ones/with lid/black",
    "url": "https://example.com/images/of/some/pan/that/has/a/very/long/address/with-many-words-in-it/and-more.jpg",
    "image": "images/pans/cast iron/a pan of cast iron as seen from above.jpg",
    "JSON list": '[{"size": "a large one for the whole family"}, {"size": "a small one for those who live alone in town"}]',
    "tags": "cast iron, heavy, black, for the oven, for the stove, round, large, with a lid, made in France, gift",
    "title": "Lodge Pre Seasoned Cast Iron Skillet With Assist Handle Holder 12 Inch Black Large Heavy Duty Frying Pan",
    "short sentence": "Ships in two days.",
}


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("prose", PROSE.values(), ids=PROSE)
def test_long_sentences_are_text_however_often_they_repeat(prose: str, share: float) -> None:
    cells = [f"{prose} {at % (100 * share):g}" for at in range(100)]
    for name in ("overview", "description"):
        table = pl.DataFrame({"item_id": range(100), name: cells, "shop": ["north", "south"] * 50})
        found, guesses = guess_schema(pl.DataFrame({"user_id": [1], "item_id": [1]}), table)
        assert found.text == (name,)
        assert [entry.name for entry in found.item_fields] == ["shop"]
        assert next(each for each in guesses if each.column == f"items.{name}").role == "text 1"
    people = pl.DataFrame({"user_id": range(100), "about": cells})
    found, _ = guess_schema(pl.DataFrame({"user_id": [1], "item_id": [1]}), None, people)
    assert (found.text, found.user_fields) == ((), ())


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_labels_paths_addresses_and_lists_are_no_sentences(label: str) -> None:
    column = pl.Series("sort", [label if at % 2 else f"{label} x" for at in range(100)])
    entry, why = field_of(column)
    assert entry is not None, why
    own = pl.Series("sort", [f"{label} {at}" for at in range(100)])
    assert field_of(own)[1] != "long sentences"
