"""Archives and the states they carry."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from braidrec.errors import RunError
from braidrec.training.checkpoint import (
    Archive,
    Randomness,
    optimiser_state,
    randomness,
    read_archive,
    restore_optimiser,
    restore_randomness,
    write_archive,
)
from braidrec.training.seeding import seed_everything, spawn


class Private(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mine = torch.Generator().manual_seed(1)

    def generators(self) -> dict[str, torch.Generator]:
        return {"mine": self.mine}


def draws(module: Private) -> list[float]:
    numbers = [random.random(), float(np.random.rand()), float(np.random.randn())]  # noqa: NPY002
    return [*numbers, torch.rand(()).item(), torch.rand((), generator=module.mine).item()]


def test_every_generator_goes_back(tmp_path: Path) -> None:
    module = Private()
    seed_everything(3)
    draws(module)
    state = randomness([nn.Sequential(module)])
    write_archive(tmp_path / "a", Archive({"random": state.tensors}, {"random": state.facts}))
    expected = draws(module)
    assert draws(module) != expected
    stored = read_archive(tmp_path / "a")
    restore_randomness(Randomness(stored.files["random"], stored.facts["random"]), [nn.Sequential(module)])
    assert draws(module) == expected
    with pytest.raises(RunError, match="random generators"):
        restore_randomness(state, [])


def test_a_generator_that_was_held_under_two_names_goes_back_under_one() -> None:
    """As an earlier version held it, where a module led to a generator of its part; two generators stay two."""
    module, whole = Private(), Named()
    state = randomness([nn.Sequential(module)])
    twice = Randomness({**state.tensors, "private.0..mine": state.tensors["private.0.0.mine"]}, state.facts)
    expected = draws(module)
    restore_randomness(twice, [nn.Sequential(module)])
    assert draws(module) == expected
    other = Randomness({**state.tensors, "private.0..mine": torch.Generator().manual_seed(2).get_state()}, state.facts)
    with pytest.raises(RunError, match="random generators"):
        restore_randomness(other, [nn.Sequential(module)])
    with pytest.raises(RunError, match="random generators"):
        restore_randomness(twice, [nn.Sequential(whole)])


class Named(nn.Module):
    def generators(self) -> dict[str, torch.Generator]:
        return {"yours": torch.Generator()}


def test_derived_seeds() -> None:
    assert spawn(1, "a", "b") == 699771361  # the first four bytes of sha256("1\x1fa\x1fb"), in every process
    seeds = {spawn(seed, *names) for seed in range(50) for names in (("a",), ("b",), ("a", "b"), ("ab",), (1,))}
    assert len(seeds) == 250
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_optimisers_go_back(tmp_path: Path, kind: type[torch.optim.Adam]) -> None:
    def steps(module: nn.Module, optimiser: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            module(torch.ones(2, 3)).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    torch.manual_seed(0)
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    before = kind(first.parameters(), fused=True)
    steps(first, before, 5)
    second.load_state_dict(first.state_dict())
    after = kind(second.parameters(), fused=True)
    tensors, numbers = optimiser_state(before)
    write_archive(tmp_path / "a", Archive({"optimisers": tensors}, {"numbers": numbers}))
    stored = read_archive(tmp_path / "a")
    restore_optimiser(after, stored.files["optimisers"], stored.facts["numbers"])
    steps(first, before, 3)
    steps(second, after, 3)
    assert torch.equal(first.weight, second.weight)


def test_tied_weights_are_stored(tmp_path: Path) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    write_archive(tmp_path / "a", Archive({"model": {"x": tied, "y": tied, "row": tied[1]}}, {}))
    stored = read_archive(tmp_path / "a").files["model"]
    assert torch.equal(stored["x"], tied)
    assert torch.equal(stored["y"], tied)
    assert torch.equal(stored["row"], tied[1])


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "a", Archive({"model": {"x": torch.arange(6.0)}}, {"step": 5, "name": "phase"}))
    draw = random.Random(0)
    for name in ("manifest.json", "model.safetensors"):
        file = tmp_path / "a" / name
        content = file.read_bytes()
        for _ in range(100):
            damaged = bytearray(content)
            at = draw.randrange(len(content))
            damaged[at] ^= 1 << draw.randrange(8)
            file.write_bytes(damaged)
            try:
                stored = read_archive(tmp_path / "a")
            except RunError:
                continue
            # white space between JSON tokens carries nothing
            assert stored.facts == {"step": 5, "name": "phase"}
            assert torch.equal(stored.files["model"]["x"], torch.arange(6.0))
        file.write_bytes(content)


def test_other_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braidrec.training.checkpoint.FORMAT", 99)
    write_archive(tmp_path / "a", Archive({}, {}))
    monkeypatch.undo()
    with pytest.raises(RunError, match="format 99"):
        read_archive(tmp_path / "a")
