"""Runs of sequence models: trained in stages, killed and resumed, loaded, ranked, asked, and given new items."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sequence_runs as small
import torch
from sequence_runs import copy_of, knowledge, morec, pad, sasrec, smem, train, walks

from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError, ConfigError, DataError, RunError
from braidrec.evaluation.retrieval import rank_targets
from braidrec.files import load_tensors, read_json
from braidrec.runs import fit
from braidrec.runs.knowledge import KnowledgeBases, build
from braidrec.runs.run import Run, load
from braidrec.sequential import task
from braidrec.sequential.scoring import HistoryScorer, part_rows
from braidrec.task import Outcome
from braidrec.training.checkpoint import Store, read_archive
from test_cli import Screen

EVERY = [sasrec, pad, smem]
USER = "u3"


@pytest.fixture(params=EVERY, ids=lambda made: made.__name__)
def run(request: pytest.FixtureRequest) -> Run:
    return request.param()


def weights(run: Run) -> bytes:
    return (run.path / "model.safetensors").read_bytes()


def rows_of(user: str) -> list[int]:
    """Catalogue rows that a user met, oldest first, straight from how the world was made."""
    return [item + 1 for item in walks()[int(user[1:])]]


def ranking(run: Run, part: str = "test") -> Outcome:
    return run.outcome(part, show_progress=False)


def by_hand(run: Run, *pasts: list[int]) -> np.ndarray:
    """The model's scores (n, I + 1) after each past, without padding: all windows of one length at a time."""
    model: Any = run.model.module
    windows = [past[-small.LENGTH :] for past in pasts]
    found = np.zeros((len(pasts), run.num_items + 1), np.float32)
    with torch.no_grad():
        catalogue = model.catalogue()
        for length in {len(window) for window in windows}:
            places = [at for at, window in enumerate(windows) if len(window) == length]
            items = torch.tensor([windows[at] for at in places])
            found[places] = catalogue.scores(model.states(items, items > 0)).numpy()
    return found


# -- what a run leaves behind ---------------------------------------------------------------------------------------------


def test_a_run_keeps_the_weights_of_every_stage_and_nothing_of_training() -> None:
    names = {each.name for each in pad().path.iterdir() if not each.name.startswith(("outcome", "evaluation"))}
    assert names == {
        *("config.toml", "run.json", "model.safetensors", "model.json", "vocabulary.json", "metrics.jsonl", "environment.json"),
        *("catalogue.parquet", "users.parquet", "weights"),
    }
    stages = {sasrec: ["pretrain"], pad: ["pretrain", "align", "experts"], smem: ["pretrain", "experts"]}
    for made, expected in stages.items():
        run = made()
        assert [phase["name"] for phase in run.record["phases"]] == expected
        assert sorted(each.name for each in (run.path / "weights").iterdir()) == sorted(expected)
        for phase in run.record["phases"]:
            assert read_archive(run.path / "weights" / phase["name"]).facts["metrics"] == phase["best"]["metrics"]
        assert run.record["best"] == run.record["phases"][-1]["best"]
    assert [run.title for run in (sasrec(), pad(), smem())] == ["SASRec (ours)", "SASRec + PAD (ours)", "GRU4Rec + SMEM (ours)"]
    assert (sasrec().record["knowledge"], [base["encoder"] for base in pad().record["knowledge"]]) == ([], ["tfidf"])
    assert pad().headline == "HR@10 {hr@10:.4f}, nDCG@10 {ndcg@10:.4f}".format_map(pad().record["best"]["metrics"])


def test_text_is_saved_reduced_with_the_network_that_reads_new_items() -> None:
    about = read_json(pad().path / "model.json", RunError)
    saved = load_tensors(pad().path / "model.safetensors", about["sha256"], RunError)
    tensors = {name: part for name, part in saved.items() if not name.startswith("data.")}
    assert saved.keys() - tensors.keys() == {"data.counts", "data.bucket"}
    assert saved["data.counts"].tolist() == counts()
    assert tensors["experts.text.items.reduced"].shape == (small.ITEMS + 1, 8)
    assert tensors["experts.aligned.items.text.reduced"].shape == (small.ITEMS + 1, 8)
    assert tensors["experts.text.items.mlp.0.weight"].shape == (8, 256)
    assert about["semantic_width"] == 256
    assert not [name for name in tensors if "knowledge" in name or "trained" in name or "bucket" in name]
    left_out = sum(part.numel() for name, part in tensors.items() if name.endswith((".reduced", ".mean")))
    assert about["parameters"] == sum(part.numel() for part in tensors.values()) - left_out


def test_a_loaded_model_ranks_as_the_one_that_was_trained(run: Run, tmp_path: Path) -> None:
    """The last stage's weights, as they were before text was reduced, against the run that was saved and opened again."""
    trained = run._stage(run.record["phases"][-1]["name"])
    for part in ("valid", "test"):
        rows = part_rows(run.dataset, part)
        expected = rank_targets(HistoryScorer(trained, rows, small.LENGTH), rows, top=20)
        found = ranking(copy_of(run, tmp_path / part), part).values
        np.testing.assert_array_equal(found["rank"], expected.rank)
        np.testing.assert_array_equal(found["top"], expected.top)
    values = run.evaluate("valid", show_progress=False)["all"]
    assert {name: values[name] for name in ("hr@10", "ndcg@10")} == pytest.approx(run.record["best"]["metrics"], abs=1e-12)


