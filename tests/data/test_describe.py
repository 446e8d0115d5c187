"""What `print` says of a data set: ten lines, with what was guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

import small_runs
from braidrec.data.dataset import Dataset


def shop(folder: Path) -> Dataset:
    log = pl.DataFrame(
        {
            "user_id": [user for user in range(20) for _ in range(10)],
            "item_id": [(user + at) % 12 for user in range(20) for at in range(10)],
            "timestamp": [1_600_000_000 + 86_400 * at for user in range(20) for at in range(10)],
            "stars": [1 + (user + at) % 5 for user in range(20) for at in range(10)],
        }
    )
    items = pl.DataFrame({"id": range(12), "title": [f"<b>story</b> {at}" for at in range(12)], "genre": ["a", "b"] * 6})
    return Dataset.from_frames(log, items, path=folder / "data")


def test_a_data_set_is_printed_in_ten_lines_with_its_guesses(tmp_path: Path) -> None:
    data = shop(tmp_path)
    text = str(data)
    lines = text.splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 140
    assert lines[0] == f"data set frames at {data.path}"
    assert " ".join(lines[1].split()) == "events 200 of 20 users, 12 items (12 met), 2020-09-13 to 2020-09-22"
    assert "user user_id, item item_id, timestamp timestamp, rating stars, category genre, positive above 3" in text
    assert "fields   item: genre; text: title, genre" in text
    assert "guessed  user_id: user; item_id: item; timestamp: timestamp; stars: rating; id: id; title: text 1" in text
    assert "genre: text 2 + category + field (single)" in text
    assert "80 of 200 rows are positive" in text
    assert repr(data) == f"Dataset(frames, 200 events, 20 users, 12 items, {data.path})"


def test_a_notebook_shows_a_table_in_which_nothing_is_markup(tmp_path: Path) -> None:
    data = replace(shop(tmp_path), name="<script>")
    html = data._repr_html_()
    assert html.startswith("<b>data set &lt;script&gt; at ")
    assert html.count("<tr>") == len(str(data).splitlines()) - 1
    assert "<script>" not in html


def test_what_has_no_time_and_no_text_is_printed_as_well() -> None:
    assert "each user's in their own order" in str(small_runs.positives())
    assert "fields   user: user; item: item" in str(small_runs.positives())
    assert "hobbies (multi), age (numeric)" in str(small_runs.rich())


def test_notes_that_are_too_many_are_counted(tmp_path: Path) -> None:
    data = shop(tmp_path)
    others = [f"a note of some length, the {at}th of them, which needs more than half of a line of its own" for at in range(9)]
    lines = str(replace(data, manifest={**data.manifest, "notes": others})).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["events", "parts", "columns", "fields", "notes"]
    assert [line.endswith(note) for line, note in zip(lines[5:9], others, strict=False)] == [True] * 4
    assert lines[9].split()[:3] == ["and", "5", "more:"]
