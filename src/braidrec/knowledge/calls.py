"""Requests to any OpenAI-compatible endpoint, whatever is asked of it.

The key is read from an environment variable for each request and kept nowhere: no attribute, message or log holds it.  An
answer is read up to a size and a time that the question can need; whatever else comes back is a KnowledgeError.
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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from braidrec.errors import KnowledgeError
from braidrec.knowledge import trust
from braidrec.shown import keep_secret, plain
from braidrec.strict import Strict, unshown

if TYPE_CHECKING:
    import httpx

CHARACTERS_PER_TOKEN = 4  # to estimate tokens by
BESIDE_BYTES = 1 << 16  # of what stands around an answer; also all that is read of a refusal
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_QUOTED = 200  # characters of a refusal that a message quotes
_SHOWN_BYTES = 1 << 12  # of a refusal that are looked at for it
_log = logging.getLogger(__name__)


class Reach(Strict):
    """Where an endpoint is and how it is called.  ``url``: up to and including the version, "https://api.openai.com/v1".

    ``revision``: the model's version as its owner states it; it belongs to the identity of what the model made.
    ``key_variable``: name of the environment variable with the key; None for servers that want none.  It is this user's own:
    a knowledge base does not hold it, and where one does it is not read.
    ``timeout``: seconds for a whole request, from the first byte sent to the last one received.
    ``max_cost``: what is expected to cost more, by the prices of the settings, does not start.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    model: str
    revision: str = "unversioned"
    key_variable: trust.KeyVariable | None = None
    requests_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60.0, gt=0, le=86_400)
    retries: int = Field(default=6, ge=0, le=10_000)
    first_wait: float = Field(default=1.0, gt=0, le=86_400)  # seconds, doubled at each retry
    longest_wait: float = Field(default=60.0, gt=0, le=86_400)
    max_cost: float | None = Field(default=None, ge=0)
    _public: bool = PrivateAttr(default=False)  # whether no address of this machine or of a private network is called

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
        return self._limited({"key_variable": None}, public=False)

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
        return self._limited({"key_variable": allowed.key_variable}, public=not allowed.allow_private)

    def _limited(self, changes: Mapping[str, Any], *, public: bool) -> Self:
        found = self.model_copy(update=changes)
        found._public = public
        return found


class TooLargeError(KnowledgeError):
    """An answer that goes on beyond what its question can need; nothing of it was kept."""


