"""The floor that needs no weights: hashed TF-IDF, then truncated SVD (latent semantic analysis, Deerwester et al. 1990).

Words and word pairs are hashed into 2^16 buckets; weight (1 + ln count) (ln((1 + n) / (1 + documents)) + 1), rows of unit
length; the leading right singular vectors give the dense vector, of unit length again.  What is fitted, the inverse
document frequencies and the singular vectors over the buckets that occur, is small enough to keep beside the vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from braidrec.errors import KnowledgeError
from braidrec.knowledge.encoders.base import EncoderConfig
from braidrec.registry import Spec
from braidrec.strict import SEEDS, WIDEST

if TYPE_CHECKING:
    from torch import Tensor

_BUCKETS = 2**16


class TfidfConfig(EncoderConfig):
    """``seed`` starts the randomised SVD: the same corpus gives the same vectors."""

    kind: Literal["tfidf"] = "tfidf"
    width: int = Field(default=256, ge=2, le=WIDEST)
    seed: int = Field(default=0, ge=0, lt=SEEDS)


@dataclass(frozen=True)
class HashedTfidfEncoder:
    """A TextEncoder that must be fitted; a knowledge base fits it on its first sync and keeps the state.

    state: buckets (m,) int64, idf (m,) float32, components (m, width) float32, mean (width,) float32.
    A text that shares no word with the corpus gets the corpus mean.
    """

    config: TfidfConfig = field(default_factory=TfidfConfig)
    state: Mapping[str, Tensor] | None = None

    @property
    def name(self) -> str:
        return "tfidf"

    @property
    def revision(self) -> str:
        return f"words-2-buckets-{_BUCKETS}-width-{self.width}-seed-{self.config.seed}"

    @property
    def pooling(self) -> str:
        return "svd"

    @property
    def width(self) -> int:
        return self.config.width

    def __repr__(self) -> str:
        return f"HashedTfidfEncoder(width {self.width}, {'fitted' if self.state else 'not fitted'})"

    def fit(self, texts: Sequence[str]) -> HashedTfidfEncoder:
        """A fitted copy.  A corpus of rank below ``width`` leaves the last columns zero.

        Raises KnowledgeError when no text holds a word.
        """
        import torch
        from scipy.sparse import diags
        from sklearn.preprocessing import normalize
        from sklearn.utils.extmath import randomized_svd

        counts = _counts(texts)
        documents = np.bincount(counts.indices, minlength=_BUCKETS)
        seen = np.flatnonzero(documents)
        if not len(seen):
            raise KnowledgeError(f"TF-IDF: none of {len(texts):,} texts holds a word of two letters or more; nothing to fit")
        idf = np.log((1 + len(texts)) / (1 + documents[seen])) + 1
        weighted = normalize(counts[:, seen] @ diags(idf))
        rank = min(self.width, *weighted.shape)
        _, _, right = randomized_svd(weighted, rank, random_state=self.config.seed)
        components = np.zeros((len(seen), self.width), np.float32)
        components[:, :rank] = right.T
        mean = normalize(weighted @ components).mean(0)
        return self.with_state(
            {
                "buckets": torch.from_numpy(seen.astype(np.int64)),
                "idf": torch.from_numpy(idf.astype(np.float32)),
                "components": torch.from_numpy(components),
                "mean": torch.from_numpy(mean.astype(np.float32)),
            }
        )

    def with_state(self, state: Mapping[str, Tensor]) -> HashedTfidfEncoder:
        """A copy with what another one learnt.  Raises KnowledgeError for a state of another width."""
        width = state["components"].shape[1]
        if width != self.width:
            raise KnowledgeError(f"TF-IDF: the fitted state is {width} wide, the setting says {self.width}")
        return replace(self, state=state)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """float32 [len(texts), width], of unit length but for the corpus mean.  Raises KnowledgeError before ``fit``."""
        from scipy.sparse import diags
        from sklearn.preprocessing import normalize

        if self.state is None:
            raise KnowledgeError(
                "TF-IDF: not fitted; call fit(texts), or sync a knowledge base, which fits it on its first texts"
            )
        part = {name: tensor.numpy() for name, tensor in self.state.items()}
        weighted = _counts(texts)[:, part["buckets"]] @ diags(part["idf"].astype(np.float64))
        vectors = normalize(normalize(weighted) @ part["components"].astype(np.float64))
        vectors[~vectors.any(axis=1)] = part["mean"]
        return np.ascontiguousarray(vectors, np.float32)


def _counts(texts: Sequence[str]) -> Any:
    """Sparse (n, buckets): 1 + ln of how often each word and pair of words occurs."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counts = HashingVectorizer(n_features=_BUCKETS, ngram_range=(1, 2), alternate_sign=False, norm=None).transform(texts)
    counts.data = 1 + np.log(counts.data)
    return counts


SPEC = Spec("tfidf", "Hashed TF-IDF", TfidfConfig, HashedTfidfEncoder)
