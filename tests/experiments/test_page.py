"""docs/results.md: what `reproduce --page` writes of the committed results is what is committed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from braidrec.cli import app
from braidrec.errors import ConfigError
from braidrec.experiments.page import BEGIN, END, headline, markdown, page, write_page
from braidrec.experiments.reproduce import EXPERIMENTS
from braidrec.runs.tables import plain_table

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_what_is_written_from_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = page(Path("results"), Path("docs"))
    assert text == (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), "braidrec reproduce --page docs/results.md"
    for experiment in EXPERIMENTS.values():
        if f"### {experiment.id} on " not in text:  # then it is said that there is nothing
            assert all(f"`{experiment.id}` on {data}" in text for data in experiment.rows)
            continue
        for said in (*experiment.notes, *experiment.shortfalls):
            assert said in text
    for file in (ROOT / "results" / "figures").iterdir():
        assert f"](../results/figures/{file.name})" in text
    assert "no working constraint (sufficiency off, disentanglement at zero)" in text
    assert "3 of the paper's 50 epochs" in text
    assert "count the earlier labels of all users" in text
    assert "the paper names no learning rate, depth or width" in text
    assert "Holm over this table's 22 tests" in text


def test_the_page_is_written_by_the_command_and_no_other_page_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    whole, readme, other = (tmp_path / name for name in ("results.md", "README.md", "other.md"))
    for _ in range(2):  # over itself, too
        assert CliRunner().invoke(app, ["reproduce", "--page", str(whole)]).exit_code == 0
    assert whole.read_text().startswith("# Results\n")
    readme.write_text(f"# mine\n\n{BEGIN}\nold\n{END}\nbelow\n")
    write_page(readme, Path("results"))
    assert readme.read_text() == f"# mine\n\n{BEGIN}\n{headline(Path('results'))}{END}\nbelow\n"
    other.write_text("# something else\n")
    with pytest.raises(ConfigError, match="is no page of results and has no place for the table"):
        write_page(other, Path("results"))
    assert other.read_text() == "# something else\n"


def test_the_first_screen_s_table_says_what_its_numbers_are(tmp_path: Path) -> None:
    lines = headline(ROOT / "results").splitlines()
    dcn = next(line for line in lines if "DCN" in line)
    assert "0.7926 ± 0.0002" in dcn
    assert "+0.0046 [+0.0034, +0.0058]" in dcn
    assert "(Holm over 3)" in dcn
    assert "0.7961 → 0.8035" in dcn
    sasrec = next(line for line in lines if "SASRec" in line and "nDCG" in line)
    assert "3.84 ± 0.09" in sasrec
    assert "(Holm over 6)" in sasrec
    paper = next(line for line in lines if "SASRec + PAD (paper)" in line and "HR" in line)
    assert "| 2.63 → 3.83 |" in paper
    assert any(line.startswith("- PAD (paper): preset paper, what reproduces") for line in lines)
    assert any("no working constraint" in line for line in lines)
    assert not any("±" in line for line in headline(tmp_path).splitlines())  # nothing is made up where there are no cells


def test_a_table_becomes_markdown() -> None:
    table = plain_table("a [b]", ("x", "n"), [("one | two", 1234), ("[red]", 5)])
    assert markdown(table) == "**a [b]**\n\n| x | n |\n| --- | ---: |\n| one \\| two | 1,234 |\n| [red] | 5 |"
