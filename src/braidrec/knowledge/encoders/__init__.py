"""Text encoders: one config per kind, one function from config to encoder."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from braidrec.knowledge.encoders.base import TextEncoder
from braidrec.knowledge.encoders.causal import CausalLMConfig, CausalLMEncoder
from braidrec.knowledge.encoders.endpoint import EndpointConfig, EndpointEncoder
from braidrec.knowledge.encoders.llm2vec import LLM2VecConfig, LLM2VecEncoder
from braidrec.knowledge.encoders.sentence import SentenceTransformerConfig, SentenceTransformerEncoder
from braidrec.knowledge.encoders.tfidf import HashedTfidfEncoder, TfidfConfig

EncoderConfig = Annotated[
    SentenceTransformerConfig | CausalLMConfig | LLM2VecConfig | EndpointConfig | TfidfConfig, Field(discriminator="kind")
]


def make_encoder(spec: EncoderConfig) -> TextEncoder:
    """The encoder that a config describes.  Raises KnowledgeError when its model cannot be found or loaded."""
    match spec:
        case SentenceTransformerConfig():
            return SentenceTransformerEncoder(spec)
        case LLM2VecConfig():
            return LLM2VecEncoder(spec)
        case CausalLMConfig():
            return CausalLMEncoder(spec)
        case EndpointConfig():
            return EndpointEncoder(spec)
        case TfidfConfig():
            return HashedTfidfEncoder(spec)


__all__ = [
    "CausalLMConfig",
    "CausalLMEncoder",
    "EncoderConfig",
    "EndpointConfig",
    "EndpointEncoder",
    "HashedTfidfEncoder",
    "LLM2VecConfig",
    "LLM2VecEncoder",
    "SentenceTransformerConfig",
    "SentenceTransformerEncoder",
    "TextEncoder",
    "TfidfConfig",
    "make_encoder",
]
