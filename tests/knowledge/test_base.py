"""The knowledge base: what is encoded and what is not, what is refused, and what is read back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sync_worker import HashEncoder, catalogue

from braidrec.errors import KnowledgeError
from braidrec.knowledge.base import KnowledgeBase
from braidrec.knowledge.encoders.base import Cost
from braidrec.knowledge.encoders.tfidf import HashedTfidfEncoder, TfidfConfig
from braidrec.knowledge.texts import PromptTemplate

IDS, TEXTS = catalogue(50)


def filled(path: Path, encoder: HashEncoder | None = None, **options: Any) -> KnowledgeBase:
    kb = KnowledgeBase.open(path, encoder or HashEncoder(), **options)
    kb.sync(IDS, TEXTS, show_progress=False)
    return kb


def test_sync_stores_what_the_encoder_says(tmp_path: Path) -> None:
    kb = filled(tmp_path)
    assert kb.ids() == sorted(IDS)
    matrix = kb.matrix(["id-3", "id-1"])
    assert matrix.dtype == np.float16
    expected = HashEncoder().encode([TEXTS[IDS.index("id-3")], TEXTS[IDS.index("id-1")]])
    np.testing.assert_array_equal(matrix, expected.astype(np.float16))
    assert (kb.verify().items, kb.verify().users) == (50, 0)


def test_only_new_and_changed_texts_are_encoded(tmp_path: Path) -> None:
    encoder = HashEncoder()
    kb = filled(tmp_path, encoder)
    before, version = kb.matrix(IDS).tobytes(), kb.version
    report = kb.sync(IDS, TEXTS, show_progress=False)
    assert (report.encoded, report.unchanged, report.missing, report.removed) == (0, 50, 0, 0)
    assert (report.version, kb.matrix(IDS).tobytes()) == (version, before)
    changed = [text + " Changed." if row in (4, 9) else text for row, text in enumerate(TEXTS)]
    encoder.encoded.clear()
    report = kb.sync([*IDS, "new"], [*changed, "A new one."], show_progress=False)
    assert (report.encoded, report.unchanged) == (3, 48)
    assert set(encoder.encoded) == {changed[4], changed[9], "A new one."}
    assert len(kb.ids()) == kb.verify().items == 51
    np.testing.assert_array_equal(kb.matrix([IDS[4]])[0], HashEncoder().encode([changed[4]])[0].astype(np.float16))


def test_missing_texts_and_prune(tmp_path: Path) -> None:
    kb = filled(tmp_path)
    report = kb.sync([*IDS[:10], "x", "y", "z"], [*TEXTS[:10], None, "", "  "], show_progress=False)
    assert (report.unchanged, report.missing, report.removed) == (10, 3, 0)
    assert len(kb.ids()) == 50
    report = kb.sync(IDS[:10], [None, *TEXTS[1:10]], prune=True, show_progress=False)
    assert (report.removed, kb.ids()) == (41, sorted(IDS[1:10]))


def test_kinds_are_kept_apart(tmp_path: Path) -> None:
    kb = filled(tmp_path)
    kb.sync(["id-1"], ["A user who likes maps."], kind="user", prune=True, show_progress=False)
    assert (kb.verify().items, kb.verify().users) == (50, 1)
    assert not np.array_equal(kb.matrix(["id-1"], "user"), kb.matrix(["id-1"], "item"))
    with pytest.raises(KnowledgeError, match="kind = 'film'"):
        kb.ids("film")  # type: ignore[arg-type]


def test_strange_ids_round_trip(tmp_path: Path) -> None:
    kb = KnowledgeBase.open(tmp_path, HashEncoder())
    ids = ["it's", '"q"', "1.0", str(2**63 - 1), "🎬", "a:b", "x" * 10_000, " ", "back\\slash", "line\nbreak"]
    kb.sync(ids, [f"text of {id}" for id in ids], show_progress=False)
    assert set(kb.ids()) == set(ids)
    assert kb.matrix(ids).shape == (10, 16)
    assert kb.sync([], [], prune=True, show_progress=False).removed == 10
    assert kb.ids() == []


@pytest.mark.parametrize(
    ("ids", "texts", "message"),
    [
        (["a", "b", "a"], ["1", "2", "3"], "1 item ids occur more than once \\(first: 'a' x 2\\)"),
        (["a", ""], ["1", "2"], "row 1: '' is not an id"),
        ([3], ["1"], "row 0: 3 is not an id"),
        (["a"], ["1", "2"], "1 ids but 2 texts"),
        (["a"], ["half \ud800"], "row 0, id 'a'"),
    ],
)
def test_unusable_input_is_refused_before_anything_is_written(
    tmp_path: Path, ids: list[str], texts: list[str], message: str
) -> None:
    with pytest.raises(KnowledgeError, match=message):
        KnowledgeBase.open(tmp_path / "kb", HashEncoder()).sync(ids, texts)
    assert not (tmp_path / "kb").exists()


def test_missing_ids_are_an_error_or_the_mean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kb = filled(tmp_path, dtype="float32")
    with pytest.raises(KnowledgeError, match="2 of 3 item ids have no vector \\(first: 'nope', 'none'\\)"):
        kb.matrix(["nope", "id-1", "none"])
    with caplog.at_level(logging.WARNING):
        matrix = kb.matrix(["nope", "id-1"], missing="mean")
    assert "1 of 2 item ids have no vector and get the mean" in caplog.text
    np.testing.assert_allclose(matrix[0], kb.matrix(IDS).mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(matrix[1], kb.matrix(["id-1"])[0])
    assert kb.absent(["nope", "id-1"]) == ["nope"]


def test_one_table_per_encoder_revision_and_prompt(tmp_path: Path) -> None:
    filled(tmp_path)
    filled(tmp_path, HashEncoder(revision="2"))
    filled(tmp_path, prompt=PromptTemplate(noun="movie", fields=("title",)))
    tables = sorted(each.name for each in tmp_path.iterdir())
    assert len(tables) == 3
    with pytest.raises(KnowledgeError, match=f"tables: {tables[0]}, .*name one of them"):
        KnowledgeBase.open(tmp_path)
    assert KnowledgeBase.open(tmp_path, table=tables[1]).matrix(["id-1"]).shape == (1, 16)
    with pytest.raises(KnowledgeError, match="no table yet"):
        KnowledgeBase.open(tmp_path / "other")


def test_another_width_or_dtype_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(KnowledgeError, match="width = 16, asked was 8"):
        KnowledgeBase.open(tmp_path, HashEncoder(width=8))
    with pytest.raises(KnowledgeError, match="dtype = 'float16', asked was 'float32'"):
        KnowledgeBase.open(tmp_path, HashEncoder(), dtype="float32")


def test_without_an_encoder_it_reads_but_does_not_sync(tmp_path: Path) -> None:
    kb = filled(tmp_path)
    reader = KnowledgeBase.open(tmp_path)
    np.testing.assert_array_equal(reader.matrix(IDS), kb.matrix(IDS))
    with pytest.raises(KnowledgeError, match="opened without an encoder"):
        reader.sync(IDS, TEXTS)
    with pytest.raises(KnowledgeError, match="opened without an encoder"):
        reader.nearest(text="maps")


def test_an_encoder_s_nonsense_is_not_stored(tmp_path: Path) -> None:
    class Broken(HashEncoder):
        def encode(self, texts: list[str]) -> Any:
            vectors = super().encode(texts)
            vectors[0, 0] = np.inf if self.pause else 1e6
            return vectors

    for pause in (0.0, 1e-6):  # too much for float16; infinite
        kb = KnowledgeBase.open(tmp_path, Broken(pause=pause))
        with pytest.raises(KnowledgeError, match="1 of 50 vectors hold NaN, infinity or more than float16"):
            kb.sync(IDS, TEXTS, show_progress=False)
        assert kb.ids() == []


def test_an_encoder_that_fails_keeps_the_batches_before(tmp_path: Path) -> None:
    class Failing(HashEncoder):
        def encode(self, texts: list[str]) -> Any:
            if len(self.encoded) >= 20:
                raise KnowledgeError("the endpoint went away")
            return super().encode(texts)

    kb = KnowledgeBase.open(tmp_path, Failing())
    with pytest.raises(KnowledgeError, match="went away"):
        kb.sync(IDS, TEXTS, batch_rows=10, show_progress=False)
    assert kb.ids() == sorted(IDS)[:20]
    report = KnowledgeBase.open(tmp_path, HashEncoder()).sync(IDS, TEXTS, show_progress=False)
    assert (report.encoded, report.unchanged) == (30, 20)


def test_nearest_is_exact_and_ordered(tmp_path: Path) -> None:
    kb = filled(tmp_path, dtype="float32")
    matrix = kb.matrix(IDS)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    cosine = unit @ unit[0]
    expected = [IDS[row] for row in np.argsort(-cosine) if row != 0][:5]
    found = kb.nearest(id=IDS[0], k=5)
    assert [id for id, _ in found] == expected
    np.testing.assert_allclose([score for _, score in found], np.sort(cosine)[::-1][1:6], atol=1e-6)
    assert kb.nearest(vector=matrix[0], k=1)[0][0] == kb.nearest(text=TEXTS[0], k=1)[0][0] == IDS[0]
    assert len(kb.nearest(id=IDS[0], k=10**9)) == 49
    for bad in ({}, {"id": "id-1", "text": "x"}, {"vector": np.zeros(3)}, {"id": "nope"}, {"id": "id-1", "k": 0}):
        with pytest.raises(KnowledgeError):
            kb.nearest(**bad)  # type: ignore[arg-type]


def test_nearest_of_equals_go_by_id_whenever_they_came(tmp_path: Path) -> None:
    kb = KnowledgeBase.open(tmp_path, HashEncoder())
    for ids in (["c", "b"], ["d", "a"]):
        kb.sync(ids, ["the same words"] * 2, show_progress=False)
    kb.sync(["0"], ["other words"], show_progress=False)
    for k in (1, 3, 4):
        assert [id for id, _ in kb.nearest(text="the same words", k=k)] == ["a", "b", "c", "d"][:k]
    assert [id for id, _ in kb.nearest(id="a", k=2)] == ["b", "c"]


def test_reduce_applies_a_module_in_blocks(tmp_path: Path) -> None:
    kb = filled(tmp_path)
    mlp = torch.nn.Sequential(torch.nn.Linear(16, 4), torch.nn.Dropout(0.5)).train()
    reduced = kb.reduce(mlp, IDS, block=7)
    whole = mlp[0](torch.from_numpy(kb.matrix(IDS)).float()).detach().numpy()
    np.testing.assert_allclose(reduced, whole, atol=1e-6)
    assert reduced.dtype == np.float32
    assert mlp.training


def test_many_commits_are_merged_and_old_versions_go(tmp_path: Path) -> None:
    ids, texts = catalogue(140)
    kb = KnowledgeBase.open(tmp_path, HashEncoder())
    kb.sync(ids, texts, batch_rows=2, show_progress=False, keep_versions=3)
    assert 3 <= len(kb.versions()) < 30
    assert kb.versions()[-1].rows == kb.verify().items == 140
    np.testing.assert_array_equal(kb.matrix(ids), HashEncoder().encode(texts).astype(np.float16))


def test_readers_see_a_commit_of_another_handle(tmp_path: Path) -> None:
    kb = filled(tmp_path)
    reader = KnowledgeBase.open(tmp_path)
    assert reader.absent(["new"]) == ["new"]
    kb.sync(["new"], ["A new one."], show_progress=False)
    assert reader.absent(["new"]) == []
    assert [each.name for each in (kb.folder / "matrix").iterdir()] == [f"item-{kb.version}"]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["vectors.npy", "ids.arrow", "matrix.json"])
def test_a_flipped_bit_in_the_derived_matrix_is_found_and_mended(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    kb = filled(tmp_path)
    expected = kb.matrix(IDS)
    path = kb.folder / "matrix" / f"item-{kb.version}" / name
    flip(path, path.stat().st_size - 9)
    with pytest.raises(KnowledgeError, match="1 damaged derived matrices"):
        KnowledgeBase.open(tmp_path).verify()
    np.testing.assert_array_equal(KnowledgeBase.open(tmp_path).matrix(IDS), expected)
    assert "damaged; made again from the table" in caplog.text
    KnowledgeBase.open(tmp_path).verify()


def test_a_flipped_bit_in_the_table_itself_is_found(tmp_path: Path) -> None:
    kb = filled(tmp_path)
    needle = kb.matrix(["id-7"]).tobytes()
    hit = False
    for path in (kb.folder / "rows.lance" / "data").iterdir():
        position = path.read_bytes().find(needle)
        if position >= 0:
            flip(path, position + 5)
            hit = True
    assert hit
    with pytest.raises(KnowledgeError, match=r"rows\.lance/data/.*damaged: it is not the file that was written"):
        KnowledgeBase.open(tmp_path).verify()
    (kb.folder / "latest.json").unlink()  # as a writer that was killed left it: nobody noted the files
    with pytest.raises(KnowledgeError, match="1 vectors that differ from their checksum"):
        KnowledgeBase.open(tmp_path).verify()
    (next((kb.folder / "matrix").iterdir()) / "vectors.npy").unlink()
    with pytest.raises(KnowledgeError, match="vector of item 'id-7' differs from its checksum"):
        KnowledgeBase.open(tmp_path).matrix(IDS)


def test_a_damaged_or_foreign_manifest_is_refused(tmp_path: Path) -> None:
    kb = filled(tmp_path)
    path = kb.folder / "manifest.json"
    for content, message in (("{", "not valid JSON"), ("[]", "not a knowledge table"), ('{"format": 99}', "of format 1")):
        path.write_text(content)
        with pytest.raises(KnowledgeError, match=message):
            KnowledgeBase.open(tmp_path, HashEncoder())


def test_a_fitted_encoder_is_fitted_once_and_kept(tmp_path: Path) -> None:
    encoder = HashedTfidfEncoder(TfidfConfig(width=8))
    kb = KnowledgeBase.open(tmp_path, encoder)
    kb.sync(IDS, TEXTS, show_progress=False)
    before = kb.matrix(IDS).tobytes()
    again = KnowledgeBase.open(tmp_path, encoder)
    again.sync(["new"], ["Here is an item, title is number one."], show_progress=False)
    assert again.matrix(IDS).tobytes() == before
    assert again.nearest(text=TEXTS[3], k=1)[0][1] == pytest.approx(1, abs=1e-3)
    with pytest.raises(KnowledgeError, match="a fit on other texts"):
        KnowledgeBase.open(tmp_path, encoder.fit(["entirely different words", "and more of them"]))
    flip(kb.folder / "fitted.safetensors", 5000)
    with pytest.raises(KnowledgeError, match="damaged or was replaced"):
        KnowledgeBase.open(tmp_path, encoder)


def test_the_price_is_shown_before_anything_is_encoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Priced(HashEncoder):
        def estimate(self, texts: list[str]) -> Cost:
            if len(texts) > 40:
                raise KnowledgeError("over max_cost")
            return Cost(len(texts), 1000, 1, 0.02, 0.0)

    encoder = Priced()
    kb = KnowledgeBase.open(tmp_path, encoder)
    with pytest.raises(KnowledgeError, match="over max_cost"):
        kb.sync(IDS, TEXTS)
    assert encoder.encoded == []
    kb.sync(IDS[:40], TEXTS[:40])
    assert "40 texts, about 1,000 tokens in 1 requests, about 0.0200 in price" in capsys.readouterr().err


def test_an_empty_knowledge_base_answers(tmp_path: Path) -> None:
    kb = KnowledgeBase.open(tmp_path / "kb", HashEncoder())
    assert (kb.ids(), kb.version, kb.versions(), kb.matrix([]).shape) == ([], 0, [], (0, 16))
    assert kb.sync([], [], show_progress=False).encoded == 0
    assert kb.verify().items == 0
    assert kb.nearest(vector=np.ones(16)) == []
    with pytest.raises(KnowledgeError, match="have no vector"):
        kb.matrix(["a"], missing="mean")
