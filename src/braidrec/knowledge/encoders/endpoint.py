"""Any OpenAI-compatible `/v1/embeddings` endpoint (see `braidrec.knowledge.calls`)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from braidrec.errors import KnowledgeError
from braidrec.knowledge.calls import BESIDE_BYTES, CHARACTERS_PER_TOKEN, Calls, Reach
from braidrec.knowledge.encoders.base import Cost, EncoderConfig
from braidrec.registry import Spec

if TYPE_CHECKING:
    import httpx

_NUMBER_BYTES = 48  # of one number in an answer, indented


class EndpointConfig(Reach, EncoderConfig):
    """``width``: what the model returns; ``price``: per million tokens."""

    kind: Literal["endpoint"] = "endpoint"
    width: int = Field(ge=1, le=1 << 20)
    ask_width: bool = False  # send "dimensions", for models that can shorten their vectors
    batch_texts: int = Field(default=64, ge=1, le=1 << 16)
    price: float = Field(default=0.0, ge=0)


class EndpointEncoder:
    """A TextEncoder over HTTP."""

    pooling = "endpoint"

    def __init__(self, config: EndpointConfig):
        self.config = config
        self.name = f"{config.model}@{urlsplit(config.url).netloc}"
        self.revision = f"{config.revision}-{config.width}" if config.ask_width else config.revision
        self.width = config.width
        self._calls = Calls(config)

    def __repr__(self) -> str:
        return f"EndpointEncoder({self.name}, {self.revision}, width {self.width})"

    def estimate(self, texts: Sequence[str]) -> Cost:
        """What encoding ``texts`` will cost.  Raises KnowledgeError above ``max_cost``."""
        tokens = sum(math.ceil(len(text) / CHARACTERS_PER_TOKEN) for text in texts)
        requests = math.ceil(len(texts) / self.config.batch_texts)
        price = tokens / 1e6 * self.config.price
        rate = self.config.requests_per_minute
        cost = Cost(len(texts), tokens, requests, price, requests * 60 / rate if rate else 0.0)
        if self.config.max_cost is not None and price > self.config.max_cost:
            raise KnowledgeError(f"{self.name}: {cost}; over max_cost = {self.config.max_cost}; raise it or encode fewer texts")
        return cost

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """float32 [len(texts), width], in requests of ``batch_texts``.

        Raises KnowledgeError when the key is missing, the endpoint refuses, stays away or answers something else.
        """
        vectors = np.empty((len(texts), self.width), np.float32)
        with self._calls.client() as client:
            for start in range(0, len(texts), self.config.batch_texts):
                part = texts[start : start + self.config.batch_texts]
                vectors[start : start + len(part)] = self._request(client, part)
        return vectors

    def _request(self, client: httpx.Client, texts: list[str]) -> NDArray[np.float32]:
        body: dict[str, Any] = {"model": self.config.model, "input": texts, "encoding_format": "float"}
        if self.config.ask_width:
            body["dimensions"] = self.width
        most = BESIDE_BYTES + len(texts) * (self.width * _NUMBER_BYTES + BESIDE_BYTES // 64)
        answer = self._calls.post(client, "embeddings", body, most=most, what="vectors of these texts")
        return self._vectors(answer, len(texts))

    def _vectors(self, answer: bytes, count: int) -> NDArray[np.float32]:
        try:
            rows = sorted(json.loads(answer)["data"], key=lambda row: int(row["index"]))
            indices = [int(row["index"]) for row in rows]
            with np.errstate(over="ignore"):
                vectors = np.array([row["embedding"] for row in rows], np.float32)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as cause:
            raise KnowledgeError(
                f"{self.config.url}: the answer is not an embeddings response ({type(cause).__name__}); is the address right?"
            ) from None
        if indices != list(range(count)):
            raise KnowledgeError(f"{self.config.url}: {len(rows)} vectors came back for {count} texts, or not one for each")
        if vectors.shape != (count, self.width):
            raise KnowledgeError(
                f"{self.config.url}: vectors are {vectors.shape[-1]} wide, the setting is width = {self.width}"
            )
        if not np.isfinite(vectors).all():
            raise KnowledgeError(f"{self.config.url}: vectors came back with NaN, infinity or numbers beyond float32")
        return vectors


SPEC = Spec("endpoint", "OpenAI-compatible endpoint", EndpointConfig, EndpointEncoder)
