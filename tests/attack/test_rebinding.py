"""A name that leads to a public address when it is asked for, and to this machine when it is called."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from servers import http, serving, vectors

from braidrec.errors import KnowledgeError
from braidrec.knowledge import trust
from braidrec.knowledge.encoders.endpoint import EndpointConfig, EndpointEncoder
from braidrec.knowledge.transport import PublicTransport
from braidrec.strict import parse

PUBLIC, OTHER = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
Resolver = Callable[..., list[Any]]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who confirmed nothing and has no proxy."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in (trust.URL_SETTING, trust.KEY_SETTING, "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str | list[str]) -> list[str]:
    """Let rebind.test lead to the answers in turn, the last of them from then on; returns the names that were looked up."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *more: Any, **named: Any) -> list[Any]:
        if host != "rebind.test":
            return real(host, port, *more, **named)
        given = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        each = [given] if isinstance(given, str) else given
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, int(port))) for one in each
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def encoder(url: str, **settings: Any) -> EndpointEncoder:
    values = {"url": url, "model": "m", "width": 2, "retries": 0, "first_wait": 0.001, "timeout": 5.0}
    return EndpointEncoder(parse(EndpointConfig, values | settings, "test").confirmed("kb"))


@pytest.mark.usefixtures("alone")
def test_a_name_that_turns_to_this_machine_after_the_check_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(http(vectors(2))) as server:
        url = f"http://rebind.test:{urlsplit(server.url).port}/v1"
        asked = resolving(monkeypatch, PUBLIC, PUBLIC, "127.0.0.1")
        trust.confirm(url)
        found = encoder(url)
        assert len(asked) == 2
        with pytest.raises(KnowledgeError, match=rf"{url}/embeddings: 127.0.0.1 is of this machine or of a private network"):
            found.encode(["a text"])
        assert not server.heard
        for private in ("10.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1"):
            resolving(monkeypatch, [PUBLIC, private])  # one of several
            with pytest.raises(KnowledgeError, match="private network"):
                found.encode(["a text"])
        assert not server.heard


@pytest.mark.usefixtures("alone")
def test_what_is_connected_to_is_what_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the next look-up would say."""
    resolving(monkeypatch, PUBLIC, PUBLIC, [PUBLIC, OTHER], "127.0.0.1")
    called: list[str] = []

    def connect(address: tuple[str, int], *more: Any, **named: Any) -> socket.socket:
        called.append(address[0])
        raise ConnectionRefusedError("nobody there")

    trust.confirm("http://rebind.test/v1")
    found = encoder("http://rebind.test/v1")
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(KnowledgeError, match="nobody there"):
        found.encode(["a text"])
    assert called == [PUBLIC, OTHER]


def test_the_name_stays_that_of_the_request_and_of_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, [OTHER, PUBLIC])
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.host == OTHER:
            raise httpx.ConnectError("no route", request=request)
        return httpx.Response(200, content=request.read())

    with httpx.Client(transport=PublicTransport(httpx.MockTransport(answer))) as client:
        found = client.post("https://rebind.test/v1/embeddings?x=1", content=b"text", headers={"Authorization": "Bearer k"})
    assert found.content == b"text"
    assert [request.url.host for request in seen] == [OTHER, PUBLIC]
    last = seen[-1]
    assert last.headers["Host"] == "rebind.test"
    assert last.headers["Authorization"] == "Bearer k"
    assert last.extensions["sni_hostname"] == "rebind.test"
    assert last.url.raw_path == b"/v1/embeddings?x=1"


@pytest.mark.usefixtures("alone")
def test_a_name_that_is_lost_for_a_moment_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, PUBLIC)
    trust.confirm("http://rebind.test/v1")
    found, tries = encoder("http://rebind.test/v1", retries=2), 0

    def lost(*given: Any, **named: Any) -> list[Any]:
        nonlocal tries
        tries += 1
        raise socket.gaierror("try again")

    monkeypatch.setattr(socket, "getaddrinfo", lost)
    with pytest.raises(KnowledgeError, match=r"ConnectError: try again; gave up after 3 attempts"):
        found.encode(["a text"])
    assert tries == 3


@pytest.mark.usefixtures("alone")
def test_own_servers_are_called_where_they_were_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(http(vectors(2))) as server:
        url = f"http://rebind.test:{urlsplit(server.url).port}/v1"
        resolving(monkeypatch, "127.0.0.1")
        trust.confirm(url, allow_private=True)
        assert encoder(url).encode(["a text"]).tolist() == [[0.5, 0.5]]
        assert b"Host: rebind.test" in server.heard
