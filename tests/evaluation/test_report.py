"""One report for every task: values by name, JSON that is read strictly, and a table of what the reports hold."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from braidrec.errors import DataError
from braidrec.evaluation.bootstrap import cluster_by_user
from braidrec.evaluation.report import Interval, Report, Shown, SliceResult, render

INTERVAL = Interval(0.61, 0.65, 200, 30, 40)
SHOWN = (
    Shown("users", "users", "count"),
    Shown("recall@5", "Recall@5", unit="%", interval=1),
    Shown("loss", "loss", digits=3),
    Shown("mrr", "MRR", "below", "%", digits=1),
    Shown("surprise", "surprise", "below", "bits", digits=2),
    Shown("reach", "reach", "below"),
)


def report(**changes: Any) -> Report:
    slices = (
        SliceResult("all", 1_234, {"users": 1_000}, {"recall@5": 0.625, "loss": None, "mrr": 0.5}),
        SliceResult("cold_items", 7, {"users": 5}, {"recall@5": None, "loss": 0.5, "mrr": None}, "too few: 7 rows, 9 wanted"),
        SliceResult("warm", 9, {"users": 5}, {"recall@5": 0.25, "loss": 0.125, "mrr": 0.25}),
    )
    whole = Report(slices, {"recall@5": INTERVAL}, {"surprise": 7.125, "reach": None}, SHOWN)
    return replace(whole, **changes)


def printed(reports: dict[str, Report], shown: tuple[Shown, ...] | None = None) -> list[list[str]]:
    """Cells of every printed line, and the caption's lines as lines of one cell."""
    stream = io.StringIO()
    Console(file=stream, width=160).print(render(reports, shown))
    lines = [line for line in stream.getvalue().splitlines() if not set(line.strip()) <= set("┏━┳┓┡╇┩├─┼┤└┴┘")]
    rows = [line.replace("┃", "│").split("│") for line in lines]
    return [[cell.strip() for cell in (row[1:-1] if len(row) > 1 else row)] for row in rows]


def test_values_by_name() -> None:
    found = report()
    assert (found["all"]["recall@5"], found["all"]["loss"], found["cold_items"]["loss"]) == (0.625, None, 0.5)
    assert (found.whole("mrr"), found.whole("surprise"), found.whole("reach")) == (0.5, 7.125, None)
    with pytest.raises(DataError, match=r"slice 'all' has no value 'recall@50' \(did you mean 'recall@5'\?\)"):
        found["all"]["recall@50"]
    with pytest.raises(DataError, match=r"no slice 'cold_item' \(did you mean 'cold_items'\?\)"):
        found["cold_item"]
    with pytest.raises(DataError, match="slice 'all' has no value 'reech'"):
        found.whole("reech")


def test_a_report_prints_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = str(report()).splitlines()
    assert "slice" in lines[1]
    assert any("62.5000" in line for line in lines)
    assert not any(line != line.rstrip() or "\x1b" in line for line in lines)
    assert report()._repr_html_().startswith("<pre ")


def test_no_number_is_cut_short_where_the_screen_is_narrow() -> None:
    stream = io.StringIO()
    Console(file=stream, width=40).print(render({"one model": report(), "another model": report()}))
    assert "…" not in stream.getvalue()
    assert "0.125" in stream.getvalue()


def test_interval_of_resamples() -> None:
    clusters = cluster_by_user([1, 1, 2], 3)
    assert Interval.of(np.linspace(0, 1, 1_025), clusters) == Interval(0.025, 0.975, 1_025, 2, 2)


def test_every_cell_of_a_table() -> None:
    other = report(intervals={}, lists={"surprise": None, "reach": 0.5})
    assert printed({"a [x]": report(), "b": other}) == [
        ["slice", "rows", "users", "a [x]", "b"],
        ["all", "1,234", "1,000", "62.5000", "62.5000"],
        ["", "", "", "[61.0, 65.0]", ""],
        ["cold items", "7", "5", "too few", "too few"],  # the first of the cells is missing, so the reason stands there
        ["warm", "9", "5", "25.0000 / 0.125", "25.0000 / 0.125"],
        ["MRR, %", "", "", "50.0", "50.0"],
        ["surprise, bits", "", "", "7.12", "-"],
        ["reach", "", "", "-", "0.5000"],
        ["Recall@5 in % / loss, [95 % interval of Recall@5 over users]"],
    ]


def test_a_table_of_something_else() -> None:
    shown = (Shown("mrr", "MRR", interval=3), Shown("recall@5", "Recall@5", interval=2), Shown("users", "people", "count"))
    both = report(intervals={"recall@5": INTERVAL, "mrr": Interval(0.4, 0.6, 200, 30, 40)})
    assert printed({"a": both}, shown) == [
        ["slice", "rows", "people", "a"],
        ["all", "1,234", "1,000", "0.5000 / 0.6250"],
        ["", "", "", "MRR [0.400, 0.600]"],
        ["", "", "", "Recall [0.61, 0.65]"],
        ["cold items", "7", "5", "too few"],
        ["warm", "9", "5", "0.2500 / 0.2500"],
        ["MRR / Recall@5, [95 % interval over users]"],
    ]
    bare = (Shown("mrr", "MRR"),)
    assert printed({"a": both}, bare)[-1] == ["MRR"]
    assert printed({"a": both}, bare)[1] == ["all", "1,234", "0.5000"]


