"""Profiles as they lie in a folder: whole, by id, and no damaged one among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from braidrec.errors import KnowledgeError
from braidrec.knowledge import lance
from braidrec.knowledge.profiles.store import Profile, ProfileStore


def profile(id: str, text: str = "Somebody likes it well enough.", **more: Any) -> Profile:
    values = {"source": "s" * 64, "part": "", "failure": "", "read": 10, "written": 5}
    return Profile(id=id, text=text, **(values | more))


def test_profiles_come_back_by_kind_and_id(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    assert store.read("item") == store.read("user") == {}
    items = [profile("b"), profile("a'; drop", text="", failure="it is no JSON"), profile("ü\u2003\t", read=2**40)]
    with store.held(pytest.fail):
        store.put("item", items)
        store.put("user", [profile("a", part="p" * 32)])
        store.put("user", [])
    assert store.read("item") == {each.id: each for each in items}
    assert ProfileStore(tmp_path).read("user") == {"a": profile("a", part="p" * 32)}
    store.put("user", [profile("a", text="Another one, of another part.", part="q" * 32)])
    assert store.read("user")["a"].part == "q" * 32
    assert len(store.read("user")) == 1


@pytest.mark.parametrize("column", ["profile", "part", "source", "failure", "read", "id"])
def test_a_changed_row_is_named(column: str, tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.put("user", [profile(id) for id in ("a", "b", "c")])
    table = lance.table_of(store.folder)
    assert table is not None
    rows = table.to_arrow()
    values = rows.column(column).to_pylist()
    values[1] = 11 if column == "read" else "x" + values[1][1:]
    at = rows.schema.get_field_index(column)
    lance.put(table, rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type)))
    with pytest.raises(KnowledgeError, match=r"the profile of user '[bx]' differs from its checksum"):
        store.read("user")
    assert store.read("item") == {}
