"""An OpenAI-compatible endpoint that answers, hesitates, breaks off and refuses."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from braidrec.errors import ConfigError, KnowledgeError
from braidrec.knowledge.base import KnowledgeBase
from braidrec.knowledge.encoders.endpoint import EndpointConfig, EndpointEncoder
from braidrec.strict import parse

KEY = "sk-very-secret-0123456789"


class Clock:
    """Stands in the encoder's module for `time`: seconds pass only where it sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


class Endpoint:
    """A server on this machine; ``script`` holds what the next requests get instead of vectors, ``times`` when they came by
    the encoder's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.script: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.keys.append(self.headers["Authorization"])
                outer.times.append(clock.now)
                if outer.script:
                    outer.script.pop(0)(self)
                else:
                    reply(200, {"data": vectors(body["input"])})(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def encoder(self, **options: Any) -> EndpointEncoder:
        url = f"http://127.0.0.1:{self.server.server_port}/v1"
        settings = {"url": url, "model": "small", "width": 3, "first_wait": 0.01, "timeout": 60.0, **options}
        return EndpointEncoder(parse(EndpointConfig, settings, "test"))


def vectors(texts: list[str]) -> list[dict[str, Any]]:
    rows = [{"index": row, "embedding": [len(text), text.count("a"), 1.5]} for row, text in enumerate(texts)]
    return rows[::-1]  # the order of the answer is the server's business


def reply(status: int, body: object, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return send


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()
    handler.close_connection = True


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    made = Endpoint(Clock())
    monkeypatch.setattr("braidrec.knowledge.calls.time", made.clock)
    yield made
    made.server.shutdown()
    made.server.server_close()


def expected(texts: list[str]) -> Any:
    return np.array([[len(text), text.count("a"), 1.5] for text in texts], np.float32)


def test_texts_go_in_batches_and_come_back_in_order(endpoint: Endpoint) -> None:
    texts = ["a", "banana", "cc", "dada", "e"]
    encoder = endpoint.encoder(batch_texts=2)
    result = encoder.encode(texts)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected(texts))
    assert [body["input"] for body in endpoint.requests] == [texts[:2], texts[2:4], texts[4:]]
    assert endpoint.requests[0]["model"] == "small"
    assert "dimensions" not in endpoint.requests[0]
    assert encoder.encode([]).shape == (0, 3)
    endpoint.encoder(ask_width=True).encode(["x"])
    assert endpoint.requests[-1]["dimensions"] == 3


@pytest.mark.parametrize("trouble", [reply(429, {}), reply(500, b"oops"), reply(503, {}), hang_up])
def test_what_may_pass_is_tried_again(endpoint: Endpoint, trouble: Callable[[BaseHTTPRequestHandler], None]) -> None:
    endpoint.script = [trouble, trouble]
    np.testing.assert_array_equal(endpoint.encoder().encode(["aa"]), expected(["aa"]))
    assert len(endpoint.requests) == 3


def test_a_timeout_is_tried_again(endpoint: Endpoint) -> None:
    """The first request is answered by nobody before the client has given up and come again."""
    again = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        again.wait()

    def answered(handler: BaseHTTPRequestHandler) -> None:
        again.set()
        reply(200, {"data": vectors(["aa"])})(handler)

    endpoint.script = [silent, answered]
    encoder = endpoint.encoder(timeout=0.2, retries=1_000)
    np.testing.assert_array_equal(encoder.encode(["aa"]), expected(["aa"]))
    assert len(endpoint.requests) >= 2


def test_retry_after_is_respected(endpoint: Endpoint) -> None:
    endpoint.script = [reply(429, {}, Retry_After="0.3")]
    endpoint.encoder().encode(["aa"])
    assert 0.3 <= endpoint.times[1] - endpoint.times[0] <= 0.3 + 0.1 * 0.01 + 1e-9
    endpoint.script = [reply(429, {}, Retry_After="900")]
    with pytest.raises(KnowledgeError, match="asks to wait 900 s, longer than longest_wait"):
        endpoint.encoder().encode(["aa"])
    endpoint.script = [reply(503, {}, Retry_After=formatdate(endpoint.clock.now + 3600, usegmt=True))]
    with pytest.raises(KnowledgeError, match="asks to wait 3600 s"):
        endpoint.encoder().encode(["aa"])


def test_waits_grow_and_are_jittered(endpoint: Endpoint) -> None:
    encoder = endpoint.encoder(first_wait=1.0, longest_wait=6.0)
    for attempt, whole in enumerate([1, 2, 4, 6, 6]):
        waits = {encoder._calls._wait(attempt, None, "") for _ in range(50)}
        assert len(waits) > 40
        assert all(whole / 2 <= wait <= whole for wait in waits)


def test_giving_up_names_the_last_problem(endpoint: Endpoint) -> None:
    endpoint.script = [reply(500, b"out of order")] * 3
    with pytest.raises(KnowledgeError, match="HTTP 500: out of order; gave up after 3 attempts"):
        endpoint.encoder(retries=2).encode(["aa"])


def test_a_refusal_is_not_tried_again(endpoint: Endpoint) -> None:
    endpoint.script = [reply(401, {"error": "no"})]
    with pytest.raises(KnowledgeError, match=r"HTTP 401.*check the address, the model name and the key"):
        endpoint.encoder().encode(["aa"])
    assert len(endpoint.requests) == 1


def test_no_server_at_all(endpoint: Endpoint) -> None:
    encoder = endpoint.encoder(retries=1)
    endpoint.server.shutdown()
    endpoint.server.server_close()
    with pytest.raises(KnowledgeError, match=r"ConnectError.*gave up after 2 attempts"):
        encoder.encode(["aa"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "not an embeddings response"),
        ({"data": [{"index": 0}]}, "not an embeddings response"),
        ({"data": []}, "0 vectors came back for 1 texts"),
        ({"data": vectors(["a", "b"])}, "2 vectors came back for 1 texts"),
        ({"data": [{"index": 0, "embedding": [1, 2]}]}, "vectors are 2 wide, the setting is width = 3"),
    ],
)
def test_other_answers_are_refused(endpoint: Endpoint, body: object, message: str) -> None:
    endpoint.script = [reply(200, body)]
    with pytest.raises(KnowledgeError, match=message):
        endpoint.encoder().encode(["aa"])


def test_the_key_is_sent_and_never_shown(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = endpoint.encoder(key_variable="TEST_KEY", retries=1)
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(KnowledgeError, match="environment variable TEST_KEY holds no key"):
        encoder.encode(["aa"])
    monkeypatch.setenv("TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    encoder.encode(["aa"])
    assert endpoint.keys == [f"Bearer {KEY}"]
    endpoint.script = [reply(429, {"error": f"slow down, {KEY}"}), reply(403, {"error": f"bad key {KEY}"})]
    with pytest.raises(KnowledgeError) as caught:
        encoder.encode(["aa"])
    assert "bad key ***" in str(caught.value)
    assert caught.value.__cause__ is None
    shown = "".join([caplog.text, repr(encoder), repr(encoder.config), repr(vars(encoder)), str(caught.value)])
    assert KEY not in shown


def test_keys_in_the_address_are_refused() -> None:
    for url in ("https://user:pw@host/v1", "https://host/v1?key=1", "ftp://host"):
        with pytest.raises(ConfigError, match="url"):
            parse(EndpointConfig, {"url": url, "model": "m", "width": 3}, "test")


def test_requests_keep_to_their_rate(endpoint: Endpoint) -> None:
    """Ten a second: the first at once, time that passes elsewhere counts, and a turn that was missed is not made up for."""
    encoder = endpoint.encoder(batch_texts=1, requests_per_minute=600)
    begun = endpoint.clock.now
    encoder.encode(["a", "b", "c"])
    endpoint.clock.sleep(0.04)
    encoder.encode(["d"])
    endpoint.clock.sleep(9.0)
    encoder.encode(["e", "f"])
    assert [at - begun for at in endpoint.times] == pytest.approx([0, 0.1, 0.2, 0.3, 9.3, 9.4], abs=1e-6)


def test_the_cost_is_known_before(endpoint: Endpoint) -> None:
    encoder = endpoint.encoder(batch_texts=2, price=20.0, requests_per_minute=60)
    cost = encoder.estimate(["x" * 400] * 5)
    assert (cost.texts, cost.tokens, cost.requests, cost.seconds) == (5, 500, 3, 3.0)
    assert cost.price == pytest.approx(0.01)
    with pytest.raises(KnowledgeError, match=r"over max_cost = 0\.001"):
        endpoint.encoder(price=20.0, max_cost=0.001).estimate(["x" * 400] * 5)
    assert endpoint.requests == []


def test_a_lost_endpoint_leaves_whole_batches_and_the_sync_goes_on(endpoint: Endpoint, tmp_path: Path) -> None:
    ids, texts = [str(number) for number in range(9)], [f"text {number}" for number in range(9)]
    kb = KnowledgeBase.open(tmp_path, endpoint.encoder(retries=0, batch_texts=3))
    endpoint.script = [lambda handler: reply(200, {"data": vectors(endpoint.requests[-1]["input"])})(handler), reply(500, {})]
    with pytest.raises(KnowledgeError, match=r"HTTP 500.*What was committed is kept"):
        kb.sync(ids, texts, batch_rows=3, show_progress=False)
    assert kb.ids() == ids[:3]
    assert kb.sync(ids, texts, batch_rows=3, show_progress=False).encoded == 6
    np.testing.assert_array_equal(kb.matrix(ids), expected(texts))