def test_something_is_learned(run: Run) -> None:
    values = run.evaluate(show_progress=False)["all"]
    popular = sorted(range(small.ITEMS), key=lambda item: (-counts()[item + 1], item))
    hits = sum(walk[-1] in [item for item in popular if item not in walk[:-1]][:10] for walk in walks())
    assert values["hr@10"] > hits / len(walks()) + 0.05


def test_same_seed_same_bytes_and_loading_moves_no_random_number(tmp_path: Path) -> None:
    again = train(tmp_path / "again")
    assert weights(again) == weights(sasrec()) != weights(sasrec(2))
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load(pad().path)
    pad().inspect("align")
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_run_is_loaded_and_a_damaged_one_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = sasrec()
    monkeypatch.setattr(fit, "train", None)  # calling it would fail
    assert train(run.path).record == run.record
    with pytest.raises(ConfigError, match=r"other settings \(model\.dim was 8 and is now 16\)"):
        train(sasrec().path, model={"dim": 16})
    damaged = copy_of(pad(), tmp_path / "run")
    archive = damaged.path / "weights" / "align" / "model.safetensors"
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"model\.safetensors.*damaged or was replaced"):
        damaged.inspect("align")


# -- killed and resumed ---------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from braidrec.training.loop import _PhaseRun
check = _PhaseRun._check
def die(self):
    over = check(self)
    if self.phase.name == "align" and self.checks == 1:
        self._save()
    elif self.phase.name == "align":
        os.kill(os.getpid(), signal.SIGKILL)
    return over
_PhaseRun._check = die
from braidrec.cli import main
main()
"""


def options() -> list[str]:
    """What `train` sets for PAD, for the command line."""
    settings = {f"training.{name}": value for name, value in small.TRAINING.items()}
    settings |= {f"training.phases.{phase}.lr": small.TRAINING["lr"] for phase in small.PHASES["pad"]}
    settings |= {f"model.{name}": value for name, value in small.MODEL.items()}
    settings |= {f"model.backbone.{name}": value for name, value in small.BACKBONES["sasrec"].items()}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def test_a_fit_killed_in_its_second_stage_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "run"
    wanted = ["--data", str(small.dataset().path), "--knowledge", str(knowledge()), "--enhance", "pad", "--backbone", "sasrec"]
    command = [sys.executable, "-c", KILLED, "fit", *wanted, "--seed", "1", "--out", str(path), *options()]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    archive = Store(path / "training").latest()
    assert archive is not None
    assert [phase["name"] for phase in archive.facts["finished"]] == ["pretrain"]
    assert archive.facts["progress"] is not None, "in the middle of the second stage"
    with pytest.raises(RunError, match="is unfinished"):
        load(path)
    resumed = train(path, enhance="pad", knowledge=knowledge())
    assert weights(resumed) == weights(pad())
    for stage in ("pretrain", "align", "experts"):
        file = Path("weights", stage, "model.safetensors")
        assert (path / file).read_bytes() == (pad().path / file).read_bytes()
    assert [phase["best"] for phase in resumed.record["phases"]] == [phase["best"] for phase in pad().record["phases"]]
    assert not (path / "training").exists()


def test_a_process_that_dies_while_it_saves_leaves_no_half_of_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, copy = tmp_path / "run", fit.shutil.copytree

    def half(source: Path, target: Path) -> None:
        copy(source, target)
        if "align" in source.name:
            (target / "manifest.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fit.shutil, "copytree", half)
        with pytest.raises(KeyboardInterrupt):
            train(path, enhance="pad", knowledge=knowledge())
    assert [each.name for each in (path / "weights").iterdir()] == ["pretrain"]
    resumed = train(path, enhance="pad", knowledge=knowledge())
    assert weights(resumed) == weights(pad())
    np.testing.assert_array_equal(resumed.inspect("align")["aligned"], pad().inspect("align")["aligned"])
    assert sorted(each.name for each in (path / "weights").iterdir()) == ["align", "experts", "pretrain"]


# -- stages of other runs -------------------------------------------------------------------------------------------------


def starting_from(run: Run, *stages: str) -> dict[str, Any]:
    return {"start_from": {stage: str(run.path) for stage in stages}}


def test_a_stage_of_another_run_is_taken_over(tmp_path: Path) -> None:
    """The first stage is the plain model: PAD goes on from SASRec's, as if it had trained that itself."""
    base = copy_of(sasrec(), tmp_path / "base")
    run = train(tmp_path / "run", enhance="pad", knowledge=knowledge(), model=starting_from(base, "pretrain"))
    assert [phase["name"] for phase in run.record["phases"]] == ["align", "experts"]
    assert sorted(each.name for each in (run.path / "weights").iterdir()) == ["align", "experts"]
    assert run.record["choices"] == {"start_from": {"pretrain": str(base.path)}}
    np.testing.assert_array_equal(base.inspect("pretrain")["id"], pad().inspect("pretrain")["id"])
    shutil.rmtree(base.path)  # needed no longer
    again = load(run.path)
    assert weights(again) == weights(pad())
    np.testing.assert_array_equal(again.inspect("align")["aligned"], pad().inspect("align")["aligned"])
    with pytest.raises(RunError, match=r"this run trained no stage 'pretrain' \(it has: align, experts\)"):
        again.inspect("pretrain")


