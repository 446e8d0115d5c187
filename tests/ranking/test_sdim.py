"""SDIM against its formula, by hand, and what of it is drawn and kept."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_backbones import EXTRA, SIZES, behaviours, mlp_size, noise, size
from tiny_ranking import DIM, LENGTH, batch, ranker, with_history
from torch import Tensor

from braidrec.errors import ConfigError
from braidrec.ranking.backbones.sdim import SDIM, SDIMConfig
from braidrec.ranking.contracts import RankingInput, Sizes
from braidrec.strict import parse


def built(sizes: Sizes = SIZES, **settings: Any) -> SDIM:
    torch.manual_seed(0)
    return SDIM(SDIMConfig.model_validate(settings), sizes).eval()


@pytest.mark.parametrize("history_fields", ["id", "all"])
def test_it_is_its_formula(history_fields: str) -> None:
    model, met = built(EXTRA, history_fields=history_fields, groups=6, bits=2), behaviours()
    given = RankingInput(noise(5, 4, DIM), noise(5, 3, DIM, seed=1), None, met)
    of = (lambda rows: rows[:, 0]) if history_fields == "id" else (lambda rows: rows.flatten(1))
    interest, labels = [], []
    for row in range(5):
        q, kept = of(met.target)[row], met.past.mask[row]
        sums, mixes = torch.zeros(6, len(q)), torch.zeros(6, DIM)
        for group, planes in enumerate(model.planes):
            near = [
                (k, signal)
                for k, signal in zip(of(met.items)[met.past.index[row, kept]], met.past.signals[row, kept], strict=True)
                if torch.equal(planes @ k > 0, planes @ q > 0)
            ]
            if near:
                total = torch.stack([k for k, _ in near]).sum(dim=0)
                sums[group] = total / total.norm()
                mixes[group] = met.embed.signals(torch.stack([signal for _, signal in near])).mean(dim=0)
        interest.append(sums.mean(dim=0))
        labels.append(mixes.mean(dim=0))
    assert not interest[3].any()  # an empty history
    parts = [given.fields.flatten(1), given.extras.flatten(1), torch.stack(interest), torch.stack(labels)]
    torch.testing.assert_close(model(given), model.mlp(torch.cat(parts, dim=1)).squeeze(1), atol=1e-5, rtol=1e-5)


def test_a_history_of_the_candidate_alone_is_its_direction() -> None:
    model, met = built(), behaviours()
    same = replace(met, candidate=met.past.index[:, 0])
    only = replace(met.past, index=met.past.index[:, :1], mask=met.past.mask[:, :1], signals=met.past.signals[:, :1])  # type: ignore[type-var]
    u, labels = model._interest(replace(same, past=only))
    some = only.mask[:, 0]
    expected = same.target[:, 0] / same.target[:, 0].norm(dim=1, keepdim=True)
    torch.testing.assert_close(u[some], expected[some])
    torch.testing.assert_close(labels[some], met.embed.signals(only.signals[some, 0]))
    assert not u[~some].any()
    assert not labels[~some].any()


def test_parameters_and_planes() -> None:
    sizes = Sizes(8, 8, 3, 32, seed=5)
    model = built(sizes)
    assert size(model) == mlp_size(16 * 32 + 64, out=True)
    assert model.planes.shape == (16, 3, 32)
    assert "planes" in model.state_dict()
    torch.manual_seed(9)
    assert torch.equal(SDIM(SDIMConfig(), sizes).planes, model.planes)  # whatever the global generator stands at
    assert not torch.equal(SDIM(SDIMConfig(), replace(sizes, seed=6)).planes, model.planes)
    assert size(SDIM(SDIMConfig(), replace(sizes, own_history=False))) == mlp_size(16 * 32, out=True)
    before = torch.get_rng_state()
    mlp = [weight.clone() for weight in built(sizes, groups=2).mlp.layers[2].parameters()]
    torch.set_rng_state(before)
    assert all(torch.equal(*pair) for pair in zip(mlp, built(sizes, groups=4).mlp.layers[2].parameters(), strict=True))


@pytest.mark.parametrize("length", [0, 3])
def test_histories_of_nothing_and_windows_wider_than_any(length: int) -> None:
    model, one = ranker("sdim", "plain"), batch(8, lengths=torch.full((8,), length), length=50)
    loss = model.step(one).losses()["prediction"]
    assert math.isfinite(loss.item())
    assert all(
        found.isfinite().all()
        for found in torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
        if found is not None
    )


def test_the_order_of_behaviours_is_irrelevant_and_who_they_are_is_not() -> None:
    model, one = ranker("sdim", "plain").eval(), batch(12, lengths=torch.full((12,), LENGTH))
    logits = model(one)
    back = with_history(one, items=one.history.items.flip(1), signals=one.history.signals.flip(1))
    torch.testing.assert_close(model(back), logits)
    others = with_history(one, items=one.history.items.roll(1, 0))
    assert (model(others) - logits).abs().max() > 1e-6


def test_no_gradient_goes_through_the_hash() -> None:
    model, met = built(), behaviours()
    target: Tensor = met.target.clone().requires_grad_()
    vars(met)["target"] = target
    u, _ = model._interest(met)
    assert not u.requires_grad


@pytest.mark.parametrize(("key", "value"), [("bits", 9), ("bits", 0), ("groups", 0)])
def test_sizes_that_make_no_code_are_refused(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{key}.*{value}"):
        parse(SDIMConfig, {key: value}, "x")
