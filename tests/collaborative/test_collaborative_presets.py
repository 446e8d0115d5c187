"""Presets and defaults of this room against what their sources say: RLMRec's public code, the papers, and ours where they are
silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from braidrec.collaborative import TASK
from braidrec.collaborative.methods.darec import DaRecConfig
from braidrec.collaborative.methods.kar import KARConfig
from braidrec.collaborative.methods.rlmrec import ConConfig, GenConfig
from braidrec.collaborative.models.macridvae import MacridVAEConfig
from braidrec.collaborative.models.netmf import OWN_RANK, NetMFConfig
from braidrec.collaborative.models.prone import ProNEConfig
from braidrec.collaborative.models.sdrl import SDRLConfig
from braidrec.collaborative.models.vaecf import VAECFConfig
from braidrec.collaborative.node_text import TextConfig
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.errors import ConfigError
from braidrec.experiments.darec import ROWS, SMALL
from braidrec.strict import Strict


def resolved(backbone: str, preset: str, enhance: str | None = None) -> RunConfig:
    return resolve(RunRequest(data="-", task="collaborative", backbone=backbone, enhance=enhance, preset=preset), "test")


def differing(settings: Strict, wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {key: getattr(settings, key) for key, value in wanted.items() if getattr(settings, key) != value}


# RLMRec's base configurations on Amazon-book: 32 columns, sums of layers, L2 of all that trains
AUTHORS: Mapping[str, Mapping[str, Any]] = {
    "mf": {"l2": 1e-6},
    "gccf": {"l2": 1e-6, "depth": 2, "self_loop": True},
    "lightgcn": {"l2": 1e-6, "depth": 3, "keep": 0.8, "combine": "sum"},
    "sgl": {
        "l2": 1e-5,
        "depth": 3,
        "keep": 0.8,
        "combine": "sum",
        "drop": "edge",
        "contrast": 0.1,
        "contrast_temperature": 0.2,
        "of_negatives": True,
    },
    "simgcl": {
        "l2": 1e-5,
        "depth": 3,
        "combine": "sum",
        "first_layer": True,
        "noise": 0.9,
        "contrast": 0.1,
        "contrast_temperature": 0.2,
    },
    "dccf": {"l2": 1e-4, "depth": 2, "intents": 128, "contrast": 1e-3, "contrast_temperature": 0.1, "shared_count": True},
    "autocf": {
        "l2": 1e-6,
        "depth": 2,
        "heads": 4,
        "seeds": 100,
        "hidden_hops": 2,
        "refresh": 10,
        "extra": 0.2,
        "uniformity": 5.0,
        "negatives": 0,
    },
}


@pytest.mark.parametrize("name", TASK.backbones)
def test_backbones_of_authors_are_those_of_rlmrec_s_public_code(name: str) -> None:
    config = resolved(name, "authors")
    usual = {"dim": 32, "l2_on": "all"} if name == "autocf" else {"dim": 32, "l2_on": "all", "loss": "bpr", "negatives": 1}
    assert not differing(config.model.backbone, {**usual, **AUTHORS[name]})
    training = {"lr": 1e-3, "weight_decay": 0.0, "batch_size": 4096, "max_epochs": 3000, "average_epochs": 0.0}
    assert not differing(config.training, {**training, "epochs_per_check": 3, "patience": 5})
    assert config.model.monitor == "recall@20"


def test_a_method_changes_nothing_of_its_backbone_s_training() -> None:
    for method in TASK.methods:
        plain, own = resolved("lightgcn", "authors"), resolved("lightgcn", "authors", method)
        assert own.training == plain.training
        assert own.model.backbone == plain.model.backbone


WANTED = [
    (
        DaRecConfig(),
        {
            "weight": 0.1,
            "width": 32,
            "clusters": 5,
            "sample": 4096,
            "uniformity_rows": None,
            "terms": ("orthogonality", "uniformity", "global", "local"),
            "literal": False,
        },
    ),
    (TextConfig(), {"centred": True, "width": 128}),
    (ConConfig(), {"weight": 0.01, "temperature": 0.2}),
    (GenConfig(), {"weight": 0.1, "temperature": 0.5, "masked": 0.15}),
    (KARConfig(), {"shared": 2, "own": 6, "hidden": 128, "fuse": "concat"}),
    (NetMFConfig(), {"factors": 128, "window": 10, "negatives": 1.0, "by": "vertex", "popularity": 0.0}),
    (ProNEConfig(), {"factors": 128, "order": 10, "mu": 0.2, "theta": 0.5, "popularity": 0.0}),
    (VAECFConfig(), {"dim": 128, "hidden": (256,), "dropout": 0.5, "normalised": True, "beta": 0.2}),
    (MacridVAEConfig(), {"facets": 7, "dim": 100, "tau": 0.1, "std": 0.075, "dropout": 0.5, "beta": 0.2, "anneal_epochs": 5.0}),
    (
        SDRLConfig(),
        {
            "hidden": 256,
            "inputs": "ratings",
            "scale": None,
            "unit": False,
            "dropout": 0.0,
            "code": "linear",
            "bias": True,
            "heads": "shared",
            "preference": "l1",
            "match": "bce",
            "reconstruction": 1.0,
            "kl": None,
            "zeros": None,
            "items_per_step": 256,
        },
    ),
]


@pytest.mark.parametrize(("settings", "wanted"), WANTED, ids=lambda each: type(each).__name__)
def test_defaults_are_what_papers_and_their_public_codes_have(settings: Strict, wanted: Mapping[str, Any]) -> None:
    assert not differing(settings, wanted)
    assert OWN_RANK == 256


def test_blocks_of_sdrl_are_two_to_one_to_one_of_128_with_losses_of_weight_one() -> None:
    for preset in ("paper", "authors"):
        config = resolved("sdrl", preset)
        own = {name: (block.size, block.taught) for name, block in config.model.backbone.blocks.items()}
        assert own == {"internal": (64, "categories"), "external": (32, "ratings"), "other": (32, "nothing")}
        assert list(own) == ["internal", "external", "other"]
        assert {(block.weight, block.strength) for block in config.model.backbone.blocks.values()} == {(1.0, 1.0)}
        assert (config.training.batch_size, config.training.weight_decay) == (256, 0.0)


def test_autoencoders_of_authors_rise_and_stop_as_their_sources_do() -> None:
    cornac, liang = resolved("vaecf", "authors").model.backbone, resolved("vaecf", "textbook").model.backbone
    assert not differing(cornac, {"dim": 10, "hidden": (20,), "beta": 1.0, "anneal_epochs": 0.0, "dropout": 0.0})
    assert not differing(liang, {"dropout": 0.5, "beta": 0.2, "normalised": True, "anneal_epochs": 855.0})


# weight and temperature, and for Gen the share that is hidden, on Amazon-book
CON = {
    "gccf": (1e-3, 0.1),
    "lightgcn": (1e-2, 0.2),
    "sgl": (1e-2, 0.5),
    "simgcl": (1e-2, 0.2),
    "dccf": (1e-2, 0.5),
    "autocf": (1e-1, 0.5),
}
GEN = {
    "gccf": (0.1, 0.01, 0.1),
    "lightgcn": (0.15, 0.1, 0.5),
    "sgl": (0.2, 0.1, 0.2),
    "simgcl": (0.05, 0.1, 0.2),
    "dccf": (0.05, 0.1, 0.2),
    "autocf": (0.2, 1.0, 0.5),
}


ENDS = (("con", "rlmrec-con"), ("gen", "rlmrec-gen"))


@pytest.mark.parametrize("backbone", CON)
def test_rows_of_rlmrec_have_the_values_of_its_amazon_book(backbone: str) -> None:
    con, gen = (getattr(ROWS[SMALL][f"{backbone}-{end}"].config().model, name) for end, name in ENDS)
    assert (con.weight, con.temperature) == CON[backbone]
    assert (gen.masked, gen.weight, gen.temperature) == GEN[backbone]


@pytest.mark.parametrize(
    ("backbone", "enhance", "model", "key"),
    [
        ("lightgcn", "darec", {"enhance": {"clusters": 1}}, "clusters"),  # equation 10 divides by K^2 - K
        ("lightgcn", "darec", {"enhance": {"weight": -0.1}}, "weight"),
        ("lightgcn", "darec", {"enhance": {"sample": 3}}, "sample"),
        ("lightgcn", "darec", {"enhance": {"uniformity_rows": 1}}, "uniformity_rows"),
        ("lightgcn", "darec", {"enhance": {"terms": ["globe"]}}, "terms"),
        ("lightgcn", "rlmrec-con", {"enhance": {"temperature": 0}}, "temperature"),
        ("lightgcn", "rlmrec-gen", {"enhance": {"masked": 0}}, "masked"),
        ("lightgcn", "rlmrec-gen", {"enhance": {"masked": 1}}, "masked"),
        ("lightgcn", "kar", {"enhance": {"own": 0}}, "own"),
        ("lightgcn", None, {"keep": 0}, "keep"),
        ("lightgcn", None, {"depth": -1}, "depth"),
        ("sgl", None, {"contrast_temperature": 0}, "contrast_temperature"),
        ("simgcl", None, {"noise": -0.1}, "noise"),
        ("dccf", None, {"intents": 0}, "intents"),
        ("autocf", None, {"extra": 1.5}, "extra"),
        ("autocf", None, {"seeds": 0}, "seeds"),
        ("netmf", None, {"window": 0}, "window"),
        ("prone", None, {"order": 1}, "order"),
        ("vaecf", None, {"dropout": 1}, "dropout"),
        ("vaecf", None, {"hidden": []}, "hidden"),
        ("macridvae", None, {"tau": 0}, "tau"),
        ("sdrl", None, {"dropout": 1}, "dropout"),
        ("sdrl", None, {"blocks": {"internal": {"labelled": 0}}}, "labelled"),
        ("sdrl", None, {"scale": 0}, "scale"),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_key(
    backbone: str, enhance: str | None, model: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{key}\b"):
        resolve(RunRequest(data="-", task="collaborative", backbone=backbone, enhance=enhance, model=model), "run.toml")