@pytest.mark.parametrize(
    ("start", "changes", "said"),
    [
        (
            lambda: {"pretrain": "nowhere"},
            {},
            r"start_from\.pretrain = 'nowhere': no run with the weights of a stage 'pretrain'",
        ),
        (lambda: {"align": str(sasrec().path)}, {}, "no run with the weights of a stage 'align' is there"),
        (lambda: {"experts": str(pad().path)}, {}, r"none that another follows \(this model has: pretrain, align\)"),
        (lambda: {"pretrain": str(sasrec().path)}, {"dim": 4}, r"do not fit stage 'align': .* \(\d+, 8\).* \(\d+, 4\) here"),
        (
            lambda: {"pretrain": str(sasrec().path)},
            {"backbone": {**small.BACKBONES["sasrec"], "blocks": 2}},
            r"do not fit stage 'align': model\.backbone\.blocks is 1 there and 2 here",
        ),
        (
            lambda: {"pretrain": str(sasrec().path)},
            {"backbone": {**small.BACKBONES["sasrec"], "heads": 4}},
            r"model\.backbone\.heads is 2 there and 4 here",  # the same shapes, and another model
        ),
    ],
    ids=["no folder", "no stage", "last stage", "other width", "more blocks", "more heads"],
)
def test_a_stage_that_cannot_be_taken_over_is_refused_before_anything_is_written(
    start: Callable[[], dict[str, str]], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", enhance="pad", knowledge=knowledge(), model={**changes, "start_from": start()})
    assert not (tmp_path / "run").exists()


def test_a_stage_of_another_backbone_is_refused_by_its_name(tmp_path: Path) -> None:
    start = starting_from(sasrec(), "pretrain")
    with pytest.raises(ConfigError, match=r"do not fit stage 'align': backbone is 'sasrec' there and 'gru4rec' here"):
        train(tmp_path / "run", backbone="gru4rec", enhance="pad", knowledge=knowledge(), model=start)


def test_a_stage_goes_with_the_text_that_it_was_trained_on_where_it_read_any(tmp_path: Path) -> None:
    build(small.dataset().path, tmp_path / "words", "tfidf")
    (tmp_path / "words.toml").write_text('[encoder]\nkind = "tfidf"\nseed = 7\n')
    build(small.dataset().path, tmp_path / "other", str(tmp_path / "words.toml"))
    said = r"start_from\.align = .*: trained on a knowledge base with .* which now has .*; name the knowledge base that it was"
    for start in (("align",), ("pretrain", "align")):
        with pytest.raises(ConfigError, match=said):
            train(tmp_path / "run", enhance="pad", knowledge=tmp_path / "other", model=starting_from(pad(), *start))
    assert not (tmp_path / "run").exists()
    start = starting_from(pad(), "pretrain")  # by ids alone
    assert train(tmp_path / "run", enhance="pad", knowledge=tmp_path / "other", model=start).record["phases"]
    start = starting_from(pad(), "align")  # filled alike
    settings: dict[str, Any] = {"model": start, "training": {"phases": {"align": {"lr": None}}}}
    assert train(tmp_path / "alike", enhance="pad", knowledge=tmp_path / "words", **settings).record["phases"]


def test_settings_of_a_stage_that_is_taken_over_are_refused_if_the_request_has_them(tmp_path: Path) -> None:
    """PAD's preset has some for the stage, which `test_a_stage_of_another_run_is_taken_over` goes by."""
    training = {"phases": {"pretrain": {"lr": 0.5}}}
    said = r"training\.phases\.pretrain\.lr: the stage 'pretrain' is taken over from .*; drop it, or .*start_from\.pretrain"
    start = starting_from(sasrec(), "pretrain")
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", enhance="pad", knowledge=knowledge(), model=start, training=training)
    assert not (tmp_path / "run").exists()


def test_a_stage_of_other_data_is_refused_though_its_shapes_fit(tmp_path: Path) -> None:
    other = small.prepare(tmp_path / "other", walks(1))
    assert other.num_items == small.dataset().num_items
    with pytest.raises(ConfigError, match=r"start_from\.pretrain = .*: trained on data with fingerprint .* other items"):
        train(tmp_path / "run", other, enhance="smem", knowledge=knowledge(), model=starting_from(sasrec(), "pretrain"))
    assert not (tmp_path / "run").exists()


# -- what cannot be trained -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"phases": {"algin": {"lr": 1e-3}}}, "enhance": "pad"}, r"SASRec \+ PAD has no phase 'algin'.*'align'"),
        ({"training": {"phases": {"align": {"lr": 0.5}}}}, "SASRec has no phase 'align'"),
        ({"training": {"tables": "lazy"}}, "sequence models train dense tables: drop it"),
        ({"enhance": "morec", "knowledge": None}, r"give the run a knowledge base \(knowledge=FOLDER\)"),
        ({"enhance": "pad", "knowledge": "nowhere"}, r"no knowledge base here; make one with build_knowledge\(data, "),
    ],
    ids=["misspelt phase", "phase of another model", "lazy tables", "no knowledge base", "missing knowledge base"],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BraidError, match=said):
        train(tmp_path / "run", **{"knowledge": knowledge(), **changes})
    assert not (tmp_path / "run").exists()


