"""Text encoders by name: one of ours is a line below and a file, one of another package an entry point ``braidrec.encoders``.

An encoder's file ends with ``SPEC = Spec(kind, title, Config, Encoder)``: the config an `EncoderConfig` whose ``kind`` is the
registered name, the encoder a `TextEncoder` made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, create_model

from braidrec.errors import ConfigError
from braidrec.knowledge.encoders.base import EncoderConfig, TextEncoder
from braidrec.registry import Registry, Spec
from braidrec.strict import Strict, parse

ENCODERS: Registry[Spec] = Registry(
    "text encoder",
    "braidrec.encoders",
    Spec,
    {
        "sentence-transformers": "braidrec.knowledge.encoders.sentence:SPEC",
        "causal-lm": "braidrec.knowledge.encoders.causal:SPEC",
        "llm2vec": "braidrec.knowledge.encoders.llm2vec:SPEC",
        "endpoint": "braidrec.knowledge.encoders.endpoint:SPEC",
        "tfidf": "braidrec.knowledge.encoders.tfidf:SPEC",
    },
)


def encoder_config(values: Mapping[str, Any]) -> EncoderConfig:
    """Settings ``{"kind": name, ...}`` as the config of the encoder of that name.

    Raises ConfigError for a name that nobody has and for settings that its encoder does not take.
    """
    kind = values.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"an encoder's settings name its kind (accepted: {', '.join(sorted(ENCODERS))})")
    spec = ENCODERS[kind]
    if not issubclass(spec.config, EncoderConfig):
        raise ConfigError(f"text encoder '{kind}': {spec.config.__name__} is no EncoderConfig; let it be derived from that")
    holder: type[Any] = create_model("Holder", __base__=Strict, encoder=(spec.config, ...))  # errors name 'encoder.<key>'
    found: EncoderConfig = parse(holder, {"encoder": values}, f"text encoder '{kind}'").encoder
    return found


def make_encoder(config: EncoderConfig) -> TextEncoder:
    """The encoder that a config describes.  Raises KnowledgeError when its model cannot be found or loaded."""
    encoder: TextEncoder = ENCODERS[config.kind].build(config)
    return encoder


def _validated(values: Any) -> Any:
    return encoder_config(values) if isinstance(values, Mapping) else values


AnyEncoder = Annotated[SerializeAsAny[EncoderConfig], BeforeValidator(_validated)]  # a field that holds any of them
