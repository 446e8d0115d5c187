"""Recurrences over packed steps: against torch's cells, against themselves written step by step, and by their derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from braidrec.layers.recurrent import Gate, Recurrence, Steps

LENGTHS = torch.tensor([3, 0, 5, 1, 5])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(gate: Gate, width: int = 3, hidden: int = 4) -> Recurrence:
    torch.manual_seed(1)
    found = Recurrence(width, hidden, gate).double()
    for bias in (found.input.bias, found.state.bias):
        nn.init.normal_(bias)
    return found


def run(model: Recurrence, rows: Tensor, lengths: Tensor, attention: Tensor | None = None) -> tuple[Tensor, Steps]:
    """rows (N, K, W), attention (N, K) -> the state after each step (N, K, H), zeros where there is none."""
    steps = Steps.of(lengths, rows.shape[1])
    states = model(rows.flatten(0, 1), steps.rows, steps, None if attention is None else attention.flatten()[steps.rows])
    return states[steps.place], steps


def test_steps_by_hand() -> None:
    steps = Steps.of(torch.tensor([1, 0, 3]), 4)
    assert steps.rows.tolist() == [8, 0, 9, 10]  # the third sequence first, as it is the longest
    assert steps.counts == (2, 1, 1)
    assert steps.place.tolist() == [[2, 0, 0, 0], [0, 0, 0, 0], [1, 3, 4, 0]]
    assert steps.last.tolist() == [2, 0, 4]
    assert list(steps.slices) == [(slice(0, 2), None), (slice(2, 3), slice(1, 2)), (slice(3, 4), slice(3, 4))]


def test_nothing_to_go_through_gives_the_row_of_zeros() -> None:
    states, steps = run(made("augru"), noise(2, 4, 3), torch.zeros(2, dtype=torch.long), torch.zeros(2, 4).double())
    assert steps.counts == ()
    assert not states.any()


@pytest.mark.parametrize("gate", ["gru", "augru"])
def test_with_full_attention_it_is_torchs_gru(gate: Gate) -> None:
    """torch's z weighs the old state and its gates stand as (r, z, n)."""
    model, rows = made(gate), noise(5, 5, 3)
    cell = nn.GRU(3, 4, batch_first=True).double()
    for kind, layer in (("ih", model.input), ("hh", model.state)):
        for name in ("weight", "bias"):
            update, reset, new = getattr(layer, name).detach().chunk(3)
            getattr(cell, f"{name}_{kind}_l0").data = torch.cat([reset, -update, new])
    found, _ = run(model, rows, torch.full((5,), 5), None if gate == "gru" else torch.ones(5, 5).double())
    torch.testing.assert_close(found, cell(rows)[0])


def written_out(model: Recurrence, rows: Tensor, length: int, attention: Tensor | None) -> list[Tensor]:
    state, found = rows.new_zeros(4), []
    for at in range(length):
        weight = torch.ones(()).double() if attention is None else attention[at]
        x = rows[at] * (weight if model.gate == "aigru" else 1)
        given, side = (
            (model.input.weight @ x + model.input.bias).split(4),
            (model.state.weight @ state + model.state.bias).split(4),
        )
        reset = torch.sigmoid(given[-2] + side[-2])
        new = torch.tanh(given[-1] + reset * side[-1])
        gate: Any = weight
        if model.gate != "agru":
            gate = torch.sigmoid(given[0] + side[0]) * (weight if model.gate == "augru" else 1)
        state = (1 - gate) * state + gate * new
        found.append(state)
    return found


@pytest.mark.parametrize("gate", ["gru", "aigru", "agru", "augru"])
def test_every_gate_step_by_step(gate: Gate) -> None:
    model, rows, attention = made(gate), noise(5, 6, 3), None if gate == "gru" else noise(5, 6, seed=2).softmax(dim=1)
    found, steps = run(model, rows, LENGTHS, attention)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = written_out(model, rows[row], length, None if attention is None else attention[row])
        assert not found[row, length:].any()
        if length:
            torch.testing.assert_close(found[row, :length], torch.stack(expected))
    assert steps.counts == (4, 3, 3, 2, 2)


def test_no_attention_leaves_the_state_at_zero_and_full_attention_of_agru_is_the_new_state() -> None:
    rows, none = noise(5, 5, 3), torch.zeros(5, 5).double()
    assert not run(made("augru"), rows, LENGTHS, none)[0].any()
    model = made("agru")
    assert sum(weight.numel() for weight in model.parameters()) == 8 * 3 + 8 + 8 * 4 + 8  # there is no update gate
    first = run(model, rows, LENGTHS, none + 1)[0][0, 0]
    reset = torch.sigmoid((model.input(rows[0, 0]) + model.state.bias)[:4])
    torch.testing.assert_close(first, torch.tanh(model.input(rows[0, 0])[4:] + reset * model.state.bias[4:]))


def test_the_amount_of_padding_is_irrelevant() -> None:
    model, rows, attention = made("augru"), noise(5, 5, 3), noise(5, 5, seed=2).softmax(dim=1)
    padded, wide = noise(5, 9, 3, seed=7), torch.zeros(5, 9).double()
    padded[:, :5], wide[:, :5] = rows, attention
    found, expected = run(model, padded, LENGTHS, wide)[0], run(model, rows, LENGTHS, attention)[0]
    torch.testing.assert_close(found[:, :5], expected)
    assert not found[:, 5:].any()


@pytest.mark.parametrize("gate", ["gru", "aigru", "agru", "augru"])
def test_derivatives(gate: Gate) -> None:
    model, steps = made(gate), Steps.of(LENGTHS, 5)
    names = [name for name, _ in model.named_parameters()]

    def states(rows: Tensor, attention: Tensor, *weights: Tensor) -> Tensor:
        own = None if gate == "gru" else attention.flatten()[steps.rows]
        given = (rows, steps.rows % len(rows), steps, own)
        found: Tensor = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), given)
        return found

    given = [noise(7, 3), noise(5, 5, seed=3).softmax(dim=1), *(weight.detach() for weight in model.parameters())]
    assert torch.autograd.gradcheck(states, [each.requires_grad_() for each in given])