def test_phases_have_settings_of_their_own_and_a_preset_s_may_find_no_phase(tmp_path: Path) -> None:
    training = {"phases": {"experts": {"max_epochs": 1, "checks_per_epoch": 3, "batch_size": 540}}}
    run = train(tmp_path / "run", backbone="gru4rec", enhance="smem", knowledge=knowledge(), training=training)
    assert [phase["training"]["steps"] for phase in run.record["phases"]] == [36, 2]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["check"]) for line in lines][-3:] == [("pretrain", 4), ("experts", 1), ("experts", 2)]
    assert train(tmp_path / "paper", preset="paper", training={"max_epochs": 1}).title == "SASRec (paper)"


def test_a_text_vector_that_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = KnowledgeBases.matrix

    def broken(bases: KnowledgeBases, dataset: Dataset) -> np.ndarray:
        vectors = whole(bases, dataset)
        vectors[5, 3] = np.nan
        return vectors

    monkeypatch.setattr(KnowledgeBases, "matrix", broken)
    with pytest.raises(
        ConfigError, match=r"the text vector of item 'i4' holds NaN or infinity; build the knowledge base again"
    ):
        train(tmp_path / "run", enhance="pad", knowledge=knowledge())
    assert not (tmp_path / "run").exists()


def test_data_without_sequences_is_refused(tmp_path: Path) -> None:
    shuffled = small.prepare(tmp_path / "ratio", walks(), "ratio")
    with pytest.raises(DataError, match=r"the split is 'ratio'.*split\.kind = 'leave_last_two' or 'temporal'"):
        train(tmp_path / "run", shuffled)
    short = small.prepare(tmp_path / "short", [walk[-3:] for walk in walks()], min_history=0)
    with pytest.raises(DataError, match=r"no user has two events before the held-out ones.*bring longer histories"):
        train(tmp_path / "run", short)
    assert not (tmp_path / "run").exists()


# -- evaluation -----------------------------------------------------------------------------------------------------------


def counts() -> list[int]:
    """Training events of each catalogue row: all but the last two of every user."""
    found = [0] * (small.ITEMS + 1)
    for walk in walks():
        for item in walk[:-2]:
            found[item + 1] += 1
    return found


def test_the_report_is_that_of_a_ranking_done_by_hand(run: Run) -> None:
    users = [run.dataset.user_ids[row - 1] for row in run.dataset.log.user[run.dataset.split["test"]]]
    assert sorted(users) == sorted(f"u{user}" for user in range(len(walks())))
    ranks, lists, missed = [], [], 0
    for user, values in zip(users, by_hand(run, *(rows_of(user)[:-1] for user in users)), strict=True):
        scores = values.tolist()
        *past, target = rows_of(user)
        free = [row for row in range(1, small.ITEMS + 1) if row not in past]
        order = sorted(free, key=lambda row: (-scores[row], row))
        missed += target in past
        ranks.append(small.ITEMS if target in past else order.index(target) + 1)
        lists.append(order[:20])
    found = ranking(run).values
    assert found["rank"].tolist() == ranks
    assert found["top"].tolist() == lists
    report = run.evaluate(show_progress=False, min_rows=1)
    targets = [rows_of(user)[-1] for user in users]
    met = [counts()[target] for target in targets]
    wanted = {"all": lambda n: True, "warm": lambda n: n > 50, "median": lambda n: 7 <= n <= 50, "cold": lambda n: n <= 6}
    for name, within in wanted.items():
        own = [rank for rank, n in zip(ranks, met, strict=True) if within(n)]
        values = report[name]
        assert values.rows == values.counts["users"] == len(own)
        assert values["hr@10"] == pytest.approx(sum(rank <= 10 for rank in own) / len(own))
        assert values["ndcg@10"] == pytest.approx(sum(1 / math.log2(rank + 1) for rank in own if rank <= 10) / len(own))
        assert values["mrr@5"] == pytest.approx(sum(1 / rank for rank in own if rank <= 5) / len(own))
    assert report["unseen"].rows == sum(target > small.ITEMS - small.LAUNCHED for target in targets) == 27
    assert report.lists["masked"] == missed / len(users)
    assert report.lists["coverage"] == len({row for each in lists for row in each[:10]}) / small.ITEMS
    assert read_json(run.path / "evaluation.test.json", RunError) == json.loads(json.dumps(report.to_json()))