def test_notes_say_whom_they_are_about() -> None:
    mine, yours = report(notes=("sampled [1:100]", "text by tfidf")), report(notes=("sampled [1:100]",))
    assert printed({"a": mine, "b": yours})[-2:] == [["sampled [1:100]"], ["a: text by tfidf"]]


def test_json_round_trip() -> None:
    for each in (report(), report(intervals={}), report(notes=("one", "two")), report(lists={"surprise": 7, "reach": 1.0})):
        assert Report.from_json(json.loads(json.dumps(each.to_json(), allow_nan=False))) == each


def test_damaged_json_is_refused() -> None:
    value = report().to_json()
    good, interval, shown = value["slices"][0], value["intervals"]["recall@5"], value["shown"]
    for damage, message in (
        ({"interval": None}, r"report: unknown key 'interval' \(did you mean 'intervals'\?\)"),
        ({"slices": {}}, r"report: slices is \{\}; accepted: list"),
        ({"slices": []}, "report: it has no slice"),
        ({"slices": [good | {"rows": "12"}]}, r"slices\[0\]: rows is '12'; accepted: int"),
        ({"slices": [good | {"rows": True}]}, r"slices\[0\]: rows is True; accepted: int"),
        ({"slices": [good | {"users": 3}]}, r"slices\[0\]: unknown key 'users'"),
        ({"slices": [good | {"counts": {"users": 1.5}}]}, r"slices\[0\]: counts: users is 1.5; accepted: int"),
        ({"slices": [good | {"counts": {}}]}, r"slices\[0\]: counts: required key 'users' is missing"),
        ({"slices": [good | {"values": None}]}, r"slices\[0\]: values is None; accepted: dict"),
        ({"slices": [good | {"values": {"mrr": 1}}]}, r"slices\[0\]: values: required key 'loss' is missing"),
        ({"slices": [good | {"values": good["values"] | {"mrr": "1"}}]}, "values: mrr is '1'; accepted: int or float or null"),
        (
            {"slices": [good, good | {"values": good["values"] | {"hr": 1}}]},
            r"slices\[1\]: values: unknown key 'hr'",
        ),
        ({"slices": [good | {"reason": 3}]}, r"reason is 3; accepted: str or null"),
        ({"intervals": []}, r"intervals is \[\]; accepted: dict"),
        ({"intervals": {"mrr": interval}}, "intervals: required key 'recall@5' is missing"),
        ({"intervals": {"recall@5": interval, "hr": interval}}, "intervals: unknown key 'hr'"),
        ({"intervals": {"recall@5": {"low": 1}}}, "intervals: recall@5: required key 'clusters' is missing"),
        ({"intervals": {"recall@5": interval | {"low": None}}}, "recall@5: low is None; accepted: int or float"),
        ({"lists": {"surprise": "8", "reach": 1}}, "lists: surprise is '8'; accepted: int or float or null"),
        ({"lists": {"reach": 1}}, r"shown: it has no 'surprise'"),
        ({"shown": [shown[0] | {"place": "left"}]}, r"shown\[0\]: place is 'left'; accepted: 'count', 'cell', 'below'"),
        ({"shown": [shown[0] | {"unit": "kg"}]}, r"shown\[0\]: unit is 'kg'; accepted: '', '%', 'bits'"),
        ({"shown": [shown[0] | {"digits": 0.5}]}, r"shown\[0\]: digits is 0.5; accepted: int"),
        ({"shown": shown[:1]}, "shown: it has nothing for the cells"),
        ({"notes": [1]}, r"notes\[0\] is 1; accepted: str"),
    ):
        with pytest.raises(DataError, match=message):
            Report.from_json(value | damage)
    for key in value:
        with pytest.raises(DataError, match=f"report: required key '{key}' is missing"):
            Report.from_json({name: entry for name, entry in value.items() if name != key})
    with pytest.raises(DataError, match="report: found list; accepted: an object with the keys intervals, lists"):
        Report.from_json([])


def test_what_cannot_share_a_table_is_refused() -> None:
    other = report(slices=tuple(replace(part, counts={"users": 3}) for part in report().slices))
    with pytest.raises(
        DataError,
        match=r"'b' and 'a' were not evaluated on the same rows: "
        r"slice \(name, rows, users\) \('all', 1234, 3\) against \('all', 1234, 1000\)",
    ):
        render({"a": report(), "b": other})
    with pytest.raises(DataError, match=r"against \('warm', 9, 5\)"):
        render({"a": report(), "b": report(slices=report().slices[:2])})
    renamed = Report((SliceResult("all", 1_234, {"users": 1_000}, {"auc": 0.5}),), {}, {}, (Shown("auc", "AUC"),))
    with pytest.raises(DataError, match=r"'b' has no 'recall@5' \(accepted: auc\); it has auc"):
        render({"a": report(), "b": renamed})
    with pytest.raises(DataError, match="'a' has nothing for the cells"):
        render({"a": report()}, ())
    with pytest.raises(DataError, match="needs at least one report"):
        render({})
