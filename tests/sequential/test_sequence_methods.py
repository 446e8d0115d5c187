"""The methods that PAD is compared with: what each of them learns, in numbers, and in which stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import small_sequences as small
from braidrec.data.sequences import SequenceBatch
from braidrec.objectives.info_nce import info_nce
from braidrec.sequential.gates import BucketGate
from braidrec.sequential.maps import FusedMap, IdMap, TextMap
from braidrec.sequential.methods.ctrl import Contrast
from braidrec.sequential.methods.disco import ESTIMATORS, ChunkedMap, DisCoSR
from braidrec.sequential.mixture import Mixture
from braidrec.sequential.next_item import Expert, SequenceModel, monitors_of
from braidrec.training.stages import Stage


def stages(method: str, loss: str = "bce", **enhance: Any) -> Sequence[Stage]:
    return small.stages_of(small.config(method, "sasrec", loss, **({"enhance": enhance} if enhance else {})))


@pytest.mark.parametrize(
    ("method", "names", "kind"),
    [("plain", ["pretrain"], IdMap), ("hybrid", ["train"], FusedMap), ("morec", ["train"], TextMap)],
)
def test_one_expert_on_its_own_items(method: str, names: list[str], kind: type) -> None:
    found = stages(method)
    assert [stage.name for stage in found] == names
    model = found[0].module
    assert isinstance(model, SequenceModel)
    assert isinstance(model.expert.items, kind)
    assert sorted(map(id, found[0].groups[0].parameters)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("loss", list(small.LOSSES))
@torch.no_grad()
def test_the_recommendation_loss_by_hand(loss: str) -> None:
    """The state of every real position against the item that came, and against its negatives or all items."""
    model, batch = stages("plain", loss)[0].module.eval(), small.batch_of(small.histories())
    table = model.expert.table()
    positive, negative, entropy = [], [], []
    for history, targets, drawn in zip(batch.items.long(), batch.targets.long(), batch.negatives.long(), strict=True):
        states = model.expert.encoder(table[history][None], history[None] > 0)[0]
        for at in history.nonzero().squeeze(1):
            positive.append(states[at] @ table[targets[at]])
            negative += list(table[drawn[at]] @ states[at])
            logits = table[1 : 27 if loss == "full_ce of trained" else None] @ states[at]
            entropy.append(F.cross_entropy(logits[None], targets[at : at + 1] - 1))
    assert len(negative) == 2 * len(positive)
    expected = F.softplus(-torch.stack(positive)).mean() + F.softplus(torch.stack(negative)).mean()
    if loss != "bce":
        expected = torch.stack(entropy).mean()
    torch.testing.assert_close(model.step(batch).losses()["prediction"], expected)


@pytest.mark.parametrize("temperature", [0.1, 0.4])
@torch.no_grad()
def test_ctrl_contrasts_the_distinct_items_and_drops_the_text(temperature: float) -> None:
    contrast, tune = stages("ctrl", temperature=temperature)
    assert [contrast.name, tune.name] == ["contrast", "tune"]
    assert (contrast.monitor, contrast.mode) == ("contrast", "min")
    module = contrast.module.eval()
    assert isinstance(module, Contrast)
    batch = small.batch_of(small.histories((2, 1)), negatives=1)
    rows = torch.cat([batch.items.flatten(), batch.targets.flatten(), batch.negatives.flatten()]).unique()[1:].long()
    ids, text = module.ids(rows), module.text(rows)
    expected = (info_nce(text, ids, temperature=temperature) + info_nce(ids, text, temperature=temperature)) / 2
    torch.testing.assert_close(module.step(batch).losses()["contrast"], expected)
    rows = torch.arange(1, small.ITEMS + 1)
    expected = info_nce(module.text(rows), module.ids(rows), temperature=temperature, symmetric=True)
    assert module.validation() == {"contrast": pytest.approx(expected.item(), abs=1e-6)}
    assert tune.starts == {"contrast": {"ids.": "expert.items."}}
    assert isinstance(tune.module.expert.items, IdMap)
    assert not any(isinstance(part, TextMap) for part in tune.module.modules())


def test_make_mixes_a_fresh_id_expert_with_the_text_model() -> None:
    text, experts = stages("make")
    assert [text.name, experts.name] == ["text", "experts"]
    assert experts.starts == {"text": {"expert.": "experts.text."}}
    assert isinstance(experts.module, Mixture)
    assert list(experts.module.experts) == ["id", "text"]
    assert experts.module.gate().shape == (small.BUCKETS + 2, 2)


@pytest.mark.parametrize(("method", "experts"), [("make", ("id", "text")), ("pad", ("id", "aligned", "text"))])
def test_a_mixture_has_the_gate_that_was_asked_for(method: str, experts: tuple[str, ...]) -> None:
    for init in ("uniform", "authors"):
        for unseen in ("trained", "text"):
            model = stages(method, gate_init=init, unseen=unseen)[-1].module
            assert isinstance(model, Mixture)
            assert isinstance(model.gate, BucketGate)
            assert torch.equal(model.gate.logits, BucketGate(experts, small.BUCKETS, init=init).logits)  # type: ignore[arg-type]
            assert model.untrained.nonzero().squeeze(1).tolist() == ([27, 28, 29, 30] if unseen == "text" else [])


def maps_of(found: Sequence[Stage], kind: type) -> list[Any]:
    return [part for stage in found for part in stage.module.modules() if isinstance(part, kind)]


@pytest.mark.parametrize(("method", "count"), [("hybrid", 1), ("pad", 2), ("smem", 1)])
def test_both_sides_are_fused_as_it_was_asked_in_every_stage(method: str, count: int) -> None:
    for fusion in ("add", "concat"):
        found = maps_of(stages(method, fusion=fusion), FusedMap)
        assert [part.phi is None for part in found] == [fusion == "add"] * count


@pytest.mark.parametrize(
    ("method", "count"), [("hybrid", 1), ("morec", 1), ("ctrl", 1), ("make", 2), ("pad", 3), ("smem", 2), ("disco", 2)]
)
def test_text_is_read_as_it_was_asked_in_every_stage(method: str, count: int) -> None:
    found = maps_of(stages(method, text={"layers": 2, "dropout": 0.3, "final": "linear", "centre": True}), TextMap)
    assert len(found) == count
    for text in found:
        assert [part.p for part in text.mlp if isinstance(part, nn.Dropout)] == [0.3] * 2
        assert isinstance(text.mlp[-1], nn.Linear)
        assert text.how == "centred"


def disco(loss: str = "bce", **enhance: Any) -> tuple[DisCoSR, ChunkedMap, Stage]:
    stage = stages("disco", loss, **enhance)[0]
    assert isinstance(stage.module, DisCoSR)
    items = stage.module.eval().expert.items
    assert isinstance(items, ChunkedMap)
    return stage.module, items, stage


@torch.no_grad()
def test_disco_item_vectors_are_four_chunks() -> None:
    _, items, _ = disco()
    rows = torch.tensor([3, 0, 9])
    sides = [items.ids[0](rows), items.ids[1](rows), items.text[0](rows), items.text[1](rows)]
    chunks = [F.gelu(cut[0](side)) for cut, side in zip(items.cut, sides, strict=True)]
    assert [chunk.shape for chunk in chunks] == [(3, small.DIM // 4)] * 4
    expected = F.gelu(items.join[0](torch.cat(chunks, dim=1)))
    torch.testing.assert_close(items(rows)[[0, 2]], expected[[0, 2]])
    assert not items(rows)[1].any()


@torch.no_grad()
def test_disco_sufficiency_judges_the_next_chunk_by_the_mean_of_those_before() -> None:
    module, items, _ = disco()
    batch = small.batch_of(small.histories((3, 1, 6)))
    expected = torch.zeros(())
    for at, judge in enumerate(module.judges):
        hits: list[Tensor] = []
        misses: list[Tensor] = []
        for history, targets, drawn in zip(batch.items.long(), batch.targets.long(), batch.negatives.long(), strict=True):
            first = int((history == 0).sum())
            for place in range(first, small.LENGTH):
                mean = items.chunks(history[first : place + 1])[at].mean(dim=0)
                hits.append(judge(mean, items.chunks(targets[place : place + 1])[at][0]))
                misses.append(judge(mean, items.chunks(drawn[place, :1])[at][0]))
        expected += (F.softplus(-torch.stack(hits)).mean() + F.softplus(torch.stack(misses)).mean()) / 2
    torch.testing.assert_close(module.step(batch).losses()["sufficiency"], expected)


@torch.no_grad()
def test_disco_keeps_three_pairs_of_chunks_apart() -> None:
    module, items, stage = disco(club_per_dimension=False, club_floor=False)
    batch = small.batch_of(small.histories())
    rows = torch.cat([batch.items.flatten(), batch.targets.flatten(), batch.negatives.flatten()]).unique()[1:].long()
    chunks = items.chunks(rows)  # specific id, common id, specific text, common text; padding is no item
    pairs = [(chunks[0], chunks[2]), (chunks[0], chunks[1]), (chunks[2], chunks[3])]
    expected = sum(cast(Any, club).estimate(a, b) for club, (a, b) in zip(module.clubs, pairs, strict=True))
    torch.testing.assert_close(module.step(batch).losses()["disentangle"], expected)
    assert stage.weights == {"prediction": 1.0, "sufficiency": 0.2, "disentangle": 0.2}
    estimators = next(group for group in stage.groups if group.name == ESTIMATORS)
    assert (estimators.lr, estimators.weight_decay) == (1e-3, 0.0)


def test_disco_weighs_and_bounds_as_it_was_asked() -> None:
    module, _, stage = disco(sufficiency_weight=0.3, disentangle_weight=0.4, estimator_lr=0.05)
    assert stage.weights == {"prediction": 1.0, "sufficiency": 0.3, "disentangle": 0.4}
    assert [(group.name, group.lr) for group in stage.groups][-1] == (ESTIMATORS, 0.05)
    assert len(module.clubs) == 3
    for per_dimension in (True, False):
        for floor in (True, False):
            clubs = disco(club_per_dimension=per_dimension, club_floor=floor)[0].clubs
            assert {(cast(Any, club).per_dimension, cast(Any, club).floor) for club in clubs} == {(per_dimension, floor)}


@pytest.mark.parametrize("loss", ["bce", "full_ce"])
@torch.no_grad()
def test_disco_predicts_like_any_single_expert(loss: str) -> None:
    module, _, _ = disco(loss)
    batch = small.batch_of(small.histories(), negatives=3)
    plain = SequenceModel(cast(Expert, module.expert), loss=module.loss).eval()
    assert module.step(batch).losses()["prediction"] == pytest.approx(plain.step(batch).losses()["prediction"].item(), abs=1e-6)


def test_norms_of_the_experts_are_logged() -> None:
    batch = next(iter(small.batches_of(small.config())))
    step = cast(Any, stages("pad")[-1].module).step(batch)
    assert step.monitors.keys() == {"norm_id", "norm_aligned", "norm_text"}
    found = monitors_of({"id": torch.tensor([[3.0, -4.0], [0.0, -1.0]])})
    assert found == {"norm_id": 3.0}  # the mean of 5 and 1
    assert isinstance(batch, SequenceBatch)