class _OverSize(ValueError):
    pass


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Calls:
    """Requests to one endpoint, from any number of threads.  Those that fail for the moment are repeated after a growing,
    jittered wait.
    """

    def __init__(self, reach: Reach):
        self._reach = reach
        self._turn = threading.Lock()
        self._next_request = 0.0  # monotonic seconds
        self._jitter = random.Random()

    def client(self) -> httpx.Client:
        import httpx

        from braidrec.knowledge.transport import PublicTransport

        # a proxy looks names up by itself: then what they lead to is checked before, and is the proxy's to keep
        checked = self._reach._public and not _proxied(self._reach.url)
        return httpx.Client(timeout=self._reach.timeout, transport=PublicTransport() if checked else None)

    def post(self, client: httpx.Client, path: str, body: Mapping[str, Any], *, most: int, what: str) -> bytes:
        """The answer's body, of at most ``most`` bytes.  what: it is the answer to, in words

        Raises KnowledgeError when the key is missing, the endpoint refuses, stays away or answers in no way that can be read,
        TooLargeError when it answers with more.
        """
        import httpx

        key = self._key()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        content = json.dumps(body).encode()
        for attempt in range(self._reach.retries + 1):
            self._wait_for_turn()
            problem: str
            asked: float | None = None
            try:
                answer = self._answer(client, path, content, headers, most, what)
            except (httpx.TransportError, TimeoutError) as cause:  # no connection, connection lost, timeout
                problem = plain(f"{type(cause).__name__}: {cause}")
            except _OverSize as cause:
                raise TooLargeError(f"{self._reach.url}: {cause}; is the address right?") from None
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as cause:
                raise KnowledgeError(
                    f"{self._reach.url}: {plain(f'{type(cause).__name__}: {cause}')}; is the address right?"
                ) from None
            else:
                if answer.status == 200:
                    return answer.body
                words = plain(answer.body[:_SHOWN_BYTES].decode("utf-8", "replace").strip())
                problem = f"HTTP {answer.status}: {words[:_QUOTED]}"
                if answer.status not in _RETRIED:
                    raise KnowledgeError(f"{self._reach.url}: {problem}; check the address, the model name and the key")
                asked = _retry_after(answer.headers.get("retry-after"))
            if attempt == self._reach.retries:
                break
            wait = self._wait(attempt, asked, problem)
            _log.info("%s: %s; trying again in %.1f s", self._reach.url, problem, wait)
            time.sleep(wait)
        raise KnowledgeError(
            f"{self._reach.url}: {problem}; gave up after {self._reach.retries + 1} attempts. "
            "What was committed is kept: run sync again when the endpoint is back"
        )

    def _answer(
        self, client: httpx.Client, path: str, content: bytes, headers: Mapping[str, str], most: int, what: str
    ) -> _Answer:
        """One request, over after ``timeout`` seconds whatever trickles in.

        Raises what httpx does, TimeoutError, and ValueError for a body that is too large or compressed in an unknown way.
        """
        done: queue.SimpleQueue[_Answer | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                with client.stream("POST", f"{self._reach.url}/{path}", content=content, headers=headers) as response:
                    done.put(_read(response, most if response.status_code == 200 else BESIDE_BYTES, what))
            except Exception as cause:  # handed over to who waits
                done.put(cause)

        # the time-out of httpx is for each piece, of which there can be any number; nothing else can end a read from outside
        threading.Thread(target=ask, daemon=True).start()
        try:
            found = done.get(timeout=self._reach.timeout)
        except queue.Empty:
            raise TimeoutError(f"no whole answer within timeout = {self._reach.timeout:g} s") from None
        if isinstance(found, Exception):
            raise found
        return found

    def _wait(self, attempt: int, asked: float | None, problem: str) -> float:
        """Seconds: what the server asks for, else half to all of an exponentially growing wait."""
        if asked is None:
            growing = self._reach.first_wait * 2.0 ** min(attempt, 64)
            return min(self._reach.longest_wait, growing) * self._jitter.uniform(0.5, 1.0)
        if asked > self._reach.longest_wait:
            raise KnowledgeError(
                f"{self._reach.url}: {problem}; the server asks to wait {asked:.0f} s, longer than longest_wait = "
                f"{self._reach.longest_wait:.0f} s. Run sync again later: what was committed is kept"
            )
        return asked + self._jitter.uniform(0.0, 0.1 * self._reach.first_wait)

    def _wait_for_turn(self) -> None:
        if self._reach.requests_per_minute is None:
            return
        with self._turn:
            now = time.monotonic()
            turn = max(now, self._next_request)
            self._next_request = turn + 60 / self._reach.requests_per_minute
        time.sleep(turn - now)

    def _key(self) -> str | None:
        variable = self._reach.key_variable
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise KnowledgeError(
                f"{self._reach.url}: the environment variable {trust.name_of(variable)} holds no key; set it and run again"
            )
        keep_secret(key)
        if not (key.isascii() and key.isprintable()):
            raise KnowledgeError(
                f"{self._reach.url}: the key in {trust.name_of(variable)} holds characters that a header cannot carry"
            )
        return key


def _read(response: httpx.Response, most: int, what: str) -> _Answer:
    """The whole body, unpacked; of a refusal what fits.  Raises ValueError above ``most`` bytes"""
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
                raise _OverSize(f"the answer is larger than the {most:,} bytes that {what} can take")
            break
    return _Answer(response.status_code, response.headers, b"".join(parts))


def _proxied(url: str) -> bool:
    """Whether the environment names a proxy for ``url``."""
    parts, named = urlsplit(url), getproxies()
    return bool(named.get(parts.scheme) or named.get("all")) and not proxy_bypass(parts.hostname or "")


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
