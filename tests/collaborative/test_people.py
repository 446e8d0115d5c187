"""Text vectors of users on their way to a method: their profiles, else the mean of their training items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_worlds import GIVEN, graph_of, tables_of
from torch import Tensor, nn

from braidrec.collaborative.contracts import Enhancer, Parts, Widths
from braidrec.data.dataset import Dataset
from braidrec.errors import KnowledgeError
from braidrec.layers.text import TextTable
from braidrec.registry import TASKS, Spec
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import KnowledgeBases, build, sync, write_profiles
from braidrec.strict import Strict
from chat import chatting

SEEN: list[Tensor] = []


class ListeningConfig(Strict):
    pass


class Listening(nn.Module, Enhancer):
    """A method that keeps what it was given to read, and changes nothing."""

    def __init__(self, config: ListeningConfig, parts: Parts, nodes: Widths):
        super().__init__()
        if parts.text is not None:
            SEEN.append(parts.node_text())

    @property
    def weights(self) -> dict[str, float]:
        return {}

    def losses(self, *given: Any) -> dict[str, Tensor]:
        return {}


LISTENING = Spec("listening", "Listening", ListeningConfig, Listening, reads_text=True)


def test_a_user_without_a_vector_is_the_mean_of_their_training_items() -> None:
    graph = graph_of(np.array([[1, 1], [1, 2], [2, 2], [3, 1]]), 4, 3)
    text = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [1.0, 1.0]])
    alone = Parts(3, graph, TextTable(text), num_users=4).node_text()
    assert alone.tolist() == [[1, 2], [0, 4], [2, 0], [0, 0], [2, 0], [0, 4], [1, 1]]
    people = torch.tensor([[0.0, 0.0], [7.0, 7.0], [0.0, 0.0], [0.0, -1.0], [5.0, 0.0]])
    told = Parts(3, graph, TextTable(text), num_users=4, people=TextTable(people)).node_text()
    assert told.tolist() == [[7, 7], [0, 4], [0, -1], [5, 0], [2, 0], [0, 4], [1, 1]]
    half = Parts(3, graph, TextTable(text.half()), num_users=4, people=TextTable(people.half())).node_text()
    assert half.dtype == torch.float32
    assert torch.equal(half, told)


def shelf(folder: Path, part: str = "ttttvs", name: str = "shelf") -> Dataset:
    """Ten users with six of twelve items each."""
    parts = {"t": "train", "v": "valid", "s": "test"}
    pairs = [(user, 1 + (user * 5 + at) % 12, parts[part[at]]) for user in range(1, 11) for at in range(6)]
    user, item, own = zip(*pairs, strict=True)
    events = {"user": user, "item": item, "part": own}
    return Dataset.prepare(tables_of(events, 12, name, part="part"), folder / name, GIVEN)


def test_a_run_reads_profiles_and_says_so(tmp_path: Path) -> None:
    data = shelf(tmp_path)
    with chatting() as chat, TASKS["collaborative"].methods.holding(LISTENING):
        write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
        build(data.path, tmp_path / "plain", "tfidf")

        def trained(name: str, base: str, **more: Any) -> Any:
            given = {"training": {"max_epochs": 1}, "preset": "authors", "show_progress": False, **more}
            return fit(data, path=tmp_path / name, backbone="mf", enhance="listening", knowledge=tmp_path / base, **given)

        SEEN.clear()
        run = trained("run", "kb")
        people = KnowledgeBases.open(tmp_path / "kb").people(data)
        assert people is not None
        assert torch.equal(SEEN[0][:10], torch.from_numpy(people[1:]))
        assert run.record["choices"]["user_text"] == "profiles, else means of training items"
        assert run.record["knowledge"][0]["writer"].startswith("toy@")
        assert len(run.recommend(1, k=3)) == 3
        run.inspect("train")  # what is built again for a look inside reads the same
        assert torch.equal(SEEN[-1], SEEN[0])
        SEEN.clear()
        plain = trained("plain-run", "plain")
        assert plain.record["choices"]["user_text"] == "means of training items"
        assert "writer" not in plain.record["knowledge"][0]
        vectors = torch.from_numpy(KnowledgeBases.open(tmp_path / "plain").matrix(data))
        own = [1 + (5 + at) % 12 for at in range(4)]
        torch.testing.assert_close(SEEN[0][0], vectors[own].mean(dim=0))
        closed = fit(data, path=tmp_path / "ease", backbone="ease", knowledge=tmp_path / "kb", show_progress=False)
        assert "user_text" not in closed.record["choices"]


def test_a_run_refuses_profiles_of_another_part_and_leaves_no_folder(tmp_path: Path) -> None:
    data = shelf(tmp_path)
    other = shelf(tmp_path, "vtttts"[::-1], "other")
    with chatting() as chat, TASKS["collaborative"].methods.holding(LISTENING):
        write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
        given = {"training": {"max_epochs": 1}, "preset": "authors", "show_progress": False}
        with pytest.raises(
            KnowledgeError, match=r"the profiles of 10 of 10 users \(first: '1'\) were written from other events"
        ):
            fit(other, path=tmp_path / "run", backbone="mf", enhance="listening", knowledge=tmp_path / "kb", **given)  # type: ignore[arg-type]
        assert not (tmp_path / "run").exists()
        fit(other, path=tmp_path / "ease", backbone="ease", knowledge=tmp_path / "kb", show_progress=False)  # reads items alone
        sync(other.path, tmp_path / "kb")
        fit(other, path=tmp_path / "run", backbone="mf", enhance="listening", knowledge=tmp_path / "kb", **given)  # type: ignore[arg-type]
