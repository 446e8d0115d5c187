"""Encoders by name: ours, those of other packages, and settings that lead to them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import small_runs
from braidrec.errors import ConfigError
from braidrec.knowledge.encoders import ENCODERS, AnyEncoder, encoder_config, make_encoder
from braidrec.knowledge.encoders.base import EncoderConfig
from braidrec.knowledge.encoders.tfidf import HashedTfidfEncoder, TfidfConfig
from braidrec.runs.knowledge import KnowledgeBases, KnowledgeSettings, build, nearest, read_settings
from braidrec.strict import Strict, parse

OWN = ["sentence-transformers", "causal-lm", "llm2vec", "endpoint", "tfidf"]
LENGTHS = """
from typing import Literal
import numpy as np
from braidrec.knowledge.encoders.base import EncoderConfig
from braidrec.registry import Spec
from braidrec.strict import Strict


class LengthsConfig(EncoderConfig):
    kind: Literal["lengths"] = "lengths"
    width: int = 3


class Lengths:
    pooling, revision, name = "none", "1", "lengths"

    def __init__(self, config):
        self.width = config.width

    def encode(self, texts):
        return np.array([[len(text)] * self.width for text in texts], np.float32).reshape(len(texts), self.width)


class PlainConfig(Strict):
    kind: Literal["plain"] = "plain"


SPEC, PLAIN = Spec("lengths", "Lengths", LengthsConfig, Lengths), Spec("plain", "Plain", PlainConfig, Lengths)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with two encoders, one of which has a config of the wrong kind."""
    folder = tmp_path / "site"
    (folder / "braid_lengths-1.0.dist-info").mkdir(parents=True)
    (folder / "braid_lengths-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: braid-lengths\nVersion: 1.0\n"
    )
    (folder / "braid_lengths-1.0.dist-info" / "entry_points.txt").write_text(
        "[braidrec.encoders]\nlengths = braid_lengths:SPEC\nplain = braid_lengths:PLAIN\n"
    )
    (folder / "braid_lengths.py").write_text(LENGTHS)
    monkeypatch.syspath_prepend(str(folder))
    vars(ENCODERS).pop("_plugins", None)
    yield
    vars(ENCODERS).pop("_plugins", None)
    for name in ("lengths", "plain"):
        ENCODERS._found.pop(name, None)
    sys.modules.pop("braid_lengths", None)


def settings(**encoder: object) -> KnowledgeSettings:
    return parse(KnowledgeSettings, {"encoder": encoder, "prompt": {"fields": ["title"]}}, "knowledge.json")


def test_each_of_ours_is_registered_by_its_kind() -> None:
    assert [name for name in ENCODERS if ENCODERS.origin(name) == "braidrec"] == OWN
    for name in OWN:
        config = ENCODERS[name].config
        assert issubclass(config, EncoderConfig)
        assert get_args(config.model_fields["kind"].annotation) == (name,)
        assert config.model_fields["kind"].default == name


def test_names_cost_nothing() -> None:
    heavy = "import sys, braidrec.knowledge.encoders as e; print(len(e.ENCODERS), sorted({'torch', 'sentence_transformers', "
    heavy += "'transformers', 'httpx', 'sklearn', 'braidrec.knowledge.encoders.tfidf'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert found.stdout.split(maxsplit=1)[1].strip() == "[]"
    assert int(found.stdout.split()[0]) >= len(OWN)


def test_settings_keep_their_type_and_their_order_in_the_file() -> None:
    found = settings(kind="tfidf", width=8)
    assert found.encoder == TfidfConfig(width=8)
    assert json.dumps(found.model_dump()["encoder"]) == '{"kind": "tfidf", "width": 8, "seed": 0}'
    assert settings(**found.model_dump()["encoder"]) == found
    assert KnowledgeSettings(encoder=TfidfConfig(width=8), prompt=found.prompt) == found
    assert list(settings(kind="causal-lm", model="x").model_dump()["encoder"]) == [
        "model",
        "revision",
        "precision",
        "device",
        "max_tokens",
        "batch_tokens",
        "kind",
    ]
    assert isinstance(make_encoder(found.encoder), HashedTfidfEncoder)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"kind": "tfdif"}, r"knowledge.json: unknown text encoder 'tfdif' \(did you mean 'tfidf'\?\)"),
        ({"kind": "tfidf", "widht": 8}, r"knowledge.json: .*unknown key 'encoder.widht' \(did you mean 'width'\?\)"),
        ({"kind": "tfidf", "width": 1}, r"'encoder.width' = 1: input should be greater than or equal to 2"),
        ({"kind": "causal-lm"}, "required key 'encoder.model' is missing"),
        ({"width": 8}, r"name its kind \(accepted: causal-lm, endpoint"),
        ({"kind": 3}, r"name its kind \(accepted: causal-lm, endpoint"),
    ],
)
def test_wrong_settings_are_refused(encoder: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**encoder)


def test_a_key_in_the_settings_is_in_no_message() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'encoder\.key'") as caught:
        settings(kind="endpoint", url="https://x/v1", model="m", width=3, key="sk-secret")
    assert "sk-secret" not in str(caught.value)


def test_something_else_than_settings_is_no_encoder() -> None:
    class Holder(Strict):
        encoder: AnyEncoder

    with pytest.raises(ConfigError, match="'encoder' = 3: input should be a valid dictionary or instance of EncoderConfig"):
        parse(Holder, {"encoder": 3}, "test")


@pytest.mark.usefixtures("plugin")
def test_an_encoder_of_another_package_fills_a_knowledge_base(tmp_path: Path) -> None:
    data, folder = small_runs.dataset(), tmp_path / "kb"
    assert "120 texts encoded" in build(data.path, folder, "lengths")
    assert read_settings(folder).encoder.model_dump() == {"kind": "lengths", "width": 3}
    assert "0 texts encoded" in build(data.path, folder, "lengths")
    vectors = KnowledgeBases.open(folder).matrix(data)
    assert vectors.shape == (121, 3)
    assert (vectors[1:] > 10).all()
    assert len(nearest(folder, None, "a text", 2)) == 2
    (tmp_path / "wide.toml").write_text('[encoder]\nkind = "lengths"\nwidth = 5\n')
    build(data.path, tmp_path / "wide", str(tmp_path / "wide.toml"))
    assert KnowledgeBases.open(tmp_path / "wide").matrix(data).shape == (121, 5)
    with pytest.raises(ConfigError, match=r"'encoder\.width' = 'x'"):
        encoder_config({"kind": "lengths", "width": "x"})
    with pytest.raises(ConfigError, match="text encoder 'plain': PlainConfig is no EncoderConfig; let it be derived from that"):
        encoder_config({"kind": "plain"})


def test_a_kind_is_a_short_name_where_it_needs_no_settings(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"the text encoder 'endpoint' needs settings \(url, model, width\); write them into a TOML file"
    ):
        build(small_runs.dataset().path, tmp_path / "kb", "endpoint")
    assert not (tmp_path / "kb").exists()
    build(small_runs.dataset().path, tmp_path / "kb", "tfidf")
    assert np.array_equal(
        KnowledgeBases.open(tmp_path / "kb").matrix(small_runs.dataset()),
        KnowledgeBases.open(small_runs.knowledge()).matrix(small_runs.dataset()),
    )