@pytest.mark.parametrize("damage", ["tensors", "gone", "note", "shape", "empty", "data"])
def test_ranks_are_computed_once_and_again_when_they_are_damaged(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = copy_of(sasrec(), tmp_path / "run"), []
    ranked = task.rank_targets

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return ranked(*arguments, **options)

    monkeypatch.setattr(task, "rank_targets", counted)
    before = ranking(run).values
    for again in (run, load(run.path)):
        np.testing.assert_array_equal(ranking(again).values["rank"], before["rank"])
    assert len(calls) == 1
    file, note = run.path / "outcome.test.safetensors", run.path / "outcome.test.json"
    if damage == "tensors":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif damage == "gone":
        file.unlink()
    else:
        other = json.dumps({**json.loads(note.read_text()), "data": "0123"})
        note.write_text({"note": "{", "shape": "[1]", "empty": "{}", "data": other}[damage])
    found = ranking(load(run.path)).values
    assert len(calls) == 2
    for name in ("rank", "top", "masked"):
        np.testing.assert_array_equal(found[name], before[name])
    assert ranking(load(run.path)).values["rank"].tolist() == before["rank"].tolist()
    assert len(calls) == 2
    with pytest.raises(DataError, match="the split has no part 'tset'"):
        run.evaluate("tset", show_progress=False)


@pytest.mark.parametrize("made", [pad, smem])
def test_added_items_change_no_number_of_an_evaluation(made: Callable[[], Run], tmp_path: Path) -> None:
    run = copy_of(made(), tmp_path / "run")
    run.add_items({f"late-{at}": small.title(at) for at in range(5)})
    found, expected = ranking(run).values, ranking(made()).values
    for name in ("rank", "top", "masked"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert run.evaluate(show_progress=False).to_json() == made().evaluate(show_progress=False).to_json()


# -- a look inside --------------------------------------------------------------------------------------------------------


def test_the_parts_of_item_vectors() -> None:
    shape = (small.ITEMS + 1, 8)
    assert set(sasrec().inspect()) == {"id"}
    assert set(morec().inspect()) == {"text"}
    found = pad().inspect()
    assert {name: part.shape for name, part in found.items()} == dict.fromkeys(
        ("id", "aligned_id", "aligned_text", "aligned", "text"), shape
    )
    assert all(part.dtype == np.float32 and not part[0].any() and part[1:].any() for part in found.values())
    assert {name: part.shape for name, part in pad().inspect("align").items()} == dict.fromkeys(
        ("aligned_id", "aligned_text", "aligned"), shape
    )
    assert set(pad().inspect("pretrain")) == {"id"}
    for name, part in pad().inspect("experts").items():
        np.testing.assert_allclose(part, found[name], atol=1e-6, err_msg=name)
    with pytest.raises(RunError, match=r"this run trained no stage 'algin' \(it has: align, experts, pretrain\)"):
        pad().inspect("algin")


def test_an_item_s_score_is_the_sum_of_what_its_parts_say() -> None:
    """The vectors that `inspect` names and the shares that `inspect_gate` names are those that rank."""
    model: Any = pad().model.module
    past = rows_of(USER)
    items = torch.tensor([past[-small.LENGTH :]])
    with torch.no_grad():
        states = model.states(items, items > 0).vectors[0].view(3, 8).numpy()
    vectors, gate = pad().inspect(), pad().model.facts()["gate"]
    for row in (1, 5, 20):
        parts = [state @ vectors[name][row] for state, name in zip(states, gate["experts"], strict=True)]
        expected = np.dot(gate["shares"][int(model.bucket[row]) - 1], parts)
        assert by_hand(pad(), past)[0][row] == pytest.approx(expected, abs=1e-5)


def test_align_starts_from_the_id_table_of_the_first_stage(tmp_path: Path) -> None:
    """At a rate next to none, align ends where it began; experts likewise, from both."""
    still = {"max_epochs": 1, "lr": 1e-12, "weight_decay": 0.0}
    training = {"phases": {"align": still, "experts": still}}
    run = train(
        tmp_path / "run", enhance="pad", knowledge=knowledge(), training=training, model={"enhance": {"unseen": "trained"}}
    )
    first = run.inspect("pretrain")["id"]
    np.testing.assert_array_equal(first, pad().inspect("pretrain")["id"])
    np.testing.assert_allclose(run.inspect("align")["aligned_id"], first, atol=1e-9)
    np.testing.assert_allclose(run.inspect()["id"], first, atol=1e-9)
    np.testing.assert_allclose(run.inspect()["aligned"], run.inspect("align")["aligned"], atol=1e-6)
    assert np.abs(pad().inspect("align")["aligned_id"] - first).max() > 0.01


def test_shares_of_the_gate() -> None:
    for run in (pad(), smem()):
        found = run.model.facts()["gate"]
        assert found["experts"] == ["id", "aligned", "text"]
        shares = np.array(found["shares"])
        assert shares.shape == (4, 3)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert sasrec().model.facts() == {}


# -- who gets what --------------------------------------------------------------------------------------------------------


def test_a_known_user_gets_unseen_items_best_first(run: Run) -> None:
    """All that the user met counts, the test event too."""
    found, past = run.recommend(USER, k=10), rows_of(USER)
    (scores,) = by_hand(run, past)
    order = sorted((row for row in range(1, small.ITEMS + 1) if row not in past), key=lambda row: -scores[row])
    assert [each.item for each in found] == [f"i{row - 1}" for row in order[:10]]
    np.testing.assert_allclose([each.score for each in found], scores[order[:10]], rtol=1e-5, atol=1e-6)
    assert [each.title for each in found] == [small.title(row - 1) for row in order[:10]]
    assert {each.probability for each in found} == {None}
    np.testing.assert_allclose(run.score_items(USER, [each.item for each in found]), scores[order[:10]], rtol=1e-5, atol=1e-6)
    everything = run.recommend(USER, k=10**6, exclude_seen=False)
    assert sorted(each.item for each in everything) == sorted(run.dataset.item_ids)
    assert len(run.recommend(USER, k=10**6)) == small.ITEMS - len(set(past))


def test_somebody_new_is_known_by_their_items_in_order(run: Run) -> None:
    liked = ["i12", "i3", "i12", "i4"]
    found = run.recommend(items=liked, k=50)
    (scores,) = by_hand(run, [13, 4, 13, 5])
    order = sorted((row for row in range(1, small.ITEMS + 1) if row not in (13, 4, 5)), key=lambda row: -scores[row])
    assert [each.item for each in found] == [f"i{row - 1}" for row in order]
    assert {"i12", "i3", "i4"} < {each.item for each in run.recommend(items=liked, k=50, exclude_seen=False)}
    known = run.recommend(USER, k=50)
    assert run.recommend(items=[f"i{row - 1}" for row in rows_of(USER)], k=50) == known, "the same past, the same answer"
    assert run.recommend(items=["i20", *liked], k=5)[0].score != run.recommend(items=[*liked, "i20"], k=5)[0].score


def test_without_a_history_what_was_met_most_often_comes_first(run: Run) -> None:
    order = sorted(range(1, small.ITEMS + 1), key=lambda row: (-counts()[row], row))
    for found in (run.recommend("shy", k=50), run.recommend(items=[], k=50)):
        assert [each.item for each in found] == [f"i{row - 1}" for row in order]
        assert [each.score for each in found] == [counts()[row] for row in order]


def test_ids_and_numbers_that_make_no_sense(tmp_path: Path) -> None:
    run = sasrec()
    with pytest.raises(DataError, match=r"user 'u10811' is not in rings \(did you mean 'u10\d+'\?\); for somebody new ask"):
        run.recommend("u10811")
    with pytest.raises(DataError, match=r"item 'i111' is not in the catalogue of rings \(did you mean 'i1\d?'\?\)"):
        run.recommend(items=["i1", "i111"])
    for k in (0, -1):
        with pytest.raises(DataError, match=f"k = {k}: ask for at least one item"):
            run.recommend(USER, k=k)
        with pytest.raises(DataError, match=f"k = {k}: ask for at least one item"):
            run.recommend_all(tmp_path / "all.parquet", k=k)
    with pytest.raises(DataError, match="needs to know who it is for"):
        run.recommend()


def test_allow_and_deny(tmp_path: Path) -> None:
    run = pad()
    free = [f"i{row}" for row in range(small.ITEMS) if row + 1 not in rows_of(USER)][:6]
    assert {each.item for each in run.recommend(USER, allow=[*free, free[0]], deny=free[:2])} == set(free[2:])
    for denied in ({"allow": free, "deny": free}, {"allow": []}, {"deny": run.dataset.item_ids}):
        with pytest.raises(DataError, match="no candidate is left"):
            run.recommend(USER, **denied)
        assert run.recommend_all(tmp_path / "none.parquet", show_progress=False, **denied) == 0
    with pytest.raises(DataError, match="not in the catalogue"):
        run.recommend(USER, deny=["nothing"])


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_everybody_gets_what_each_alone_gets(run: Run, exclude_seen: bool, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "all.parquet"
    rows = run.recommend_all(out, k=4, exclude_seen=exclude_seen, show_progress=False)
    frame = pl.read_parquet(out)
    assert frame.schema == {"user": pl.String, "rank": pl.Int32, "item": pl.String, "score": pl.Float32}
    users = run.dataset.user_ids
    assert rows == len(frame) == 4 * len(users)
    assert frame["user"].to_list() == [user for user in users for _ in range(4)]
    assert frame["rank"].to_list() == [1, 2, 3, 4] * len(users)
    for user in [*users[:: len(users) // 30], users[511], users[512], "shy"]:
        alone, together = run.recommend(user, k=4, exclude_seen=exclude_seen), frame.filter(pl.col("user") == user)
        assert together["item"].to_list() == [each.item for each in alone]
        np.testing.assert_allclose(together["score"], [each.score for each in alone], rtol=1e-5, atol=1e-6)


# -- items added after training -------------------------------------------------------------------------------------------


def twins(*items: int) -> pl.DataFrame:
    """New items with the titles of ``items``."""
    return pl.DataFrame({"item": [f"twin-{item}" for item in items], "title": [small.title(item) for item in items]})


def test_a_new_item_is_recommended_where_its_text_is_that_of_the_best(tmp_path: Path) -> None:
    """A model of text alone cannot tell the twin from the item; the catalogue's own comes first among equals."""
    run = copy_of(morec(), tmp_path / "run")
    best = run.recommend(USER, k=1)[0]
    assert run.add_items(twins(int(best.item[1:]))) == 1
    first, second = run.recommend(USER, k=2)
    assert {first.item, second.item} == {best.item, f"twin-{best.item[1:]}"}
    assert first.title == second.title == best.title
    assert first.score == pytest.approx(second.score, abs=1e-3)  # the knowledge base stores rounded vectors
    assert run.num_items == small.ITEMS + 1


def test_new_items_are_placed_by_their_text_beside_ids(tmp_path: Path) -> None:
    """Over many users, the twin of the best item stands far above the middle of all twins."""
    run, known = copy_of(pad(), tmp_path / "run"), range(small.ITEMS)
    best = {f"u{user}": pad().recommend(f"u{user}", k=1)[0].item for user in range(0, 200, 2)}
    run.add_items(twins(*known))
    places = []
    for user, item in best.items():
        order = [each.item for each in run.recommend(user, k=100, allow=[f"twin-{at}" for at in known])]
        places.append(order.index(f"twin-{item[1:]}") + 1)
    assert np.mean(places) < len(known) / 3


def test_the_id_expert_has_no_say_about_a_new_item(tmp_path: Path) -> None:
    """Its score by hand: the coldest bucket's shares without the id expert, beside the text the mean of the coldest id rows."""
    run = copy_of(pad(), tmp_path / "run")
    run.add_items(twins(4))
    model: Any = run.model.module
    vectors, gate = pad().inspect(), pad().model.facts()["gate"]
    shares = np.array(gate["shares"][-1])[1:]
    bucket = model.bucket[: small.ITEMS + 1].numpy()
    rare = [row for row in range(1, small.ITEMS + 1) if bucket[row] == 4 and counts()[row]]
    items = torch.tensor([rows_of(USER)[-small.LENGTH :]])
    with torch.no_grad():
        _, aligned, text = model.states(items, items > 0).vectors[0].view(3, 8).numpy()
        ids = torch.from_numpy(vectors["aligned_id"][rare].mean(axis=0, keepdims=True))
        own = torch.from_numpy(vectors["aligned_text"][5:6])
        fused = model.experts["aligned"].items.fuse(torch.ones(1), ids, own)[0].numpy()
    expected = np.dot(shares / shares.sum(), [aligned @ fused, text @ vectors["text"][5]])
    assert run.score_items(USER, ["twin-4"])[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("made", [pad, smem])
def test_new_items_stay_with_the_run(made: Callable[[], Run], tmp_path: Path) -> None:
    run = copy_of(made(), tmp_path / "run")
    before = run.score_items(USER, run.dataset.item_ids)
    assert run.add_items({"late-1": "foggy harbour", "late-2": "an ivory orchestra"}) == 2
    np.testing.assert_allclose(run.score_items(USER, run.dataset.item_ids), before, rtol=1e-5, atol=1e-6)
    scores = run.score_items(USER, ["late-1", "late-2"])
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]
    again = load(run.path)
    np.testing.assert_array_equal(again.score_items(USER, ["late-1", "late-2"]), scores)
    assert again.recommend(USER, allow=["late-2"])[0].title == "an ivory orchestra"
    assert len(again.recommend(items=["late-1", "i3"], k=50)) == small.ITEMS
    assert [each.item for each in again.recommend(items=[], k=50)][-2:] == ["late-1", "late-2"]
    assert again.add_items(twins(3)) == 1
    again.recommend_all(tmp_path / "all.parquet", k=2, allow=["twin-3", "late-1"], show_progress=False)
    assert set(pl.read_parquet(tmp_path / "all.parquet")["item"]) == {"twin-3", "late-1"}
    assert load(run.path).num_items == small.ITEMS + 3
    assert run.add_items({"late-3": "amber"}) == 1  # behind what was added elsewhere since
    assert run.num_items == small.ITEMS + 4
    with pytest.raises(DataError, match="item 'i3' is already known"):
        again.add_items({"i3": "amber"})


def test_items_are_added_from_a_table(tmp_path: Path, braidrec: Screen) -> None:
    run = copy_of(pad(), tmp_path / "run")
    table = tmp_path / "new.csv"
    schema = run.dataset.schema
    pl.DataFrame({schema.item: ["late-1", "late-2"], schema.text[0]: ["foggy harbour", "an ivory orchestra"]}).write_csv(table)
    assert f"2 items added; {run.path} can now recommend {small.ITEMS + 2}" in " ".join(
        braidrec("add-items", run.path, table).split()
    )
    assert load(run.path).recommend(USER, allow=["late-2"])[0].title == "an ivory orchestra"
    assert "0 items added" in braidrec("add-items", run.path, table)
    pl.DataFrame({schema.item: ["i3"], schema.text[0]: ["amber"]}).write_csv(tmp_path / "known.csv")
    assert "item 'i3' is already known" in braidrec.error("add-items", run.path, tmp_path / "known.csv")
    assert "no id column" in braidrec.error("add-items", run.path, _without(table, schema.item))


def _without(table: Path, column: str) -> Path:
    pl.read_csv(table).drop(column).write_csv(table)
    return table


def test_a_vector_that_is_no_number_is_refused_before_anything_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(pad(), tmp_path / "run")
    broken = np.array([[0.5] * 8, [math.nan] * 8], np.float32)
    monkeypatch.setattr(KnowledgeBases, "encode", lambda bases, texts: broken)
    with pytest.raises(DataError, match="item 'late-2': its text vector holds NaN or infinity; look at the text encoder"):
        run.add_items({"late-1": "foggy harbour", "late-2": "an ivory orchestra"})
    assert not (run.path / "added").exists()
    assert run.num_items == small.ITEMS


def test_a_model_of_ids_alone_takes_no_items(tmp_path: Path) -> None:
    said = r"SASRec knows items by id alone; add_items needs a model that reads text, such as enhance = 'pad'"
    run = copy_of(sasrec(), tmp_path / "run")
    with pytest.raises(RunError, match=said):
        run.add_items({"late": "amber"})
    assert not (run.path / "added").exists()


def test_notes_say_what_a_reader_should_know(tmp_path: Path) -> None:
    for made in EVERY:
        assert made().notes(new_user=False) == []
        (note,) = made().notes(new_user=True)
        assert note.startswith("a new user is known by the items given, oldest first, of which the last 5 count; without any")
    run = copy_of(pad(), tmp_path / "run")
    run.add_items(twins(1, 2))
    (note,) = run.notes(new_user=False)
    assert note.startswith("2 items were added after training: text speaks there (the coldest bucket's gate without")
    assert run.notes(new_user=True)[1:] == [note]


# -- the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def braidrec(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Screen:
    return Screen(monkeypatch, capfd)


def test_from_fit_to_recommendations(braidrec: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that a user types, in order."""
    monkeypatch.chdir(tmp_path)
    data = small.dataset().path
    given = ["--data", data, "--knowledge", knowledge(), "--backbone", "sasrec", "--seed", "1", *options()]
    text = braidrec("fit", *given, "--enhance", "pad")
    path = Path("runs/rings/sasrec-pad-ours-s1")
    assert f"SASRec + PAD (ours): best validation {pad().headline} at step" in text
    assert "samples/s\n" in text
    assert f"next: braidrec evaluate {path}" in text
    assert (path / "model.safetensors").read_bytes() == weights(pad())
    assert braidrec("fit", *given, "--enhance", "pad") == text, "a finished run is loaded"
    assert "SASRec has no phase 'align' (accepted: pretrain)" in braidrec.error("fit", *given, "--out", "x")
    assert "goes with" in braidrec.error("fit", "--data", data, "--backbone", "din", "--enhance", "pad", "--out", "x")
    assert not Path("x").exists()

    text = braidrec("evaluate", path)
    for word in ("popularity", "item-kNN", "Markov", "EASE", "SASRec + PAD", "(ours)", "unseen", "novelty@10", " few "):
        assert word in text, word
    assert "popularity" not in braidrec("evaluate", path, "--no-baselines")
    assert "valid part" in braidrec("evaluate", path, "--part", "valid")
    assert "no part 'tset'" in braidrec.error("evaluate", path, "--part", "tset")
    text = braidrec("compare", sasrec().path, path)
    assert "against SASRec (ours)" in text
    assert "two-sided, Holm" in text

    text = braidrec("recommend", path, "--user", USER, "-k", "3")
    assert f"for user {USER}" in text
    assert "score" in text
    assert "a new user" not in text
    text = braidrec("recommend", path, "--items", "i3, i4,", "-k", "3")
    assert "for somebody new who liked i3, i4," in text
    assert "a new user is known by the items given" in text
    first = pad().recommend(items=["i3", "i4"], k=1)[0]
    assert first.title in text
    assert f"{first.score:.3f}" in text
    text = braidrec("recommend", path, "--all-users", "--out", "recs.parquet", "-k", "2")
    assert "2,162 recommendations for 1,081 users: recs.parquet" in text
    assert len(pl.read_parquet("recs.parquet")) == 2_162
    load(path).add_items(twins(1))
    assert "1 item was added after training" in braidrec("recommend", path, "--user", USER)
