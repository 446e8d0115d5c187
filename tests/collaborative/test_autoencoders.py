"""VAECF and MacridVAE: losses against their formulas written out, facets, annealing, resume, and what a planted world tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import fitted, graph_of, random_graph, recall, two_causes
from torch import nn

from braidrec.collaborative.autoencoding import Annealing, entry_table
from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.models.macridvae import MacridVAE
from braidrec.collaborative.models.macridvae import divergence as macrid_divergence
from braidrec.collaborative.models.vaecf import VAECF, divergence
from braidrec.collaborative.scoring import training_graph
from braidrec.collaborative.user_rows import UserBatch
from braidrec.config import RunRequest, resolve
from braidrec.errors import ConfigError, RunError
from braidrec.training.config import TrainingConfig
from braidrec.training.contracts import CheckpointEvery, Hardware
from braidrec.training.loop import train
from braidrec.training.stages import Stage, make_phase

NAMES = ("vaecf", "macridvae")
SMALL: Mapping[str, Mapping[str, Any]] = {"vaecf": {"dim": 4, "hidden": (6, 5)}, "macridvae": {"dim": 4, "facets": 3}}
QUIET = {"dropout": 0.0}


def stage_of(name: str, graph: Graph, preset: str = "ours", **values: Any) -> Stage:
    request = RunRequest(data="-", task="collaborative", backbone=name, preset=preset, model={"backbone": values})
    config = resolve(request, "test")
    torch.manual_seed(0)
    [stage] = config.chosen.backbone.build(
        config.model.backbone, Parts(graph.num_items, graph, num_users=graph.num_users, seed=5)
    )
    assert isinstance(stage, Stage)
    return stage


def model_of(name: str, graph: Graph, **values: Any) -> Any:
    return stage_of(name, graph, **{**SMALL[name], **values}).module


def batch_of(graph: Graph, *users: int) -> UserBatch:
    rows = np.array(users or range(1, graph.num_users + 1))
    return UserBatch(torch.from_numpy(rows), Baskets.of_rows(graph.matrix[rows], rows))


def numbers(model: Any, batch: UserBatch) -> dict[str, float]:
    return {name: loss.item() for name, loss in model.step(batch).losses().items()}


def fit(stage: Stage, graph: Graph, epochs: int, lr: float = 1e-2) -> MatrixModel:
    """By Adam, in batches of 64."""
    training = TrainingConfig(batch_size=64)
    batches, module = cast(Any, stage.module).batches(graph, training, 1), cast(Any, stage.module)
    optimiser = torch.optim.Adam(module.parameters(), lr)
    for _ in range(epochs):
        for batch in batches:
            losses = module.step(batch).losses()
            optimiser.zero_grad()
            torch.stack([stage.weights[name] * losses[name] for name in stage.weights]).sum().backward()
            optimiser.step()
    return cast(MatrixModel, module.eval())


# VAECF -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [True, False])
def test_vaecf_is_its_formula_on_dense_rows(normalised: bool) -> None:
    graph = random_graph()
    model = model_of("vaecf", graph, normalised=normalised, beta=1.0, anneal_epochs=0.0, **QUIET)
    batch = batch_of(graph)
    state = model.generators()["draws"].get_state()
    losses = numbers(model, batch)
    met = batch.baskets.dense(16)
    rows = F.normalize(met, dim=1) if normalised else met
    hidden = model.inner[:-1]((rows @ model.entry + model.bias).tanh())
    mean, logarithm = model.inner[-1](hidden).chunk(2, dim=1)
    drawn = torch.randn(mean.shape, generator=torch.Generator().set_state(state))
    likely = model.outer(mean + drawn * (0.5 * logarithm).exp()).softmax(dim=1)
    wanted = -(met[:, 1:] * (likely + 1e-10).log()).sum(1).mean()
    assert losses["reconstruction"] == pytest.approx(wanted.item(), rel=1e-5)
    spread = (0.5 * logarithm).exp()
    wanted = (-0.5 * (1 + 2 * spread.log() - mean.square() - spread.square()).sum(1)).mean()
    assert losses["kl"] == pytest.approx(wanted.item(), rel=1e-4)
    scores = model.eval().scores(batch.baskets)
    assert torch.allclose(scores[:, 1:], model.outer(mean), atol=1e-5)
    assert not scores[:, 0].any()


def test_vaecf_by_hand() -> None:
    """Nothing trained, all weights 0: every item is as likely, and the KL divergence of N(0, 1) is 0."""
    graph = graph_of(np.array([[1, 1], [1, 2], [2, 2]]), 2, 4)
    model = model_of("vaecf", graph, **QUIET)
    for weight in model.parameters():
        nn.init.zeros_(weight)
    losses = numbers(model, batch_of(graph))
    assert losses["reconstruction"] == pytest.approx((2 + 1) / 2 * math.log(4), rel=1e-5)
    assert losses["kl"] == 0
    assert float(divergence(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))) == pytest.approx(2.5)
    assert float(divergence(torch.zeros(1, 1), torch.full((1, 1), math.log(4.0)))) == pytest.approx((4 - 1 - math.log(4)) / 2)


def test_vaecf_drops_what_it_reads_and_keeps_its_mean() -> None:
    graph = random_graph()
    model, batch = model_of("vaecf", graph, dropout=0.75, normalised=False), batch_of(graph)
    drawn = torch.Generator().set_state(model.generators()["draws"].get_state())
    found = model.encoded(batch.baskets)[0]
    rows = batch.baskets.dense(16)
    rows[batch.baskets.owner, batch.baskets.item] = 4.0 * (torch.rand(len(batch.baskets.item), generator=drawn) >= 0.75)
    wanted = model.inner((rows @ model.entry + model.bias).tanh()).chunk(2, dim=1)[0]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_vaecf_has_no_shares() -> None:
    model = model_of("vaecf", random_graph())
    with pytest.raises(RunError, match="vaecf reads all that somebody has at once, so no part of a score is a single item's"):
        model.shares(torch.tensor([1]), 2)


# MacridVAE ---------------------------------------------------------------------------------------------------------------


def test_macridvae_is_its_formula_facet_by_facet() -> None:
    graph = random_graph()
    model = model_of("macridvae", graph, sampled=False, beta=1.0, anneal_epochs=0.0, std=0.3, **QUIET)
    batch = batch_of(graph)
    state = model.generators()["draws"].get_state()
    losses = numbers(model, batch)
    met, tau = batch.baskets.dense(16), model.config.tau
    items, facets = F.normalize(model.items, dim=1), F.normalize(model.facets, dim=1)
    belongs = (items @ facets.T / tau).softmax(dim=1)
    assert torch.allclose(belongs.sum(1), torch.ones(16))
    drawn = torch.randn(len(met), 3, 4, generator=torch.Generator().set_state(state))
    likely, means, divergences = torch.zeros(len(met), 15), torch.zeros(len(met), 15), torch.zeros(len(met))
    for facet in range(3):
        hidden = (F.normalize(met * belongs[:, facet], dim=1) @ model.entry + model.bias).tanh()
        first, second = model.inner(hidden).chunk(2, dim=1)
        mean, spread = F.normalize(first, dim=1), -second
        vector = F.normalize(mean + drawn[:, facet] * 0.3 * (spread / 2).exp(), dim=1)
        likely += belongs[1:, facet] * (vector @ items[1:].T / tau).exp()
        means += belongs[1:, facet] * (mean @ items[1:].T / tau).exp()
        divergences += 0.5 * (-spread + spread.exp() - 1).sum(1)
    wanted = -(met[:, 1:] * likely.log().log_softmax(dim=1)).sum(1).mean()
    assert losses["reconstruction"] == pytest.approx(wanted.item(), rel=1e-4)
    assert losses["kl"] == pytest.approx(divergences.mean().item(), rel=1e-4)
    assert torch.allclose(model.eval().scores(batch.baskets)[:, 1:], means.log(), atol=1e-4)


def test_macridvae_drops_of_each_facet_what_it_reads_there() -> None:
    graph = random_graph()
    model, batch = model_of("macridvae", graph, dropout=0.75, sampled=False), batch_of(graph)
    drawn = torch.Generator().set_state(model.generators()["draws"].get_state())
    belongs = model.belonging()[1]
    found, baskets = model.encoded(batch.baskets, belongs)[0], batch.baskets
    kept = 4.0 * (torch.rand(len(baskets.item), 3, generator=drawn) >= 0.75)
    for facet in range(3):
        rows, left = F.normalize(baskets.dense(16) * belongs[:, facet].exp(), dim=1), baskets.dense(16)
        left[baskets.owner, baskets.item] = kept[:, facet]
        first = model.inner((rows * left @ model.entry + model.bias).tanh()).chunk(2, dim=1)[0]
        assert torch.allclose(found[:, facet], F.normalize(first, dim=1), atol=1e-5)


def test_a_sharp_softmax_stays_finite() -> None:
    graph = random_graph()
    model = model_of("macridvae", graph, tau=1e-3, std=0.0, **QUIET)
    losses = numbers(model, batch_of(graph))
    assert all(math.isfinite(loss) for loss in losses.values())
    assert bool(torch.isfinite(model.eval().scores(batch_of(graph).baskets)).all())


def test_facets_are_a_softmax_and_a_sample_of_it_in_training() -> None:
    model: MacridVAE = model_of("macridvae", random_graph(), sampled=True)
    once, again = (model.belonging()[1].exp() for _ in range(2))
    assert torch.allclose(once.sum(1), torch.ones(16))
    assert not torch.equal(once, again)
    with torch.no_grad():
        mean = torch.stack([model.belonging()[1].argmax(dim=1) for _ in range(4000)])
        model.eval()
        wanted = model.belonging()[1].exp()
    for facet in range(3):  # the largest of logits with Gumbel noise falls to each facet as often as the softmax says
        assert torch.allclose((mean == facet).float().mean(0), wanted[:, facet], atol=0.04)
    assert torch.equal(model.belonging()[1].exp(), wanted)


def test_shares_are_what_facets_have_times_what_items_are_in_them() -> None:
    model: MacridVAE = model_of("macridvae", random_graph()).eval()
    items, target = torch.tensor([1, 4, 9]), 6
    with torch.no_grad():
        shares, text = model.shares(items, target)
        table, belongs = model.belonging()
        vectors = model.encoded(Baskets.of([items.numpy()]), belongs)[0][0]
    assert text is None
    assert float(shares.sum()) == pytest.approx(1.0)
    part = belongs[target].exp() * (vectors @ table[target] / model.config.tau).exp()
    own = belongs[items].exp().square()
    assert torch.allclose(shares, (own / own.sum(0) * part / part.sum()).sum(1), atol=1e-5)


def test_divergence_of_macridvae_by_hand() -> None:
    assert float(macrid_divergence(torch.zeros(1, 2, 3))) == 0
    assert float(macrid_divergence(torch.ones(1, 2, 3))) == pytest.approx(6 * 0.5 * (math.e - 2))


def test_more_facets_than_items_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"macridvae: model\.facets = 9 with 8 items, of which each facet should have some"):
        stage_of("macridvae", random_graph(items=8), facets=9)


# both --------------------------------------------------------------------------------------------------------------------


@given(weight=st.floats(0.01, 2.0), epochs=st.floats(0.5, 20.0), batch=st.integers(1, 50))
def test_annealing_rises_evenly_to_its_weight_and_stays_there(weight: float, epochs: float, batch: int) -> None:
    annealing, people = Annealing(weight, epochs), 100
    shares = [float(annealing.share(batch, people)) for _ in range(40)]
    for step, share in enumerate(shares):
        assert share * weight == pytest.approx(min(weight, step * batch / people / epochs), rel=1e-4, abs=1e-6)
    assert float(Annealing(weight, 0.0).share(batch, people)) == 1
    assert float(Annealing(0.0, epochs).share(batch, people)) == 1


def test_first_layers_start_as_a_linear_layer_draws() -> None:
    found = entry_table(400, 50, None).detach()
    assert not found[0].any()
    assert float(found.abs().max()) == pytest.approx(400**-0.5, rel=0.01)
    assert float(found[1:].square().mean()) == pytest.approx(1 / 400 / 3, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_divergence_counts_from_nothing_on_up_to_beta(name: str) -> None:
    graph = random_graph()
    stage = stage_of(name, graph, **SMALL[name], beta=0.4, anneal_epochs=5.0, **QUIET)
    assert stage.weights == {"reconstruction": 1.0, "kl": 0.4}
    whole: Any = model_of(name, graph, beta=0.4, anneal_epochs=0.0, **QUIET)
    batch, model = batch_of(graph, *np.flatnonzero(graph.user_counts).tolist()), cast(Any, stage.module)
    whole.load_state_dict({**model.state_dict(), "annealing.seen": torch.zeros((), dtype=torch.int64)})
    found = [numbers(model.eval(), batch)["kl"] for _ in range(4)]
    # an epoch a step: its weight is 0, .2, .4 and no more, of which beta is a factor of its own
    full = numbers(whole.eval(), batch)["kl"]
    assert found == pytest.approx([0.0, 0.5 * full, full, full], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_nobody_has_and_who_has_nothing_are_no_trouble(name: str) -> None:
    graph = graph_of(np.array([[1, 1], [1, 2], [2, 2], [2, 3]]), 5, 6)  # users 3 to 5 and items 4 to 6 have nothing
    stage = stage_of(name, graph, **SMALL[name])
    before = cast(Any, stage.module).entry.detach().clone()
    assert not before[4:].any()
    model = fit(stage, graph, 3)
    found = model.scores(Baskets.of([np.array(each, np.int32) for each in ((1, 6), (), (1,))]))
    assert bool(torch.isfinite(found).all())
    assert not cast(Any, model).entry[4:].any()
    if name == "vaecf":  # an item that says nothing; at length 1 it makes the others less
        plain = fit(stage_of(name, graph, **SMALL[name], normalised=False), graph, 3)
        both = plain.scores(Baskets.of([np.array(each, np.int32) for each in ((1, 6), (1,))]))
        assert torch.allclose(both[0], both[1], atol=1e-6)
    for batch in cast(Any, stage.module).batches(graph, TrainingConfig(batch_size=1), 0):
        assert int(batch.user) in (1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_training_draws_and_answers_do_not(name: str) -> None:
    graph = random_graph()
    model, batch = model_of(name, graph), batch_of(graph, 1, 2, 3)
    first, second = (numbers(model, batch)["reconstruction"] for _ in range(2))
    assert first != second
    model.eval()
    assert torch.equal(model.scores(batch.baskets), model.scores(batch.baskets))
    alone = torch.cat([model.scores(batch_of(graph, user).baskets) for user in (1, 2, 3)])
    assert torch.allclose(model.scores(batch.baskets), alone, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_no_trouble(name: str) -> None:
    graph = random_graph()
    model, batch = model_of(name, graph), batch_of(graph)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.step(batch).losses()
        losses["reconstruction"].backward()
        assert torch.isfinite(model.eval().scores(batch.baskets)).all()
    assert torch.isfinite(model.entry.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_they_find_what_popularity_does_not(name: str) -> None:
    data, _ = two_causes()
    graph = training_graph(data)
    values = {"dim": 32, "hidden": (64,)} if name == "vaecf" else {"dim": 32, "facets": 2}
    model = fit(stage_of(name, graph, **values, dropout=0.2, beta=0.01), graph, 30)
    assert recall(data, model) > recall(data, fitted("popularity", graph)) + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_broke_off_ends_as_one_that_did_not(name: str, tmp_path: Path) -> None:
    """Batches, draws and annealing go on where they stood."""
    graph, training = random_graph(), TrainingConfig(batch_size=16, max_epochs=4, checks_per_epoch=1, patience=10)

    def trained(folder: Path, breaks_at: int | None = None) -> dict[str, torch.Tensor]:
        stage = stage_of(name, graph, **SMALL[name], anneal_epochs=20.0)
        module = cast(Any, stage.module)
        if breaks_at is not None:
            plain, calls = module.step, iter(range(100))

            def step(batch: UserBatch) -> Any:
                if next(calls) == breaks_at:
                    raise InterruptedError
                return plain(batch)

            module.step = step
        phase = make_phase(stage, training, module.batches(graph, training, 3), lambda module: {"x": 0.0}, monitor="x")
        every = CheckpointEvery(batches=1, seconds=None)
        train([phase], folder, seed=1, hardware=Hardware(accelerator="cpu"), checkpoint_every=every, show_progress=False)
        return {key: value.clone() for key, value in module.state_dict().items()}

    whole = trained(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        trained(tmp_path / "broken", breaks_at=7)
    resumed = trained(tmp_path / "broken")
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_what_their_sources_say(name: str) -> None:
    def of(preset: str) -> Any:
        return resolve(RunRequest(data="-", task="collaborative", backbone=name, preset=preset), "test")

    authors = of("authors")
    if name == "vaecf":
        own = authors.model.backbone
        assert (own.dim, own.hidden, own.dropout, own.beta, own.normalised) == (10, (20,), 0.0, 1.0, False)
        assert (authors.training.batch_size, authors.training.max_epochs, authors.training.lr) == (100, 100, 1e-3)
        liang = of("textbook")
        assert (liang.model.backbone.hidden, liang.model.backbone.dim, liang.training.batch_size) == ((600,), 200, 500)
    else:
        own = authors.model.backbone
        assert (own.facets, own.dim, own.tau, own.std, own.beta, own.sampled) == (7, 100, 0.1, 0.075, 0.2, True)
        assert (authors.training.batch_size, authors.training.max_epochs) == (500, 200)
    assert authors.training.weight_decay == 0


def test_the_two_are_modules_that_a_run_keeps_as_they_are() -> None:
    for name, kind in (("vaecf", VAECF), ("macridvae", MacridVAE)):
        model = model_of(name, random_graph())
        assert isinstance(model, kind)
        assert model.kept() is model
        assert model.num_rows == 16
