"""The planted world: meaning helps exactly where ids cannot know, and only when the vectors are the items' own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from braidrec.config import RunRequest, resolve
from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.planted import PlantedConfig, PlantedWorld, planted_world
from braidrec.layers.text import TextTable
from braidrec.ranking.build import build_ranker, material_of, table_layout

WORLD = PlantedConfig(users=200, items=800, interactions=40_000, text_strength=2.5)
EPOCHS, BATCH, WIDTH = 7, 512, 48


@dataclass(frozen=True)
class Planted:
    world: PlantedWorld
    dataset: Dataset
    vectors: NDArray[np.float32]  # (I + 1, 48), row 0 zero

    def auc(self, knowledge: NDArray[np.float32] | None) -> float:
        """Train DIN, with DisCo where there is ``knowledge``; AUC on the test rows of late items."""
        torch.manual_seed(0)
        dataset, history = self.dataset, RecentHistory(self.dataset.log, 20)
        values = {"data": "-", "backbone": "din", "enhance": None if knowledge is None else "disco"}
        terms = {} if knowledge is None else {"enhance": {"disentangle_weight": 0.01}}
        config = resolve(RunRequest.model_validate({**values, "model": {"dim": 16, "unknown_rate": 0.05, **terms}}), "test")
        model = build_ranker(config, material_of(dataset, None if knowledge is None else TextTable(knowledge)))
        group, *apart = model.groups()
        main = torch.optim.Adam(group.parameters, lr=2e-3, weight_decay=1e-5)
        estimators = {each.name: torch.optim.Adam(each.parameters, lr=1e-3) for each in apart}
        train = RankingBatches(dataset, dataset.split["train"], BATCH, history, shuffle=True, seed=0)
        for _ in range(EPOCHS):
            for batch in train:
                step = model.step(batch)
                for name, learn in step.first.items():
                    estimators[name].zero_grad()
                    learn().backward()
                    estimators[name].step()
                main.zero_grad()
                torch.stack([model.weights[name] * loss for name, loss in step.losses().items()]).sum().backward()
                main.step()
        rows = self.late_rows
        scores: list[Tensor] = []
        with torch.no_grad():
            model.eval()
            scores += [model(batch) for batch in RankingBatches(dataset, rows, 4096, history, shuffle=False)]
        of_all = np.zeros(len(self.world.label))
        of_all[rows] = torch.cat(scores).double().numpy()
        return self.world.auc(of_all, rows)

    @property
    def late_rows(self) -> NDArray[np.int64]:
        test = self.dataset.split["test"]
        return test[self.world.cold[test]]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    world = planted_world(WORLD)
    settings = PrepareSettings(vocabulary="train")
    dataset = Dataset.prepare(world.tables, tmp_path_factory.mktemp("planted") / "world", settings)
    items = dataset.items
    texts = [f"{title}. {description}" for title, description in zip(items["title"], items["description"], strict=True)]
    counts = HashingVectorizer(n_features=2**14, alternate_sign=False, norm=None).fit_transform(texts)
    vectors = TruncatedSVD(WIDTH, random_state=0).fit_transform(TfidfTransformer(sublinear_tf=True).fit_transform(counts))
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Planted(world, dataset, np.concatenate([np.zeros((1, WIDTH)), vectors]).astype(np.float32))


@pytest.mark.slow
def test_disco_lifts_late_items_by_their_text_alone(planted: Planted) -> None:
    """DIN has no id of a late item to go by.  DisCo beats it, and beats every model without text; with the same vectors
    dealt to the wrong items it does neither, so the lift is what the text says and not the extra weights.
    """
    rows, ceiling = planted.late_rows, planted.world.id_auc(planted.late_rows)
    layout, item_ids = table_layout(planted.dataset), planted.dataset.features.item_fields[:, 0]
    assert len(rows) > 800
    assert (item_ids[planted.dataset.log.item[rows]] == layout.unknown[layout.item_slice[0]]).all()  # no late id was trained
    shuffled = planted.vectors.copy()
    shuffled[1:] = np.random.default_rng(1).permutation(shuffled[1:])
    plain, disco, wrong = planted.auc(None), planted.auc(planted.vectors), planted.auc(shuffled)
    assert disco > plain + 0.1
    assert disco > ceiling + 0.05
    assert wrong < plain + 0.05
    assert wrong < ceiling
