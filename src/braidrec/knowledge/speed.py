"""How fast the default encoder is here, beside the path that sentence-transformers offers by itself."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from braidrec.errors import KnowledgeError
from braidrec.knowledge.encoders.sentence import SentenceTransformerConfig, SentenceTransformerEncoder
from braidrec.knowledge.encoders.weights import MINILM, loading, resolve


@dataclass(frozen=True)
class EncodingSpeed:
    """Texts per second of both paths, best of the rounds, and how close ours stays to float32."""

    texts: int
    tokens: int  # per text
    precision: str
    default: float
    ours: float
    lowest_cosine: float

    @property
    def ratio(self) -> float:
        return self.ours / self.default

    def __str__(self) -> str:
        return (
            f"{self.texts} texts of {self.tokens} tokens: sentence-transformers float32 {self.default:,.0f}/s, "
            f"ours {self.precision} {self.ours:,.0f}/s ({self.ratio:.2f}x), lowest cosine {self.lowest_cosine:.5f}"
        )


def measure(count: int = 512, *, tokens: int = 40, rounds: int = 2, model: str = MINILM) -> EncodingSpeed:
    """Encode ``count`` texts of ``tokens`` tokens with both paths in turn, ``rounds`` times.

    Raises KnowledgeError when the model is not on this machine and cannot be fetched.
    """
    from sentence_transformers import SentenceTransformer

    folder, _ = resolve(model)
    with loading(model, folder):
        default = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    ours = SentenceTransformerEncoder(SentenceTransformerConfig(model=model, device="cpu"))
    texts = _texts(default.tokenizer, count, tokens)
    default_seconds, our_seconds = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        expected = default.encode(texts, show_progress_bar=False, convert_to_numpy=True)
        default_seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        vectors = ours.encode(texts)
        our_seconds.append(time.perf_counter() - started)
    cosines = (expected * vectors).sum(1) / (np.linalg.norm(expected, axis=1) * np.linalg.norm(vectors, axis=1))
    return EncodingSpeed(
        texts=count,
        tokens=tokens,
        precision=str(ours.precision).removeprefix("torch."),
        default=count / min(default_seconds),
        ours=count / min(our_seconds),
        lowest_cosine=float(cosines.min()),
    )


def _texts(tokenizer: Any, count: int, tokens: int) -> list[str]:
    """Texts of whole words that are one token each, so that every text has exactly ``tokens`` of them."""
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and 4 <= len(word) <= 10)
    rng = random.Random(0)
    special = len(tokenizer("")["input_ids"])
    texts = [" ".join(rng.choices(words, k=tokens - special)) for _ in range(count)]
    if {len(ids) for ids in tokenizer(texts)["input_ids"]} != {tokens}:
        raise KnowledgeError(f"{type(tokenizer).__name__}: no texts of exactly {tokens} tokens can be made")
    return texts
