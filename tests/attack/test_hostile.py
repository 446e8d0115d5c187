"""Files of strangers wherever one is read, damaged tables by the thousand, and settings of every wrong kind.

Nothing of it runs code, writes outside of the folder that was named, or ends in an exception that is not ours.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from attack_table import Note, Wrong

import small_runs
from braidrec.config import RunRequest, parse_changes, read_request, resolve
from braidrec.data.dataset import Dataset
from braidrec.data.intake.readers import to_frame
from braidrec.errors import BraidError
from braidrec.knowledge.base import KnowledgeBase
from braidrec.registry import TASKS
from braidrec.runs.knowledge import build
from braidrec.runs.preparing import prepare
from braidrec.runs.run import load
from braidrec.strict import merge, parse


class Trap:
    """Whoever unpickles it writes the file ``ran``."""

    def __init__(self, ran: Path):
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.ran,))


def archive(names: dict[str, bytes], link: str | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in names.items():
            file.writestr(name, content)
        if link is not None:
            entry = zipfile.ZipInfo("ml-1m/ratings.dat")
            entry.external_attr = 0o120777 << 16
            file.writestr(entry, link)
    return stream.getvalue()


def tar(ran: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        entry = tarfile.TarInfo("../../outside")
        entry.size = 1
        file.addfile(entry, io.BytesIO(b"x"))
    return stream.getvalue()


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00v\x00" + header.encode().ljust(117) + b"\n"


def contents(ran: Path) -> dict[str, bytes]:
    """What a stranger's file may be, by what it is."""
    objects = io.BytesIO()
    np.save(objects, np.array([Trap(ran)], dtype=object), allow_pickle=True)
    frame, parquet = pl.DataFrame({"user": [1, 2], "item": ["a", "b"]}), io.BytesIO()
    frame.write_parquet(parquet)
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    whole = parquet.getvalue()
    return {
        "nothing": b"",
        "zeros": bytes(4_096),
        "noise": np.random.default_rng(0).bytes(4_096),
        "pickle": pickle.dumps(Trap(ran)),
        "array of objects": objects.getvalue(),
        "array without end": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,)}"),
        "array of code": npy("{'descr': __import__('os').getpid(), 'shape': (1,)}"),
        "tensors without end": len(header).to_bytes(8, "little") + header,
        "header without end": (2**62).to_bytes(8, "little") + b"{}",
        "deep": b"[" * 200_000,
        "deep table": b"a = " + b"[" * 200_000,
        "digits": b'{"format": ' + b"9" * 10_000 + b"}",
        "null": b"null",
        "list": b"[1, 2]",
        "words": b'"x"',
        "utf-16": '{"format": 1}'.encode("utf-16"),
        "half": b'{"format": 1, "digest": "',
        "surrogate": b'{"format": "\\ud800"}',
        "parquet": whole,
        "parquet cut": whole[:-20],
        "parquet, other end": whole[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1",
        "arrow": b"ARROW1\x00\x00" + b"\xff" * 200,
        "bomb": gzip.compress(bytes(50_000_000), 9),
        "gzip cut": gzip.compress(b"user,item\n1,2\n" * 99)[:-9],
        "zip outwards": archive({"../../outside": b"x", "/tmp/outside-braidrec": b"x", "ml-1m/ratings.dat": b"1::2::3::4\n"}),
        "zip link": archive({}, link="/etc/passwd"),
        "zip twice": archive({"ml-1m/ratings.dat": b"1::1::5::1\n", "ml-1m/movies.dat": b"", "ml-1m/users.dat": b"\xff"}),
        "zip cut": archive({"ml-1m/ratings.dat": b"1::1::5::1\n" * 999})[:-30],
        "tar": tar(ran),
        "nul in a table": b"user,item\n1,\x002\n\x00,3\n",
        "quotes": b'user,item\n"1,2\n' * 500,
        "wide": b",".join([b"a"] * 5_000) + b"\n",
        "long line": b"user,item\n" + b"1" * 1_000_000,
    }


def places(folder: Path) -> Iterator[tuple[str, Path, Callable[[], object]]]:
    """(name, file, what reads it) wherever a file is read."""
    import shutil

    data, run, knowledge = folder / "data", folder / "run", folder / "kb"
    shutil.copytree(small_runs.dataset().path, data)
    small_runs.copy_of(small_runs.disco(), run).add_items({"late": "a tale"})
    shutil.copytree(small_runs.knowledge(), knowledge)
    (folder / "in").mkdir()
    for ending in ("csv", "csv.gz", "jsonl", "parquet", "arrow"):
        file = folder / "in" / f"log.{ending}"
        yield f"table, {ending}", file, lambda file=file: Dataset.from_frames(file, path=folder / "made")  # type: ignore[misc]
    yield "settings", folder / "in" / "run.toml", lambda: read_request(folder / "in" / "run.toml", {})
    yield "encoder", folder / "in" / "own.toml", lambda: build(data, folder / "made-kb", str(folder / "in" / "own.toml"))
    yield "description", folder / "in" / "d.toml", lambda: prepare(str(folder / "in" / "d.toml"), None, folder / "made")
    yield "archive", folder / "in" / "ml-1m.zip", lambda: prepare("ml-1m", folder / "in" / "ml-1m.zip", folder / "made")
    for name in ("manifest.json", "vocabulary.json", "log.user.npy", "items.parquet"):
        yield f"data, {name}", data / name, lambda: Dataset.open(data)
    for name in ("run.json", "config.toml", "model.json", "model.safetensors", "catalogue.parquet", "added/items.json"):
        yield f"run, {name}", run / name, lambda: load(run)
    yield "knowledge.json", knowledge / "knowledge.json", lambda: build(data, knowledge, "tfidf")
    for file in (next(knowledge.glob("*/manifest.json")), next(knowledge.glob("*/rows.lance/data/*"))):
        yield f"knowledge, {file.name[:8]}", file, lambda: [(base := KnowledgeBase.open(knowledge)), base.matrix(base.ids())]


