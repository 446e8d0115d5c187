"""Any OpenAI-compatible `/v1/embeddings` endpoint.

The key is read from an environment variable for each request and kept nowhere: no attribute, message or log holds it.
"""

from __future__ import annotations

import email.utils
import logging
import math
import os
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from braidrec.errors import KnowledgeError
from braidrec.knowledge.encoders.base import Cost, EncoderConfig
from braidrec.registry import Spec

if TYPE_CHECKING:
    import httpx

_CHARACTERS_PER_TOKEN = 4
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_log = logging.getLogger(__name__)


class EndpointConfig(EncoderConfig):
    """``url``: up to and including the version, "https://api.openai.com/v1".  ``width``: what the model returns.

    ``revision``: the model's version as its owner states it; it belongs to the identity of the vectors.
    ``key_variable``: name of the environment variable with the key; None for servers that want none.
    ``price``: per million tokens; ``max_cost``: a sync that is expected to cost more does not start.
    """

    kind: Literal["endpoint"] = "endpoint"
    url: str
    model: str
    width: int = Field(ge=1)
    revision: str = "unversioned"
    ask_width: bool = False  # send "dimensions", for models that can shorten their vectors
    key_variable: str | None = None
    batch_texts: int = Field(default=64, ge=1)
    requests_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60.0, gt=0)  # seconds, per request
    retries: int = Field(default=6, ge=0)
    first_wait: float = Field(default=1.0, gt=0)  # seconds, doubled at each retry
    longest_wait: float = Field(default=60.0, gt=0)
    price: float = Field(default=0.0, ge=0)
    max_cost: float | None = Field(default=None, ge=0)

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("not an http(s) address")
        if parts.username or parts.password or parts.query:
            raise ValueError("keys do not belong into the address; name an environment variable in key_variable")
        return url.rstrip("/")


class EndpointEncoder:
    """A TextEncoder over HTTP.  Requests that fail for the moment are repeated after a growing, jittered wait."""

    pooling = "endpoint"

    def __init__(self, config: EndpointConfig):
        self.config = config
        self.name = f"{config.model}@{urlsplit(config.url).netloc}"
        self.revision = f"{config.revision}-{config.width}" if config.ask_width else config.revision
        self.width = config.width
        self._next_request = 0.0  # monotonic seconds
        self._jitter = random.Random()

    def __repr__(self) -> str:
        return f"EndpointEncoder({self.name}, {self.revision}, width {self.width})"

    def estimate(self, texts: Sequence[str]) -> Cost:
        """What encoding ``texts`` will cost.  Raises KnowledgeError above ``max_cost``."""
        tokens = sum(math.ceil(len(text) / _CHARACTERS_PER_TOKEN) for text in texts)
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
        import httpx

        vectors = np.empty((len(texts), self.width), np.float32)
        with httpx.Client(timeout=self.config.timeout) as client:
            for start in range(0, len(texts), self.config.batch_texts):
                part = texts[start : start + self.config.batch_texts]
                vectors[start : start + len(part)] = self._request(client, part)
        return vectors

    def _request(self, client: httpx.Client, texts: list[str]) -> NDArray[np.float32]:
        import httpx

        body: dict[str, Any] = {"model": self.config.model, "input": texts, "encoding_format": "float"}
        if self.config.ask_width:
            body["dimensions"] = self.width
        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        for attempt in range(self.config.retries + 1):
            self._wait_for_turn()
            problem: str
            asked: float | None = None
            try:
                response = client.post(f"{self.config.url}/embeddings", json=body, headers=headers)
            except httpx.TransportError as cause:  # no connection, connection lost, timeout
                problem = _redact(f"{type(cause).__name__}: {cause}", key)
            else:
                if response.status_code == 200:
                    return self._vectors(response, len(texts))
                problem = _redact(f"HTTP {response.status_code}: {response.text.strip()[:200]}", key)
                if response.status_code not in _RETRIED:
                    raise KnowledgeError(f"{self.config.url}: {problem}; check the address, the model name and the key")
                asked = _retry_after(response.headers.get("retry-after"))
            if attempt == self.config.retries:
                break
            wait = self._wait(attempt, asked, problem)
            _log.info("%s: %s; trying again in %.1f s", self.config.url, problem, wait)
            time.sleep(wait)
        raise KnowledgeError(
            f"{self.config.url}: {problem}; gave up after {self.config.retries + 1} attempts. "
            "What was committed is kept: run sync again when the endpoint is back"
        )

    def _wait(self, attempt: int, asked: float | None, problem: str) -> float:
        """Seconds: what the server asks for, else half to all of an exponentially growing wait."""
        if asked is None:
            return min(self.config.longest_wait, self.config.first_wait * 2.0**attempt) * self._jitter.uniform(0.5, 1.0)
        if asked > self.config.longest_wait:
            raise KnowledgeError(
                f"{self.config.url}: {problem}; the server asks to wait {asked:.0f} s, longer than longest_wait = "
                f"{self.config.longest_wait:.0f} s. Run sync again later: what was committed is kept"
            )
        return asked + self._jitter.uniform(0.0, 0.1 * self.config.first_wait)

    def _wait_for_turn(self) -> None:
        if self.config.requests_per_minute is None:
            return
        now = time.monotonic()
        time.sleep(max(0.0, self._next_request - now))
        self._next_request = max(now, self._next_request) + 60 / self.config.requests_per_minute

    def _key(self) -> str | None:
        variable = self.config.key_variable
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise KnowledgeError(f"{self.config.url}: the environment variable {variable} holds no key; set it and run again")
        if not (key.isascii() and key.isprintable()):
            raise KnowledgeError(f"{self.config.url}: the key in {variable} holds characters that a header cannot carry")
        return key

    def _vectors(self, response: httpx.Response, count: int) -> NDArray[np.float32]:
        try:
            rows = sorted(response.json()["data"], key=lambda row: int(row["index"]))
            indices = [int(row["index"]) for row in rows]
            vectors = np.array([row["embedding"] for row in rows], np.float32)
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise KnowledgeError(
                f"{self.config.url}: the answer is not an embeddings response ({type(cause).__name__}); is the address right?"
            ) from None
        if indices != list(range(count)):
            raise KnowledgeError(f"{self.config.url}: {len(rows)} vectors came back for {count} texts, or not one for each")
        if vectors.shape != (count, self.width):
            raise KnowledgeError(
                f"{self.config.url}: vectors are {vectors.shape[-1]} wide, the setting is width = {self.width}"
            )
        return vectors


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, a number or an HTTP date; None when it is absent or neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _redact(text: str, key: str | None) -> str:
    return text.replace(key, "***") if key else text


SPEC = Spec("endpoint", "OpenAI-compatible endpoint", EndpointConfig, EndpointEncoder)
