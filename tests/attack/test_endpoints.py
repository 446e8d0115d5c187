"""Hostile knowledge bases and endpoints: no key leaves that its owner did not send, no answer breaks or stalls us."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from attack_table import Note, Wrong
from servers import Send, http, serving, vectors

import small_runs
from braidrec import cli
from braidrec.errors import BraidError, ConfigError, KnowledgeError
from braidrec.files import read_json, write_json
from braidrec.knowledge import trust
from braidrec.knowledge.encoders import encoder_config, make_encoder
from braidrec.knowledge.encoders.endpoint import EndpointConfig, EndpointEncoder
from braidrec.runs import knowledge
from braidrec.shown import redact
from braidrec.strict import parse

CANARY = "sk-CANARY-9f8e7d6c5b4a3210"


def encoder(url: str, **settings: Any) -> EndpointEncoder:
    values = {"url": url, "model": "m", "width": 2, "retries": 0, "first_wait": 0.001, "timeout": 5.0}
    return EndpointEncoder(parse(EndpointConfig, values | settings, "test"))


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody who never confirmed anything, with a key in a variable; returns the file of what they confirm."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(trust.URL_SETTING, raising=False)
    monkeypatch.delenv(trust.KEY_SETTING, raising=False)
    monkeypatch.setenv("CLOUD_KEY", CANARY)
    return trust.settings_file()


def hostile(folder: Path, url: str, variable: str | None = "CLOUD_KEY") -> Path:
    """A knowledge base as somebody hands it on, which names an address and a variable of its reader."""
    shutil.copytree(small_runs.knowledge(), folder)
    settings = read_json(folder / "knowledge.json", KnowledgeError)
    named = {"kind": "endpoint", "url": url, "model": "m", "width": 2, "key_variable": variable, "retries": 0}
    write_json(folder / "knowledge.json", settings | {"encoder": named, "table": None})
    return folder


def every_file(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# -- someone else's knowledge base ------------------------------------------------------------------------------------------


def test_a_folder_of_others_reaches_no_address_and_takes_no_key(nobody: Path, tmp_path: Path) -> None:
    with serving(http(vectors(2))) as server:
        folder = hostile(tmp_path / "kb", server.url)
        asks: list[Callable[[], object]] = [
            lambda: knowledge.nearest(folder, None, "a text", 3),
            lambda: knowledge.sync(small_runs.dataset().path, folder),
            lambda: knowledge.KnowledgeBases.open(folder).encode([["a text"]]),
        ]
        for ask in asks:
            with pytest.raises(KnowledgeError, match=rf"{server.url}, which you have not confirmed.*knowledge trust"):
                ask()
        assert not server.heard
    assert not nobody.exists()


def test_a_private_address_in_such_a_folder_needs_a_word_of_its_own(nobody: Path, tmp_path: Path) -> None:
    for url in (
        "http://127.0.0.1:9/v1",
        "http://localhost/v1",
        "http://10.1.2.3/v1",
        "http://[::1]/v1",
        "http://169.254.169.254/v1",
    ):
        folder = hostile(tmp_path / url.replace("/", "_"), url, None)
        with pytest.raises(KnowledgeError, match=r"private network.*--allow-private"):
            knowledge.trust(folder, None, allow_private=False, confirm=None)
    assert not nobody.exists()


def test_what_is_confirmed_is_asked_once_and_takes_the_key_of_its_owner_alone(
    nobody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine-1234567890")
    with serving(http(vectors(2))) as server:
        folder = hostile(tmp_path / "kb", server.url)
        with pytest.raises(KnowledgeError, match="not confirmed"):
            knowledge.trust(folder, None, allow_private=True, confirm=lambda question: False)
        assert "confirmed, with the key in MY_KEY" in knowledge.trust(
            folder, "MY_KEY", allow_private=True, confirm=lambda q: True
        )
        knowledge.open_knowledge(folder, encode=True).encoder.encode(["a text"])  # type: ignore[union-attr]
        assert b"sk-mine-1234567890" in server.heard
        assert CANARY.encode() not in server.heard
        other = hostile(tmp_path / "other", server.url.replace("/v1", "/v2"))
        with pytest.raises(KnowledgeError, match="not confirmed"):
            knowledge.open_knowledge(other, encode=True)
    assert b"sk-mine" not in nobody.read_bytes()


def test_an_address_of_the_environment_is_confirmed_with_its_own_key(
    nobody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(http(vectors(2))) as server:
        monkeypatch.setenv(trust.URL_SETTING, server.url + "/")
        monkeypatch.setenv(trust.KEY_SETTING, "sk-mine-1234567890")
        knowledge.open_knowledge(hostile(tmp_path / "kb", server.url), encode=True).encoder.encode(["x"])  # type: ignore[union-attr]
        assert b"sk-mine-1234567890" in server.heard
        assert CANARY.encode() not in server.heard


def test_own_settings_are_confirmed_and_leave_no_variable_in_the_folder(nobody: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[encoder]\nkind = "endpoint"\nmodel = "m"\nwidth = 2\nkey_variable = "CLOUD_KEY"\nbatch_texts = 1\nurl = "URL"\n'
    )
    with serving(http(vectors(2))) as server:
        file = tmp_path / "own.toml"
        file.write_text(file.read_text().replace("URL", server.url))
        knowledge.build(small_runs.dataset().path, tmp_path / "kb", str(file))
        assert CANARY.encode() in server.heard
        server.heard.clear()
        assert len(knowledge.nearest(tmp_path / "kb", None, "a text", 3)) == 3
        assert CANARY.encode() in server.heard
    assert b"CLOUD_KEY" not in every_file(tmp_path / "kb")
    assert CANARY.encode() not in every_file(tmp_path)


def test_an_edited_folder_encodes_nothing_anew(tmp_path: Path) -> None:
    shutil.copytree(small_runs.knowledge(), tmp_path / "kb")
    before = sorted(path.name for path in (tmp_path / "kb").iterdir())
    settings = read_json(tmp_path / "kb" / "knowledge.json", KnowledgeError)
    settings["prompt"]["noun"] = "thing"
    write_json(tmp_path / "kb" / "knowledge.json", settings)
    with pytest.raises(KnowledgeError, match=r"filled as table .* would encode every text anew"):
        knowledge.sync(small_runs.dataset().path, tmp_path / "kb")
    with pytest.raises(KnowledgeError, match="filled as table"):
        knowledge.nearest(tmp_path / "kb", None, "a text", 3)
    assert sorted(path.name for path in (tmp_path / "kb").iterdir() if path.name != "knowledge.json.lock") == before


# -- keys in words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"url": f"https://user:{CANARY}@host/v1"},
        {"url": f"https://{CANARY}@host/v1"},
        {"url": f"https://host/v1?api-key={CANARY}"},
        {"url": f"https://host/v1#{CANARY}"},
        {"url": f"https://host:{CANARY}/v1"},
        {"url": f"https://[{CANARY}/v1"},
        {"url": "https://host/v1", "key_variable": CANARY},
        {"url": "https://host/v1", "key_variable": f"Bearer {CANARY}"},
    ],
)
def test_a_key_in_the_wrong_place_is_refused_without_showing_it(
    settings: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"kind": "endpoint", "model": "m", "width": 2} | settings
    with pytest.raises(ConfigError) as caught:
        encoder_config(values)
    with pytest.raises(ValueError, match=r"(url|key_variable)") as direct:
        EndpointConfig(**values)  # type: ignore[arg-type]
    file = tmp_path / "own.toml"
    file.write_text("[encoder]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    words = [
        "braidrec",
        "knowledge",
        "build",
        str(small_runs.dataset().path),
        "--encoder",
        str(file),
        "--out",
        str(tmp_path / "kb"),
    ]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        cli.main()
    shown = f"{caught.value} {direct.value} {''.join(capsys.readouterr())}"
    assert "CANARY" not in shown
    assert not (tmp_path / "kb").exists()


def test_a_key_that_looks_like_a_name_is_not_shown_either(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("AKIAIOSFODNN7EXAMPLE", "sk_live_0123456789abcdef"):
        with pytest.raises(KnowledgeError, match=r"environment variable \*\*\* \(key_variable\) holds no key") as caught:
            encoder("http://127.0.0.1:9/v1", key_variable=given).encode(["a"])
        assert given not in str(caught.value)


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "403 No", "404 No", "429 Slow", "500 Broken", "302 Elsewhere"])
def test_a_key_that_an_endpoint_answers_with_is_masked_before_the_answer_is_cut(
    status: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, note: Note
) -> None:
    monkeypatch.setenv("CLOUD_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    forms = [CANARY, quote(CANARY, safe=""), base64.b64encode(CANARY.encode()).decode(), f"{CANARY[:12]}...{CANARY[-8:]}"]
    for form in forms:
        for at in (0, 150, 180, 190, 199):  # across the place where words are cut
            answer = http((" " * 2 + "x" * at + form).encode(), status, f"X-Echo: {CANARY}\r\n")
            with serving(answer) as server, pytest.raises(KnowledgeError) as caught:
                encoder(server.url, key_variable="CLOUD_KEY", retries=1).encode(["a"])
            pieces = {form[at : at + 6] for at in range(len(form) - 5) if "..." not in form[at : at + 6]}
            assert not [piece for piece in pieces if piece in str(caught.value)]
            assert caught.value.__cause__ is None
    assert "CANARY" not in caplog.text
    note("bad answers of endpoints", 5 * len(forms), Wrong(foreign=0, key=0))


def test_redaction_of_words_without_a_registered_key() -> None:
    assert (
        redact("GET https://me:pw@host/v1?api_key=abc&x=1#token=t failed")
        == "GET https://***@host/v1?api_key=***&x=1#token=*** failed"
    )
    assert redact("Authorization: Bearer abcdef") == "Authorization: Bearer ***"
    assert str(BraidError("https://a:b@c/d")) == "https://***@c/d"
    text = "a setting: k = 5, lr = .001; item 'x=y' of https://host/path?page=2"
    assert redact(text) == text


# -- bad answers ---------------------------------------------------------------------------------------------------------------


def row(embedding: str, index: str = "0") -> bytes:
    return b'{"data": [{"index": ' + index.encode() + b', "embedding": ' + embedding.encode() + b"}]}"


BAD: dict[str, bytes] = {
    "empty": b"",
    "deep": b'{"data": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "deep objects": b'{"data":' * 15_000 + b"1" + b"}" * 15_000,
    "no object": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "data null": b'{"data": null}',
    "data text": b'{"data": "abc"}',
    "rows null": b'{"data": [null]}',
    "rows lists": b'{"data": [[1, 2]]}',
    "no index": b'{"data": [{"embedding": [1, 2]}]}',
    "index text": row("[1, 2]", '"zero"'),
    "index huge": row("[1, 2]", "9" * 400),
    "index infinite": row("[1, 2]", "1e999"),
    "index nan": row("[1, 2]", "NaN"),
    "index list": row("[1, 2]", "[0]"),
    "index negative": row("[1, 2]", "-1"),
    "digits": row("[1, " + "9" * 5_000 + "]"),
    "huge whole number": row("[1, " + "9" * 400 + "]"),
    "beyond float32": row("[1, 1e300]"),
    "infinite": row("[1, 1e999]"),
    "nan": row("[NaN, 1]"),
    "ragged": row("[1, [2]]"),
    "empty vector": row("[]"),
    "narrow": row("[1]"),
    "wide": row("[1, 2, 3]"),
    "words": row('["a", "b"]'),
    "objects": row("[{}, {}]"),
    "null vector": row("null"),
    "base64": row('"AACAPwAAAEA="'),
    "two of one": b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 0, "embedding": [1, 2]}]}',
    "latin-1": '{"data": "\u00e9"}'.encode("latin-1"),
    "utf-16": row("[1]").decode().encode("utf-16"),
    "zero bytes": b"\0" * 100,
    "half": vectors(2)[:-5],
    "html": b"<!doctype html><title>login</title>",
    "too large": b" " * 10_000_000,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_our_error(name: str, monkeypatch: pytest.MonkeyPatch, note: Note) -> None:
    refused(http(BAD[name]), monkeypatch, note)


def refused(answer: Send, monkeypatch: pytest.MonkeyPatch, note: Note) -> None:
    """In our words, which name the address and hold no byte of the key that was sent."""
    monkeypatch.setenv("CLOUD_KEY", CANARY)
    with serving(answer) as server, pytest.raises(KnowledgeError, match=r"http://127\.0\.0\.1") as caught:
        encoder(server.url, key_variable="CLOUD_KEY").encode(["a"])
    shown = CANARY in str(caught.value)
    note("bad answers of endpoints", 1, Wrong(foreign=0, key=len(CANARY) * shown))
    assert not shown


BROKEN: dict[str, Send] = {
    "bomb": http(gzip.compress(b" " * 200_000_000, 9), headers="Content-Encoding: gzip\r\n"),
    "bomb, deflate": http(zlib.compress(b" " * 200_000_000, 9), headers="Content-Encoding: deflate\r\n"),
    "not gzip": http(b"abc", headers="Content-Encoding: gzip\r\n"),
    "gzip cut": http(gzip.compress(vectors(2))[:-12], headers="Content-Encoding: gzip\r\n"),
    "unknown packing": http(b"abc", headers="Content-Encoding: br\r\n"),
    "packed twice": http(b"abc", headers="Content-Encoding: gzip, gzip\r\n"),
    "no http": lambda send: send(b"SSH-2.0-OpenSSH\r\n"),
    "nothing": lambda send: None,
    "cut": lambda send: send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    "bad length": lambda send: send(b"HTTP/1.1 200 OK\r\nContent-Length: minus\r\n\r\n{}"),
    "bad chunks": lambda send: send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    "long headers": lambda send: send(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000 + b"\r\n\r\n"),
    "redirect": http(b"", "307 Over there", "Location: http://127.0.0.1:9/\r\n"),
    "retry never": http(b"", "429 Slow", "Retry-After: inf\r\n"),
    "retry nan": http(b"", "429 Slow", "Retry-After: nan\r\n"),
    "retry in no year": http(b"", "429 Slow", "Retry-After: Mon, 01 Jan 0001 00:00:00 GMT\r\n"),
    "retry in words": http(b"", "429 Slow", "Retry-After: soon\r\n"),
    "refusal without end": http(b"no" * 5_000_000, "400 Bad"),
    "refusal bomb": http(gzip.compress(b" " * 100_000_000), "400 Bad", "Content-Encoding: gzip\r\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_our_error(name: str, monkeypatch: pytest.MonkeyPatch, note: Note) -> None:
    refused(BROKEN[name], monkeypatch, note)


def test_an_answer_that_asks_to_come_back_without_a_time_is_tried_again() -> None:
    for name in ("retry nan", "retry in words", "retry in no year"):
        with serving(BROKEN[name]) as server, pytest.raises(KnowledgeError, match="gave up after 3 attempts"):
            encoder(server.url, retries=2).encode(["a"])


@pytest.mark.parametrize("where", ["head", "body"])
def test_an_answer_that_trickles_ends_with_the_time_for_the_whole(where: str) -> None:
    def trickle(send: Callable[[bytes], None]) -> None:
        send(b"HTTP/1.1 200 OK\r\n" + (b"X: " if where == "head" else b"Content-Length: 1000\r\n\r\n"))
        for _ in range(100):
            send(b"a")
            time.sleep(0.05)

    with serving(trickle) as server, pytest.raises(KnowledgeError, match=r"no whole answer within timeout = 0\.4 s"):
        encoder(server.url, timeout=0.4).encode(["a"])


def test_packed_answers_and_halves_of_characters_are_read() -> None:
    with serving(http(gzip.compress(vectors(2)), headers="Content-Encoding: gzip\r\n")) as server:
        assert encoder(server.url).encode(["half a character \ud83d"]).tolist() == [[0.5, 0.5]]


WRONG = ("http://", "http:///v1", "host/v1", "file:///etc/passwd", "http://h:99999/v1", "http://h\n/v1", "http://h:0/v1", "")
NOWHERE = ("http://no-such-host.invalid/v1", f"http://{'a' * 70}/v1", "http://h..h/v1", "http://127.0.0.1:1/v1")


@pytest.mark.parametrize("url", [*WRONG, "http://\u0661/v1"])
def test_a_wrong_address_is_our_error(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        encoder(url)


@pytest.mark.parametrize("url", NOWHERE)
def test_an_address_that_leads_nowhere_is_our_error(url: str) -> None:
    with pytest.raises((KnowledgeError, ConfigError), match="http"):
        make_encoder(encoder(url).config).encode(["a"])
