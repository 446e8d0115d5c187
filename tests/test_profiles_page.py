"""The page on profiles runs as it is printed, against an endpoint on this machine; the commands know what it names."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from braidrec import cli
from braidrec.knowledge.profiles.writer import WriterConfig
from chat import Asked, chatting, completion, well

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
ADDRESS = re.search(r'^url = "(.*)"$', PAGE, flags=re.MULTILINE)[1]  # type: ignore[index]
VARYING = re.compile(r"[\d,]+ texts/s|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def counted(body: Asked) -> bytes:
    """An answer whose tokens are its characters / 4."""
    message = well(body)
    read = sum(len(each["content"]) for each in body["messages"]) // 4
    return completion(message, usage={"prompt_tokens": read, "completion_tokens": len(message) // 4})


def blocks() -> list[tuple[str, str]]:
    """Each command of the page, with what is printed below it."""
    found = []
    for block in re.findall(r"^```\n(\$ .*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed))
    return found


def test_the_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CHAT_KEY", "sk-CANARY-aa11bb22")
    monkeypatch.setattr(typer, "confirm", lambda question: print(f"{question} [y/N]: y") or True)  # type: ignore[func-returns-value]

    def run(command: str) -> str:
        words = command.removeprefix("braidrec ").split()
        monkeypatch.setattr(sys, "argv", ["braidrec", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert end.value.code == 0, err
        return out

    with chatting() as chat:
        chat.answer = counted
        here = chat.url.removeprefix("http://").removesuffix("/v1")
        there = ADDRESS.removeprefix("http://").removesuffix("/v1")
        settings = re.search(r"^```toml\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)[1]  # type: ignore[index]
        Path("writer.toml").write_text(settings.replace(ADDRESS, chat.url))
        run("data prepare examples/shop/shop.toml")
        told = [(command, run(command).replace(here, there), printed) for command, printed in blocks()]
    for command, found, printed in told:
        assert lines(found) == lines(printed), f"{command}\n{found}"
    assert len(told) == 5


def lines(text: str) -> list[str]:
    return [VARYING.sub("#", line).rstrip() for line in text.strip().splitlines()]


def test_the_page_names_settings_that_there_are() -> None:
    rows: list[Any] = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)*", PAGE, flags=re.MULTILINE)
    named = {name for row in re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert rows
    assert named == set(WriterConfig.model_fields)
