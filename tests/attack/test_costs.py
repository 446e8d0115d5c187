"""Files that are small to send and dear to read: what is done with a header grows by its length, not by its square."""

from __future__ import annotations

import pytest

from braidrec.data.intake.delimited import _refuse_duplicates, parse_delimited
from braidrec.errors import DataError

COLUMNS = 20_000


class Counted(str):
    """A name that counts how often one is compared with another."""

    compared = 0
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


def test_names_are_compared_as_often_as_there_are_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "compared", 0)
    _refuse_duplicates([Counted(f"c{at}") for at in range(COLUMNS)], "x")
    assert Counted.compared < 2 * COLUMNS
    with pytest.raises(DataError, match="columns 3 and 20001 are both called 'c2'"):
        _refuse_duplicates([*(Counted(f"c{at}") for at in range(COLUMNS)), Counted("c2")], "x")
    assert Counted.compared < 4 * COLUMNS


def test_a_wide_file_is_read() -> None:
    values = ",".join("1" * COLUMNS)
    for head in (",".join(f"c{at}" for at in range(COLUMNS)), "," * (COLUMNS - 1), "column_2," * 2 + "," * (COLUMNS - 3)):
        if head.startswith("column_2,column_2"):
            with pytest.raises(DataError, match="columns 1 and 2 are both called 'column_2'"):
                parse_delimited(f"{head}\n{values}\n".encode(), what="x", separator=",")
            continue
        found = parse_delimited(f"{head}\n{values}\n".encode(), what="x", separator=",")
        assert len(set(found.frame.columns)) == found.frame.width == COLUMNS
    head = "column_3,column_3_," + "," * (COLUMNS - 3)
    names = parse_delimited(f"{head}\n{values}\n".encode(), what="x", separator=",").frame.columns
    assert names[:4] == ["column_3", "column_3_", "column_3__", "column_4"]
    assert len(set(names)) == COLUMNS
