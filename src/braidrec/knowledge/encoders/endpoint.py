"""Any OpenAI-compatible `/v1/embeddings` endpoint.

The key is read from an environment variable for each request and kept nowhere: no attribute, message or log holds it.  An
answer is read up to a size and a time that its texts can need; whatever else comes back is a KnowledgeError.
"""

from __future__ import annotations

import email.utils
import json
import logging
import math
import os
import queue
import random
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_validator

from braidrec.errors import KnowledgeError
from braidrec.knowledge import trust
from braidrec.knowledge.encoders.base import Cost, EncoderConfig
from braidrec.registry import Spec
from braidrec.shown import keep_secret, plain
from braidrec.strict import unshown

if TYPE_CHECKING:
    import httpx

_CHARACTERS_PER_TOKEN = 4
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_NUMBER_BYTES = 48  # of one number in an answer, indented
_BESIDE_BYTES = 1 << 16  # of what stands around the vectors, per text and once more; also all that is read of a refusal
_QUOTED = 200  # characters of a refusal that a message quotes
_SHOWN_BYTES = 1 << 12  # of a refusal that are looked at for it
_log = logging.getLogger(__name__)


class EndpointConfig(EncoderConfig):
    """``url``: up to and including the version, "https://api.openai.com/v1".  ``width``: what the model returns.

    ``revision``: the model's version as its owner states it; it belongs to the identity of the vectors.
    ``key_variable``: name of the environment variable with the key; None for servers that want none.  It is this user's own:
    a knowledge base does not hold it, and where one does it is not read.
    ``timeout``: seconds for a whole request, from the first byte sent to the last one received.
    ``price``: per million tokens; ``max_cost``: a sync that is expected to cost more does not start.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    kind: Literal["endpoint"] = "endpoint"
    url: str
    model: str
    width: int = Field(ge=1, le=1 << 20)
    revision: str = "unversioned"
    ask_width: bool = False  # send "dimensions", for models that can shorten their vectors
    key_variable: trust.KeyVariable | None = None
    batch_texts: int = Field(default=64, ge=1, le=1 << 16)
    requests_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60.0, gt=0, le=86_400)
    retries: int = Field(default=6, ge=0, le=10_000)
    first_wait: float = Field(default=1.0, gt=0, le=86_400)  # seconds, doubled at each retry
    longest_wait: float = Field(default=60.0, gt=0, le=86_400)
    price: float = Field(default=0.0, ge=0)
    max_cost: float | None = Field(default=None, ge=0)

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError:
            raise unshown("not an http(s) address") from None
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise unshown("keys do not belong into the address; name an environment variable in key_variable")
        if parts.scheme not in {"http", "https"} or not host or port == 0 or not (url.isascii() and url.isprintable()):
            raise unshown("not an http(s) address")
        return url.rstrip("/")

    @property
    def address(self) -> str:
        return self.url

    def shared(self) -> Self:
        return self.model_copy(update={"key_variable": None})

    def own(self) -> None:
        if self.key_variable is not None and not os.environ.get(self.key_variable, "").strip():
            return  # encoding says that it is empty
        try:
            trust.confirm(self.url, key_variable=self.key_variable, allow_private=True)
        except KnowledgeError as cause:  # these settings are used all the same
            _log.warning("%s", cause)

    def confirmed(self, where: str) -> Self:
        allowed = trust.confirmed(self.url)
        if allowed is None:
            raise KnowledgeError(
                f"{where}: its texts would be sent to {self.url}, which you have not confirmed; if you trust it, run "
                f"'braidrec knowledge trust {where}' (--key-variable NAME names the variable with your key), or set "
                f"{trust.URL_SETTING} and {trust.KEY_SETTING}"
            )
        if not allowed.allow_private:
            trust.refuse_private(self.url)
        return self.model_copy(update={"key_variable": allowed.key_variable})


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


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
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        content = json.dumps(body).encode()
        for attempt in range(self.config.retries + 1):
            self._wait_for_turn()
            problem: str
            asked: float | None = None
            try:
                answer = self._answer(client, content, headers, len(texts))
            except (httpx.TransportError, TimeoutError) as cause:  # no connection, connection lost, timeout
                problem = plain(f"{type(cause).__name__}: {cause}")
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as cause:
                raise KnowledgeError(
                    f"{self.config.url}: {plain(f'{type(cause).__name__}: {cause}')}; is the address right?"
                ) from None
            else:
                if answer.status == 200:
                    return self._vectors(answer, len(texts))
                words = plain(answer.body[:_SHOWN_BYTES].decode("utf-8", "replace").strip())
                problem = f"HTTP {answer.status}: {words[:_QUOTED]}"
                if answer.status not in _RETRIED:
                    raise KnowledgeError(f"{self.config.url}: {problem}; check the address, the model name and the key")
                asked = _retry_after(answer.headers.get("retry-after"))
            if attempt == self.config.retries:
                break
            wait = self._wait(attempt, asked, problem)
            _log.info("%s: %s; trying again in %.1f s", self.config.url, problem, wait)
            time.sleep(wait)
        raise KnowledgeError(
            f"{self.config.url}: {problem}; gave up after {self.config.retries + 1} attempts. "
            "What was committed is kept: run sync again when the endpoint is back"
        )

    def _answer(self, client: httpx.Client, content: bytes, headers: Mapping[str, str], count: int) -> _Answer:
        """One request, over after ``timeout`` seconds whatever trickles in.

        Raises what httpx does, TimeoutError, and ValueError for a body that is too large or compressed in an unknown way.
        """
        most = _BESIDE_BYTES + count * (self.width * _NUMBER_BYTES + _BESIDE_BYTES // 64)
        done: queue.SimpleQueue[_Answer | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                with client.stream("POST", f"{self.config.url}/embeddings", content=content, headers=headers) as response:
                    done.put(_read(response, most if response.status_code == 200 else _BESIDE_BYTES))
            except Exception as cause:  # handed over to who waits
                done.put(cause)

        # the time-out of httpx is for each piece, of which there can be any number; nothing else can end a read from outside
        threading.Thread(target=ask, daemon=True).start()
        try:
            found = done.get(timeout=self.config.timeout)
        except queue.Empty:
            raise TimeoutError(f"no whole answer within timeout = {self.config.timeout:g} s") from None
        if isinstance(found, Exception):
            raise found
        return found

    def _wait(self, attempt: int, asked: float | None, problem: str) -> float:
        """Seconds: what the server asks for, else half to all of an exponentially growing wait."""
        if asked is None:
            growing = self.config.first_wait * 2.0 ** min(attempt, 64)
            return min(self.config.longest_wait, growing) * self._jitter.uniform(0.5, 1.0)
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
            raise KnowledgeError(
                f"{self.config.url}: the environment variable {trust.name_of(variable)} holds no key; set it and run again"
            )
        keep_secret(key)
        if not (key.isascii() and key.isprintable()):
            raise KnowledgeError(
                f"{self.config.url}: the key in {trust.name_of(variable)} holds characters that a header cannot carry"
            )
        return key

    def _vectors(self, answer: _Answer, count: int) -> NDArray[np.float32]:
        try:
            rows = sorted(json.loads(answer.body)["data"], key=lambda row: int(row["index"]))
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


def _read(response: httpx.Response, most: int) -> _Answer:
    """The whole body, unpacked; of a refusal what fits.  Raises ValueError above ``most`` bytes."""
    packed = response.headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise ValueError(f"the answer is compressed by {packed!r}, which nobody asked for")
    unpack = zlib.decompressobj(47) if packed not in ("identity", "") else None  # gzip or zlib, by its header
    parts, size = [], 0
    for part in response.iter_raw():
        try:
            plain_part = part if unpack is None else unpack.decompress(part, most - size + 1)
        except zlib.error as cause:
            raise ValueError(f"the answer is not {packed} ({cause})") from None
        parts.append(plain_part)
        size += len(plain_part)
        if size > most:
            if response.status_code == 200:
                raise ValueError(f"the answer is larger than the {most:,} bytes that vectors of these texts can take")
            break
    return _Answer(response.status_code, response.headers, b"".join(parts))


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, a number or an HTTP date; None when it is absent or neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
        return None if math.isnan(seconds) else max(0.0, seconds)
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


SPEC = Spec("endpoint", "OpenAI-compatible endpoint", EndpointConfig, EndpointEncoder)
