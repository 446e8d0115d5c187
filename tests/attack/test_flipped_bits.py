"""One flipped bit anywhere in a knowledge base: what is read is what was written, or reading refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from attack_table import Note, Wrong

import small_runs
from braidrec.errors import BraidError, KnowledgeError
from braidrec.files import read_json, write_json
from braidrec.knowledge import base as module
from braidrec.knowledge.base import KnowledgeBase
from braidrec.runs.knowledge import nearest, open_knowledge

WIDTH = 4


class Lengths:
    """Texts to vectors that differ by text."""

    name, revision, pooling, width = "lengths", "1", "none", WIDTH

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[len(text), sum(map(ord, text)) % 97, ord(text[0]), 1] for text in texts], np.float32)


@cache
def pristine() -> Path:
    """Several fragments, both kinds, a matrix beside them."""
    path = small_runs.root() / "flipped"
    base = KnowledgeBase.open(path, Lengths())
    ids = [f"item{at}" for at in range(40)]
    base.sync(ids, [f"text number {at}" for at in range(40)], batch_rows=16, show_progress=False)
    base.sync(["u1", "u2"], ["somebody", "nobody"], "user", show_progress=False)
    base.matrix(ids)
    return path


def content(path: Path) -> tuple[object, ...]:
    base = KnowledgeBase.open(path)
    ids = [f"item{at}" for at in range(40)]
    return base.ids(), base.matrix(ids).tobytes(), base.texts(ids), base.matrix(["u1", "u2"], "user").tobytes()


def flips(path: Path, count: int, *, derived: bool) -> Iterator[str]:
    """Flip one bit of one file at a time, by turns; what was changed is put back."""
    rng = np.random.default_rng(count)
    files = [each for each in sorted(path.rglob("*")) if each.is_file() and (derived or "matrix" not in each.parts)]
    files = [each for each in files if each.stat().st_size]
    for turn in range(count):
        file = files[turn % len(files)]
        held = file.read_bytes()
        at, bit = int(rng.integers(len(held))), int(rng.integers(8))
        file.write_bytes(held[:at] + bytes([held[at] ^ (1 << bit)]) + held[at + 1 :])
        yield f"{file.relative_to(path)}, byte {at}, bit {bit}"
        file.write_bytes(held)


@pytest.mark.parametrize("count", [150, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("with_matrix", [True, False])
def test_a_flipped_bit_is_refused_or_changes_nothing(count: int, with_matrix: bool, tmp_path: Path, note: Note) -> None:
    shutil.copytree(pristine(), tmp_path / "kb")
    wanted, wrong, refused = content(tmp_path / "kb"), [], 0
    for what in flips(tmp_path / "kb", count, derived=with_matrix):
        if not with_matrix:
            for folder in (tmp_path / "kb").glob("*/matrix"):
                shutil.rmtree(folder)
        try:
            if content(tmp_path / "kb") != wanted:
                wrong.append(what)
        except BraidError:
            refused += 1
    note("flipped bits in a knowledge base", count, Wrong(silent=len(wrong), foreign=0))
    assert not wrong
    assert refused


def test_a_damaged_length_is_refused_before_memory_is_asked_for_it(tmp_path: Path) -> None:
    """Lance, given such a file, asks for 32 GiB and ends the process."""
    shutil.copytree(pristine(), tmp_path / "kb")
    for file in sorted((tmp_path / "kb").glob("*/rows.lance/data/*")):
        held = file.read_bytes()
        for at in range(len(held) - 200, len(held), 9):
            file.write_bytes(held[:at] + bytes([held[at] ^ 0x80]) + held[at + 1 :])
            with pytest.raises(KnowledgeError, match=f"{file.name}: damaged: it is not the file that was written"):
                KnowledgeBase.open(tmp_path / "kb").texts(["item1"])
        file.write_bytes(held)
    assert KnowledgeBase.open(tmp_path / "kb").texts(["item1"]) == {"item1": "text number 1"}


def test_files_are_noted_by_whoever_syncs_next(tmp_path: Path) -> None:
    """Of a table that an earlier version wrote, or whose writer was killed; what is not noted is read as it was."""
    base = KnowledgeBase.open(tmp_path / "kb", Lengths())
    base.sync(["a", "b"], ["one", "two"], show_progress=False)
    note = base.folder / "latest.json"
    whole = read_json(note, KnowledgeError)
    assert {name.partition("/")[0] for name in whole["files"]} == {"data", "_versions"}
    for values in ({"version": whole["version"]}, whole | {"files": {}}, whole | {"files": {"data/gone.lance": "0" * 64}}):
        write_json(note, values)
        assert KnowledgeBase.open(tmp_path / "kb").texts(["a"]) == {"a": "one"}
        base.sync(["a", "b"], ["one", "two"], show_progress=False)
        assert read_json(note, KnowledgeError) == whole
    for files in ([1], "x", 7, None):
        write_json(note, whole | {"files": files})
        with pytest.raises(KnowledgeError, match=r"latest\.json: not what this version writes"):
            KnowledgeBase.open(tmp_path / "kb").ids()


@pytest.mark.parametrize("column", ["key", "id", "text", "text_hash", "vector", "vector_crc", "kind"])
def test_a_changed_cell_is_refused_whatever_its_column(column: str, tmp_path: Path) -> None:
    """As if the bits had been flipped inside a page: the table is whole, one cell of it is another."""
    import lancedb

    shutil.copytree(pristine(), tmp_path / "kb")
    [folder] = (tmp_path / "kb").glob("lengths-*")
    values = {
        "key": "item:item8",
        "id": "item8",
        "text": "text number 8",
        "text_hash": "0" * 64,
        "vector": [9.0, 9.0, 9.0, 9.0],
        "vector_crc": 1,
        "kind": "iten",
    }
    lancedb.connect(str(folder)).open_table("rows").update(where="id = 'item7'", values={column: values[column]})
    with pytest.raises(KnowledgeError, match="damaged"):
        content(tmp_path / "kb")
    with pytest.raises(KnowledgeError, match="restore the folder"):
        KnowledgeBase.open(tmp_path / "kb").verify()


def test_a_vector_that_moved_to_another_row_with_its_checksum_is_refused(tmp_path: Path) -> None:
    """The sum is of a row's key and text, too, so each cell may be whole and the vector still another item's."""
    import lancedb

    shutil.copytree(pristine(), tmp_path / "kb")
    [folder] = (tmp_path / "kb").glob("lengths-*")
    table = lancedb.connect(str(folder)).open_table("rows")
    [row] = table.search().where("id = 'item17'").select(["vector", "vector_crc"]).to_list()
    table.update(where="id = 'item7'", values={name: row[name] for name in ("vector", "vector_crc")})
    with pytest.raises(KnowledgeError, match="damaged"):
        content(tmp_path / "kb")
    with pytest.raises(KnowledgeError, match="1 vectors that differ from their checksum"):
        KnowledgeBase.open(tmp_path / "kb").verify()


def test_a_table_of_the_former_format_is_read_and_filled_further_by_its_own_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORMAT", module._FORMER)
    former = KnowledgeBase.open(tmp_path / "kb", Lengths())
    former.sync(["a"], ["one"], show_progress=False)
    monkeypatch.undo()
    again = KnowledgeBase.open(tmp_path / "kb", Lengths())
    again.sync(["a", "b"], ["one", "two"], show_progress=False)
    assert again.verify().items == 2
    assert read_json(again.folder / "manifest.json", KnowledgeError)["format"] == 1
    assert KnowledgeBase.open(tmp_path / "kb").matrix(["b", "a"]).tolist() == again.matrix(["b", "a"]).tolist()


def test_a_matrix_of_another_base_is_not_taken(tmp_path: Path) -> None:
    """Of the same encoder and prompt, at the same version, whole in itself."""
    first, second = (KnowledgeBase.open(tmp_path / name, Lengths()) for name in ("first", "second"))
    for base, word in ((first, "one"), (second, "another")):
        base.sync(["a", "b"], [word, "x"], show_progress=False)
    wanted, other = first.matrix(["a"]).tolist(), second.matrix(["a"]).tolist()
    assert wanted != other
    shutil.rmtree(first.folder / "matrix")
    shutil.copytree(second.folder / "matrix", first.folder / "matrix")
    assert KnowledgeBase.open(tmp_path / "first").matrix(["a"]).tolist() == wanted


def test_a_manifest_that_names_another_encoder_is_refused(tmp_path: Path) -> None:
    shutil.copytree(pristine(), tmp_path / "kb")
    [file] = (tmp_path / "kb").glob("*/manifest.json")
    values = read_json(file, KnowledgeError)
    for name in ("encoder", "revision", "pooling", "prompt"):
        write_json(file, values | {"identity": values["identity"] | {name: "other"}})
        with pytest.raises(KnowledgeError, match="the file was changed or the folder renamed"):
            KnowledgeBase.open(tmp_path / "kb")


def test_nearest_refuses_a_folder_whose_ids_were_damaged(tmp_path: Path) -> None:
    import lancedb

    shutil.copytree(small_runs.knowledge(), tmp_path / "kb")
    base = open_knowledge(tmp_path / "kb")
    id = base.ids()[0]
    lancedb.connect(str(base.folder)).open_table("rows").update(where=f"id = '{id}'", values={"id": "hers"})
    with pytest.raises(KnowledgeError, match="damaged"):
        nearest(tmp_path / "kb", base.ids()[1], None, 3)


def test_a_table_whose_latest_version_is_gone_is_not_the_one_before(tmp_path: Path) -> None:
    base = KnowledgeBase.open(tmp_path / "kb", Lengths())
    base.sync(["a", "b"], ["one", "two"], show_progress=False)
    base.sync(["a", "b"], ["other", "two"], show_progress=False)
    [*_, latest] = sorted(
        (base.folder / "rows.lance" / "_versions").glob("*.manifest"), key=lambda file: file.stat().st_mtime_ns
    )
    held = latest.read_bytes()
    latest.unlink()
    with pytest.raises(KnowledgeError, match=r"damaged: version \d+ was written, and \d+ is the last one left"):
        KnowledgeBase.open(tmp_path / "kb").texts(["a"])
    latest.write_bytes(held)
    assert KnowledgeBase.open(tmp_path / "kb").texts(["a"]) == {"a": "other"}
    for damage in ("", "{}", '{"version": "x"}', "[1]", '{"version": 99}'):
        (base.folder / "latest.json").write_text(damage)
        with pytest.raises(KnowledgeError):
            KnowledgeBase.open(tmp_path / "kb").ids()
    (base.folder / "latest.json").unlink()  # as an earlier version left it
    assert KnowledgeBase.open(tmp_path / "kb").texts(["a"]) == {"a": "other"}
