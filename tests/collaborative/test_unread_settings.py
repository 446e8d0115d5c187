"""Settings that nothing would read: no preset has one, and who writes one down is told why."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from small_graphs import batch_of
from small_worlds import random_graph, random_text

from braidrec.collaborative import TASK
from braidrec.collaborative.config import NodesConfig
from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.graph_model import GraphModel
from braidrec.config import RunRequest, resolve
from braidrec.errors import ConfigError
from braidrec.layers.text import TextTable

GRAPH = random_graph(30, 20, 0.25, 2)


def model(name: str, method: str | None = None, **settings: Any) -> GraphModel:
    """Built from settings that nobody looked through."""
    torch.manual_seed(0)
    spec, text = TASK.backbones[name], TextTable(random_text(GRAPH.num_items, 6))
    parts = Parts(GRAPH.num_items, GRAPH, text, num_users=GRAPH.num_users, text_width=6)
    enhancer = None if method is None else (TASK.methods[method], TASK.methods[method].config())
    return GraphModel(spec.config(**{"dim": 4, **settings}), parts, spec, enhancer)


CHOICES = [
    *(((name, ()), preset) for name, preset in product((*TASK.backbones, *TASK.models), TASK.presets)),
    *(
        ((name, (method,)), preset)
        for name, method, preset in product(TASK.backbones, TASK.methods, TASK.presets)
        if preset not in TASK.alone
    ),
]


@pytest.mark.parametrize(("chosen", "preset"), CHOICES, ids=lambda each: str(each) if isinstance(each, str) else each[0])
def test_no_preset_sets_what_nothing_reads(chosen: tuple[str, tuple[str, ...]], preset: str) -> None:
    backbone, enhance = chosen
    config = resolve(RunRequest(data="-", task="collaborative", backbone=backbone, enhance=enhance, preset=preset), "test")
    for _, settings in config.chosen.parts(config.model):
        usual = type(settings)()
        assert settings.idle().keys() <= set(type(settings).model_fields)
        assert not [key for key in settings.idle() if getattr(settings, key) != getattr(usual, key)]


CASES = [
    ("lightgcn", "darec", {"enhance": {"uniformity_rows": 64}}, "darec.uniformity_rows", "terms has no 'uniformity'"),
    ("lightgcn", "darec", {"enhance": {"terms": ["global"], "clusters": 8}}, "darec.clusters", "terms has no 'local'"),
    ("lightgcn", "darec", {"enhance": {"terms": ["orthogonality"], "literal": True}}, "darec.literal", "neither 'global' nor"),
    ("lightgcn", "darec", {"enhance": {"terms": [], "weight": 2.0}}, "darec.weight", "terms is empty"),
    ("lightgcn", "darec", {"enhance": {"weight": 0, "sample": 64}}, "darec.sample", "weight = 0"),
    (
        "lightgcn",
        "darec",
        {"enhance": {"terms": ["uniformity"], "uniformity_rows": 2048, "sample": 1024}},
        "darec.uniformity_rows",
        "a step has sample = 1024 rows",
    ),
    ("lightgcn", "rlmrec-con", {"enhance": {"weight": 0, "temperature": 0.5}}, "rlmrec-con.temperature", "weight = 0"),
    ("lightgcn", "rlmrec-gen", {"enhance": {"weight": 0, "masked": 0.5}}, "rlmrec-gen.masked", "weight = 0"),
    ("lightgcn", None, {"l2": 0, "l2_on": "batch"}, "backbone.l2_on", "l2 = 0"),
    ("lightgcn", None, {"l2_on": "backbone"}, "backbone.l2_on", "without a method there are no other networks"),
    ("lightgcn", None, {"l2": 0, "l2_on": "backbone"}, "backbone.l2_on", "l2 = 0"),
    ("lightgcn", None, {"depth": 0, "keep": 0.5}, "backbone.keep", "depth = 0"),
    ("gccf", None, {"depth": 0, "self_loop": False}, "backbone.self_loop", "depth = 0"),
    ("sgl", None, {"contrast": 0, "keep": 0.5}, "backbone.keep", "contrast = 0"),
    ("sgl", None, {"of_negatives": False}, "backbone.of_negatives", "negatives = 0"),
    ("simgcl", None, {"contrast": 0, "noise": 0.5}, "backbone.noise", "contrast = 0"),
    ("simgcl", None, {"depth": 1, "first_layer": False, "combine": "mean"}, "backbone.combine", "is one layer"),
    ("dccf", None, {"contrast": 0, "shared_count": True}, "backbone.shared_count", "contrast = 0"),
    ("ease", None, {"text": "none", "weight": 3.0}, "backbone.weight", "text = 'none'"),
    ("ease", None, {"text": "stack", "pull": 3.0}, "backbone.pull", "text = 'stack'"),
    ("ease", None, {"text": "regularise", "rank": 16}, "backbone.rank", "text = 'regularise'"),
    ("netmf", None, {"rank": 16, "memory_gib": 1.0}, "backbone.memory_gib", "rank = 16"),
    ("gf-cf", None, {"alpha": 0, "factors": 16}, "backbone.factors", "alpha = 0"),
    ("vaecf", None, {"beta": 0, "anneal_epochs": 3.0}, "backbone.anneal_epochs", "beta = 0"),
    ("macridvae", None, {"beta": 0, "anneal_epochs": 3.0}, "backbone.anneal_epochs", "beta = 0"),
    ("sdrl", None, {"bias": False}, "backbone.bias", "match = 'softmax'"),
    ("sdrl", None, {"reconstruction": 0, "zeros": 2.0}, "backbone.zeros", "reconstruction = 0"),
]


@pytest.mark.parametrize(("backbone", "enhance", "settings", "key", "why"), CASES, ids=lambda each: str(each)[:40])
def test_what_a_request_sets_for_nothing_is_refused(
    backbone: str, enhance: str | None, settings: dict[str, Any], key: str, why: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(RunRequest(data="-", backbone=backbone, enhance=enhance, model=settings), "run.toml")
    assert str(caught.value).startswith(f"run.toml: model.{key} = ")
    assert "would change nothing: " in str(caught.value)
    assert why in str(caught.value)
    assert str(caught.value).endswith("; drop it, or change what stands in its way")


def test_what_a_preset_sets_is_nobody_s_mistake() -> None:
    """`textbook` has an L2 of the batch; without any L2 its kind says nothing, and the request did not name it."""
    request = {"data": "-", "backbone": "lightgcn", "preset": "textbook"}
    assert resolve(RunRequest(**request, model={"l2": 0}), "test").model.backbone.idle() == {"l2_on": "l2 = 0"}
    resolve(RunRequest(**request, model={"l2": 0, "l2_on": "all"}), "test")  # the default is nobody's mistake, either


@pytest.mark.parametrize(
    ("name", "settings", "key", "values"),
    [
        ("sgl", {"contrast": 0.0}, "contrast_temperature", (0.1, 0.9)),
        ("sgl", {"depth": 0}, "keep", (0.2, 0.9)),
        ("simgcl", {"contrast": 0.0}, "noise", (0.1, 0.9)),
        ("simgcl", {"depth": 1, "first_layer": False}, "combine", ("sum", "mean")),
        ("dccf", {"contrast": 0.0}, "shared_count", (False, True)),
        ("lightgcn", {"depth": 0}, "keep", (0.2, 1.0)),
        ("gccf", {"depth": 0}, "self_loop", (False, True)),
        ("lightgcn", {"l2": 0.0}, "l2_on", ("all", "backbone", "batch")),
    ],
)
def test_what_is_said_to_set_nothing_changes_no_gradient(
    name: str, settings: dict[str, Any], key: str, values: tuple[Any, ...]
) -> None:
    found = []
    for value in values:
        one = model(name, **settings, **{key: value})
        assert key in one.config.idle()
        losses = one.step(batch_of(GRAPH)).losses()
        torch.stack([one.weights[loss] * term for loss, term in losses.items()]).sum().backward()
        found.append(one.nodes.grad)
    assert all(torch.allclose(found[0], each, atol=1e-7) for each in found[1:])


def test_negatives_that_no_loss_reads_are_not_drawn() -> None:
    for name in ("mf", "lightgcn", "gccf", "simgcl", "dccf"):
        with pytest.raises(ConfigError, match=r"model.negatives = 3: no loss of this model reads .* drop negatives"):
            model(name, negatives=3)
    with pytest.raises(ConfigError, match=r"model.negatives = 1: no loss"):
        model("autocf", negatives=1)
    with pytest.raises(ConfigError, match=r"model.negatives = 3: no loss"):
        model("sgl", negatives=3, of_negatives=False)
    for name, settings in (("mf", {"loss": "bpr"}), ("mf", {"l2_on": "batch"}), ("sgl", {}), ("autocf", {"l2_on": "batch"})):
        assert model(name, negatives=3, **settings).config.negatives == 3


def test_a_method_may_read_them() -> None:
    assert model("lightgcn", "rlmrec-con", negatives=3).config.negatives == 3
    with pytest.raises(ConfigError, match=r"a method that does such as rlmrec-con"):
        model("lightgcn", "kar", negatives=3)


def test_l2_of_the_backbone_leaves_a_method_s_networks_out() -> None:
    whole, own = model("lightgcn", "darec"), model("lightgcn", "darec", l2_on="backbone")
    assert whole.enhancer is not None
    mlps = sum(float(each.detach().square().sum()) for each in whole.enhancer.parameters())
    both = [float(each._squares(batch_of(GRAPH)).detach()) for each in (whole, own)]
    assert mlps > 1
    assert both[1] == pytest.approx(float(own.nodes.detach().square().sum()), rel=1e-5)
    assert both[0] == pytest.approx(float(whole.nodes.detach().square().sum()) + mlps, rel=1e-5)
    assert NodesConfig().l2_on == "all"
