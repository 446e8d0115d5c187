"""docs/results.md and docs/results/: what `reproduce --page` writes of the committed results is what is committed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from braidrec.cli import app
from braidrec.errors import ConfigError, RunError
from braidrec.experiments.page import ABOUT, BEGIN, END, headline, pages, write_page
from braidrec.experiments.reproduce import EXPERIMENTS, from_cells
from braidrec.experiments.sections import not_run
from braidrec.files import read_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def written() -> Mapping[Path, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return pages(Path("docs/results.md"), Path("results"))


def test_the_committed_pages_are_what_is_written_from_the_results(written: Mapping[Path, str]) -> None:
    for file, text in written.items():
        assert text == (ROOT / file).read_text(encoding="utf-8"), "braidrec reproduce --page docs/results.md"
        assert len(text.encode()) < 100_000  # a page that somebody still reads
    assert {file.name for file in (ROOT / "docs" / "results").iterdir()} == {f"{paper}.md" for paper in ABOUT}
    for experiment in EXPERIMENTS.values():
        text = written[Path("docs/results") / f"{experiment.paper}.md"]
        if f"## {experiment.id} on " not in text:  # then it is said that there is nothing
            assert all(f"`{experiment.id}` on {data}" in text for data in experiment.rows)
            continue
        for said in (*experiment.notes, *experiment.shortfalls):
            assert said in text
    for experiment, data in ((each, data) for each in EXPERIMENTS.values() for data in each.rows):
        text = written[Path("docs/results") / f"{experiment.paper}.md"]
        for entry in from_cells(experiment, data, RESULTS)["rows"]:
            names = {each.label(entry["row"]) for each in EXPERIMENTS.values() if each.paper == experiment.paper}
            assert any(f"| {name} | " in text for name in names), (experiment.id, entry["row"])
    assert {text.count("\n## linear/") for text in written.values()} == {0, 4}  # rows of one name on other data are others
    whole = "".join(written.values())
    for file in (RESULTS / "figures").iterdir():
        assert f"](../../results/figures/{file.name})" in whole
    assert "no working constraint (sufficiency off, disentanglement at its floor)" in whole
    assert "3 of the paper's 50 epochs" in whole
    assert "count the earlier labels of all users" in whole
    assert "the paper names no learning rate, depth or width" in whole
    assert "Holm over this table's 22 tests" in whole


def test_a_page_says_every_row_and_every_test_once(written: Mapping[Path, str]) -> None:
    pad = written[Path("docs/results/pad.md")]
    assert "| sasrec-pad | sasrec-smem | +0.29 [+0.10, +0.48] | 0.0140 | +0.18 [+0.07, +0.30] | 0.0140 | 1,2,3 |" in pad
    assert pad.count("| sasrec-pad | sasrec | +1.94 ") == 1  # tables 3 and fig2 have the test, too
    assert (
        "And 2 of variants with one seed, or of rows tested above, are in [pad-table3-prime-pantry.json](../../results/" in pad
    )
    assert (
        "[pad-rq5-prime-pantry.json](../../results/pad-rq5-prime-pantry.json): 13 with p below 0.05, the smallest 0.0028."
        in pad
    )
    assert "Of rows that stand above: sasrec, sasrec-pad." in pad
    disco = written[Path("docs/results/disco.md")]
    assert "| deepfm-runs | gbdt | -0.0068 [-0.0084, -0.0052] | 0.0014 | <0.0001 | 1,2,3 |" in disco  # seeds drawn, too
    edk = written[Path("docs/results/edk.md")]
    assert "printed" not in edk.split("## edk/table2")[1].split("\n| ---")[0]  # a column that holds nothing is left out
    large = written[Path("docs/results/darec.md")].split("## darec/table3-large on ml-1m")[1].split("\n## ")[0]
    assert "| SGL + DaRec (ours) |" not in large  # nor a row
    assert "- not run: seed 1 of SGL + DaRec (ours), SimGCL + DaRec (ours)" in large
    assert "\nNot run, or with no row" not in written[Path("docs/results/darec.md")]


def test_the_overview_is_short_and_the_best_rows_come_first(written: Mapping[Path, str]) -> None:
    text = written[Path("docs/results.md")]
    assert len(text) < 15_000
    for paper, about in ABOUT.items():
        assert f"## {about.title}\n" in text
        assert f"(results/{paper}.md)" in text
    [disco] = [part for part in text.split("\n## ") if part.startswith("DisCo")]
    names = [line.split("|")[1].strip() for line in disco.splitlines() if line.startswith("| ")][2:]
    assert names.index("DIN with rates") < names.index("DIN") < names.index("DIN + DisCo")
    assert names.index("DIN + DisCo") < names.index("**gradient boosting on rates**") < names.index("DeepFM")
    assert names[-1] == "**item mean + user's residual**"
    assert "| DeepFM + DisCo | 0.8066 ± 0.0008 | 3 | to DeepFM: +0.0040 [+0.0031, +0.0049], p 0.0012 | 0.8029 |" in disco


def means(id: str, metric: str, data: str | None = None, part: str = "test") -> dict[str, float]:
    experiment = EXPERIMENTS[id]
    table = from_cells(experiment, experiment.dataset(data), RESULTS)
    return {entry["row"]: entry[f"{part}_{metric}"]["mean"] for entry in table["rows"] if entry.get(f"{part}_{metric}")}


def p_of(id: str, row: str, against: str, metric: str) -> float:
    experiment = EXPERIMENTS[id]
    entries = {entry["row"]: entry for entry in from_cells(experiment, experiment.dataset(None), RESULTS)["rows"]}
    tests: list[dict[str, Any]] = entries[row]["against"]
    return float(next(test["p_holm"] for test in tests if (test["row"], test["metric"]) == (against, metric)))


def test_where_gains_come_from_is_what_the_numbers_say() -> None:
    """Each claim of `About.gain`; where one no longer holds, its sentence is to be written anew."""
    runs, parts, tuned = means("disco/table3", "auc"), means("disco/ablations", "auc"), means("disco/tuned", "auc")
    plain = means("disco/table2", "auc")
    for name in ("din", "deepfm", "dcn"):
        assert plain[name] < parts[f"{name}-disco-constrained"] < plain[f"{name}-disco"]
    printed = [value["auc"] for value in EXPERIMENTS["disco/table3"].published["ml-1m"].values()]
    others = [value for row, value in (runs | plain | parts).items() if row != "gbdt" and "-tuned" not in row]
    assert tuned["din-tuned"] > max(*printed, *others)
    for name in ("din", "din-rates"):
        assert tuned["din-disco-tuned" + name.removeprefix("din")] < tuned["din-tuned" + name.removeprefix("din")]
    assert tuned["din-tuned"] < tuned["din-faster"]
    assert tuned["din-disco-faster"] < tuned["din-faster"]
    assert p_of("disco/tuned", "dcn-disco-faster", "dcn-faster", "auc") < 0.05
    for name in ("deepfm", "dcn"):
        assert tuned[f"{name}-disco-tuned"] > tuned[f"{name}-tuned"]
        assert p_of("disco/tuned", f"{name}-disco-tuned", f"{name}-tuned", "auc") < 0.05
    assert max(tuned, key=tuned.__getitem__) == "din-tuned-rates"

    floored = [name for name in parts if name.endswith("-floored")]
    assert len(floored) == 4
    for name in floored:
        assert -0.0012 < parts[name] - tuned[name.removesuffix("-floored")] < 0.0005
    seen = [means(id, "auc", part="valid") for id in ("disco/ablations", "disco/tuned")]
    assert all(seen[0][name] < seen[1][name.removesuffix("-floored")] + 0.0002 for name in floored)
    ends = []
    for file in (RESULTS / "disco-ml-1m" / "cells").glob("*-disco*.json"):
        cell = read_json(file, RunError)
        terms = cell["settings"]["run"]["model"]["disco"]
        if terms["club_floor"] and terms["disentangle_weight"] and not terms["sufficiency_weight"]:
            ends.append(cell["monitors"]["disentanglement"])
    assert len(ends) > 50
    assert max(ends) < 0.012
    for file in (RESULTS / "disco-ml-1m" / "cells").glob("refit-d*.json"):
        assert read_json(file, RunError)["best"]["check"] == 2  # the last one, that is all the epochs

    faster = means("edk/tuned", "auc")
    for name in ("tuned-deepfm", "tuned-din"):
        assert faster[f"{name}-edk"] < faster[name] or p_of("edk/tuned", f"{name}-edk", name, "auc") > 0.05
        assert faster[f"{name}-all"] > faster[name] + 0.005
    edk = means("edk/table2", "auc")
    for name in (row.removesuffix("-edk") for row in edk if row.endswith("-edk")):
        assert edk[name] < edk[f"{name}-all"]
        assert edk[f"{name}-edk"] < edk[name] or p_of("edk/table2", f"{name}-edk", name, "auc") > 0.05

    pad, frozen = means("pad/table2", "ndcg@10"), means("pad/rq2", "ndcg@10")["sasrec-pad-anchored-frozen"]
    assert pad["sasrec-hybrid"] - pad["sasrec"] > 0.5 * (pad["sasrec-pad"] - pad["sasrec"])
    assert pad["sasrec-smem"] < pad["sasrec-pad"] < frozen
    assert pad["sasrec-pad-paper"] < pad["sasrec"] < pad["markov"]

    darec = means("darec/table3", "recall@20")
    trained = {
        row: value for row, value in darec.items() if row not in ("popularity", "item-knn", "gf-cf", "ease", "ease-text")
    }
    assert darec["ease-text"] > max(trained.values())
    for row in (row for row in trained if row.endswith("-con")):
        backbone = row.removesuffix("-con")
        assert darec[row] > darec[f"{backbone}-darec"]
        lifted = darec[f"{backbone}-darec"] > darec[backbone]
        sure = p_of("darec/table3", f"{backbone}-darec", backbone, "recall@20") < 0.05
        assert (lifted and sure) == (backbone == "sgl")
    large = means("darec/table3-large", "recall@20", "prime-pantry")
    for backbone in ("lightgcn", "sgl", "simgcl"):
        assert 1.2 < large[f"{backbone}-con"] / large[backbone] < 1.4
        assert 1.2 < large[f"{backbone}-gen"] / large[backbone] < 1.4
        assert max(large[f"{backbone}-darec"], large[f"{backbone}-darec-ours"]) < large[backbone]
        assert large["ease-text"] > 1.2 * large[f"{backbone}-con"]
    published = EXPERIMENTS["darec/table3-amazon-book"].published["rlmrec-amazon-book"].values()
    assert means("darec/table3-amazon-book", "recall@20")["ease"] > max(row["recall@20"] for row in published)

    sdrl, genres = means("sdrl/table2", "ndcg_all@10"), means("sdrl/table5", "classes_f1")
    assert all(sdrl["sdrl"] < sdrl[name] for name in ("ease", "prone", "vaecf", "macridvae"))
    assert p_of("sdrl/table2", "sdrl-ours", "ease", "ndcg_all@10") > 0.05
    assert genres["sdrl-strict"] < genres["netmf"] < genres["sdrl"]
    assert genres["sdrl-ours-strict"] < genres["prone"] < genres["sdrl-ours"]

    for id, end in (("amazon-book", ""), ("prime-pantry", "-split0"), ("ml-1m", ""), ("ml-latest-small", "")):
        found = means(f"linear/{id}", "recall@20")
        ids = {row: value for row, value in found.items() if row.endswith(end) and "tfidf" not in row and "minilm" not in row}
        assert max(ids, key=ids.__getitem__) == f"ease{end}"
        if text := found.get(f"ease-stack-minilm{end}"):
            sparse = id == "prime-pantry"
            assert (text > 1.4 * found[f"ease{end}"]) if sparse else (text < 1.01 * found[f"ease{end}"])
            assert (found[f"text-knn-minilm{end}"] > max(ids.values())) == sparse


def test_pages_are_written_by_the_command_and_no_other_page_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    whole, readme, other = (tmp_path / name for name in ("results.md", "README.md", "other.md"))
    for _ in range(2):  # over themselves, too
        done = CliRunner().invoke(app, ["reproduce", "--page", str(whole)])
        assert done.exit_code == 0
    assert whole.read_text().startswith("# Results\n")
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == sorted(f"{paper}.md" for paper in ABOUT)
    assert (tmp_path / "results" / "pad.md").read_text().startswith(f"# Results: {ABOUT['pad'].title}\n")
    readme.write_text(f"# mine\n\n{BEGIN}\nold\n{END}\nbelow\n")
    assert write_page(readme, Path("results")) == [readme]
    assert readme.read_text() == f"# mine\n\n{BEGIN}\n{headline(Path('results'))}{END}\nbelow\n"
    other.write_text("# something else\n")
    with pytest.raises(ConfigError, match=r"other\.md: is no page of results and has no place for the table"):
        write_page(other, Path("results"))
    assert other.read_text() == "# something else\n"
    (tmp_path / "results" / "edk.md").write_text("mine\n")
    before = whole.read_text()
    whole.write_text("# Results\n")
    with pytest.raises(ConfigError, match=r"results/edk\.md: is no page of results"):
        write_page(whole, Path("results"))
    assert whole.read_text() == "# Results\n" != before  # nothing is written where one page would be lost


def test_without_results_there_is_an_overview_of_nothing(tmp_path: Path) -> None:
    [(file, text)] = pages(tmp_path / "results.md", tmp_path / "none").items()
    assert file == tmp_path / "results.md"
    assert "±" not in text.split("\n## How to read the pages")[0].replace("means over seeds ± their", "")
    assert not any(about.title in text for about in ABOUT.values())


def test_the_first_screen_s_table_says_what_its_numbers_are(tmp_path: Path) -> None:
    lines = headline(RESULTS).splitlines()
    dcn = next(line for line in lines if "DCN" in line)
    assert "0.8003 ± 0.0004" in dcn
    assert "+0.0050 [+0.0038, +0.0064]" in dcn
    assert "(Holm over 6)" in dcn
    assert "0.7961 → 0.8035" in dcn
    sasrec = next(line for line in lines if "SASRec" in line and "nDCG" in line)
    assert "3.84 ± 0.09" in sasrec
    assert "(Holm over 6)" in sasrec
    paper = next(line for line in lines if "SASRec + PAD (paper)" in line and "HR" in line)
    assert "| 2.63 → 3.83 |" in paper
    assert any(line.startswith("- PAD (paper): preset paper, what reproduces") for line in lines)
    assert any("neither of the paper's losses" in line for line in lines)
    assert not any("±" in line for line in headline(tmp_path).splitlines())  # nothing is made up where there are no cells


def test_rows_that_lack_the_same_seeds_are_named_together() -> None:
    cells = ["din s2", "din s3", "a-s1 s1", "dcn s2", "dcn s3"]
    assert not_run(cells, EXPERIMENTS["disco/table2"]) == "seeds 2, 3 of din, dcn; seed 1 of a-s1"