@pytest.mark.parametrize("share", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_files_of_strangers(share: int, tmp_path: Path, note: Note) -> None:
    ran, inside = tmp_path / "ran", tmp_path / "inside" / "below"
    inside.mkdir(parents=True)
    tried, foreign, outside = 0, [], []
    every = contents(ran)
    for at, (place, file, read) in enumerate(places(inside)):
        held = file.read_bytes() if file.exists() else None
        for name in [*every][at % share :: share]:
            file.write_bytes(every[name])
            tried += 1
            try:
                read()
            except BraidError:
                pass
            except Exception as cause:
                foreign.append(f"{place}: {name}: {cause!r}")
        file.unlink()
        if held is not None:
            file.write_bytes(held)
    outside += [str(each) for each in tmp_path.iterdir() if each.name != "inside"]
    outside += [str(each) for each in (tmp_path / "inside").iterdir() if each.name != "below"]
    outside += [str(each) for each in (Path("/tmp/outside-braidrec"), Path("/tmp/outside")) if each.exists()]
    note("hostile files", tried, Wrong(foreign=len(foreign), code=int(ran.exists()), outside=len(outside)))
    assert not foreign
    assert not ran.exists()
    assert not outside


def table(rng: np.random.Generator) -> tuple[pl.DataFrame, bytes]:
    """Rows of text, and a file of them with a drawn separator, quoting, line ends and encoding."""
    rows, columns = int(rng.integers(1, 12)), int(rng.integers(2, 6))
    letters = [*"abcxyzäß€漢 '-_.0123456789", "", "  ", "\u200b", "NA", "null", "1e5", "007"]
    separator = ",;\t"[int(rng.integers(3))]

    def cell() -> str:
        return "x" + "".join(letters[int(rng.integers(len(letters)))] for _ in range(int(rng.integers(1, 6)))) + "x"

    frame = pl.DataFrame({f"c{at}": [cell() for _ in range(rows)] for at in range(columns)})
    always = bool(rng.integers(2))
    rows_of_text = ([f'"{each}"' if always else each for each in row] for row in frame.rows())
    lines = [separator.join(cells) for cells in (frame.columns, *rows_of_text)]
    end = ("\n", "\r\n")[int(rng.integers(2))]
    text = end.join(lines) + (end if rng.integers(2) else "")
    return frame, text.encode(("utf-8", "utf-8-sig")[int(rng.integers(2))])


@pytest.mark.parametrize("count", [60, pytest.param(2_000, marks=pytest.mark.slow)])
def test_tables_that_are_drawn_and_damaged(count: int, tmp_path: Path, note: Note) -> None:
    """A whole one is read to the last cell; a damaged one is read or refused."""
    rng, lost, foreign = np.random.default_rng(count), [], []
    for turn in range(count):
        frame, content = table(rng)
        file = tmp_path / "t.csv"
        if damaged := turn % 2 == 1:
            at = int(rng.integers(len(content)))
            content = content[:at] + rng.bytes(int(rng.integers(1, 4))) + content[at + int(rng.integers(3)) :]
        file.write_bytes(content)
        try:
            found = to_frame(file, "the table")
        except BraidError as cause:
            if not damaged:
                lost.append(f"{turn}: {cause}")
            continue
        except Exception as cause:
            foreign.append(f"{turn}: {cause!r}")
            continue
        if not damaged and found.rows() != frame.rows():
            lost.append(f"{turn}: {content!r}")
    note("fuzzed reads", count, Wrong(silent=len(lost), foreign=len(foreign)))
    assert not foreign
    assert not lost


WRONG: tuple[Any, ...] = (
    -1,
    0,
    10**12,
    10**30,
    -1e308,
    1e-320,
    "",
    "x" * 50,
    "1",
    [],
    [1],
    {},
    {"a": 1},
    None,
    True,
    "\x00",
    "nan",
)


def settings_of(values: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from settings_of(value, (*at, key))
        else:
            yield (*at, key)


@pytest.mark.parametrize("share", [40, pytest.param(1, marks=pytest.mark.slow)])
def test_settings_of_every_wrong_kind(share: int, note: Note) -> None:
    """Each key of each model with each wrong value: it is taken, or refused in our words, before any data are read."""
    tried, foreign = 0, []
    for task in TASKS:
        for name in (*TASKS[task].backbones, *TASKS[task].models):
            request = {"data": "d", "task": task, "backbone": name}
            whole = resolve(parse(RunRequest, request, "test"), "test").model_dump(mode="json")
            keys = [*settings_of({key: whole[key] for key in ("model", "training", "seed", "preset")})]
            for at, key in enumerate(keys):
                for value in WRONG[at % share :: share]:
                    tried += 1
                    change: dict[str, Any] = {key[-1]: value}
                    for part in reversed(key[:-1]):
                        change = {part: change}
                    try:
                        resolve(parse(RunRequest, merge(request, change), "test"), "test")
                        parse_changes([f"{'.'.join(key)}={value}"])
                    except BraidError:
                        pass
                    except Exception as cause:
                        foreign.append(f"{name}: {'.'.join(key)} = {value!r}: {cause!r}")
    note("wrong values", tried, Wrong(foreign=len(foreign)))
    assert not foreign
