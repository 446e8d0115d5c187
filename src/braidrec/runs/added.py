"""Items that a run was given after training, as they lie in its folder: added/items.json names them, their tensors' file, and
the run: its vocabulary and its knowledge bases are what their rows and vectors mean.

Several processes may add to one run: each takes the run's lock, reads what is there, and puts its own behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.errors import DataError, RunError
from braidrec.files import load_tensors, read_json, save_tensors, write_json
from braidrec.locks import LockHeld, writer_lock
from braidrec.runs.directory import LOCK, digest_of_json, origin
from braidrec.task import Added


@dataclass(frozen=True)
class AddedItem:
    """content: digest of its texts and values, "" where an earlier version noted none"""

    id: str
    title: str
    content: str = ""

    def is_as(self, other: AddedItem) -> bool:
        """Whether both mean the same item: by their content, by their titles where that was not noted."""
        known = self.content and other.content
        return self.id == other.id and (self.content == other.content if known else self.title == other.title)


@dataclass(frozen=True)
class Additions:
    """n items, and what a model reads of each."""

    items: tuple[AddedItem, ...]
    read: Added

    def __len__(self) -> int:
        return len(self.items)

    @property
    def ids(self) -> list[str]:
        return [item.id for item in self.items]

    @property
    def titles(self) -> list[str]:
        return [item.title for item in self.items]

    def at(self, places: Sequence[int]) -> Additions:
        """Those at ``places`` alone."""
        rows = torch.tensor(list(places), dtype=torch.int64)
        chosen = {name: tensor.index_select(0, rows) for name, tensor in _tensors(self.read).items()}
        return Additions(tuple(self.items[at] for at in places), _of_tensors(chosen))

    def then(self, others: Additions) -> Additions:
        """``others`` behind these."""
        first, second = _tensors(self.read), _tensors(others.read)
        stacked = {name: _stacked(first[name], second[name]) for name in first}
        return Additions((*self.items, *others.items), _of_tensors(stacked))


def load_added(path: Path) -> Additions | None:
    """What was added to the run at ``path``; None where nothing was.

    Raises RunError when a byte of it changed, or when it was added to another run.
    """
    folder = path / "added"
    note = folder / "items.json"
    while note.exists():
        about = read_json(note, RunError)
        try:
            return _read(path, about)
        except RunError:
            if read_json(note, RunError) == about:  # else another process has added items meanwhile: read those, too
                raise
    return None


def _read(path: Path, about: Any) -> Additions:
    folder = path / "added"
    plain = {name: value for name, value in about.items() if name != "digest"} if isinstance(about, dict) else {}
    if not plain or about.get("digest") != digest_of_json(plain):
        raise RunError(f"{folder / 'items.json'}: its content does not have its digest; the file is damaged or was edited")
    if plain.get("run") not in (None, _origin(path)):  # an earlier version did not name it
        raise RunError(
            f"{folder}: these items were added to another run, whose rows and vectors they have; take the folder away, and add "
            "them to this run"
        )
    tensors = load_tensors(folder / plain["file"], plain["sha256"], RunError)
    return Additions(
        tuple(AddedItem(each["id"], each["title"], each.get("content", "")) for each in plain["items"]), _of_tensors(tensors)
    )


def save_added(path: Path, known: Sequence[str], new: Additions, wait: float) -> tuple[Additions, int]:
    """Put ``new`` behind the added items of the run at ``path``; returns all that then stand behind ``known``, and how many of
    them were put there now.

    known: the added items that the caller has already, which the run's own must begin with    wait: seconds for other writers
    An item that is there already, since another process or an earlier call has added it, is taken from there.
    Raises DataError where that one is another item of the same id; RunError when the run is still being written after ``wait``,
    or no longer begins with ``known``.  Nothing is written then.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(writer_lock(path / LOCK, wait=wait))
        except LockHeld as held:
            raise RunError(
                f"{path}: process {held.holder} is writing to this run, and was not done after {wait:g} s; nothing was added: "
                "try again later"
            ) from None
        there = load_added(path)
        own = there.ids if there is not None else []
        if own[: len(known)] != list(known):
            raise RunError(f"{path}: its added items are no longer those that this run was loaded with; load it again first")
        before = {item.id: item for item in there.items} if there is not None else {}
        for item in new.items:
            if item.id in before and not item.is_as(before[item.id]):
                raise DataError(
                    f"item '{item.id}' was added before, with another text or other values (titled '{before[item.id].title}'); "
                    "nothing was added: choose another id, or leave it out"
                )
        left = [at for at, item in enumerate(new.items) if item.id not in before]
        whole = new.at(left) if there is None else there.then(new.at(left))
        if left:
            _write(path, whole)
        return whole.at(range(len(known), len(whole))), len(left)


def _origin(path: Path) -> str:
    return origin(read_json(path / "run.json", RunError))


def _write(path: Path, whole: Additions) -> None:
    """The tensors first, then the note that names them: whoever dies between leaves the former state."""
    folder = path / "added"
    file = folder / f"items-{len(whole)}.safetensors"
    items = [asdict(item) for item in whole.items]
    about = {"run": _origin(path), "file": file.name, "sha256": save_tensors(file, _tensors(whole.read)), "items": items}
    write_json(folder / "items.json", about | {"digest": digest_of_json(about)})
    for earlier in folder.glob("items-*.safetensors"):
        if earlier != file:
            earlier.unlink()


def _tensors(added: Added) -> dict[str, Tensor]:
    bags = {f"bag.{at}": bag for at, bag in enumerate(added.bags)}
    return {"vectors": added.vectors, "fields": added.fields, "numbers": added.numbers, **bags}


def _of_tensors(tensors: Mapping[str, Tensor]) -> Added:
    bags = tuple(tensors[f"bag.{at}"] for at in range(sum(name.startswith("bag.") for name in tensors)))
    return Added(tensors["vectors"], tensors["fields"], tensors["numbers"], bags)


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Rows of both, padded with 0 to one width."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(part, (0, width - part.shape[1])) for part in (first, second)])
