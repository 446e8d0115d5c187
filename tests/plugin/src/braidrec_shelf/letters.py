"""Letters, a text encoder: how often each of the 26 letters occurs, at length 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from braidrec.knowledge.encoders.base import EncoderConfig
from braidrec.registry import Spec


class LettersConfig(EncoderConfig):
    kind: Literal["letters"] = "letters"


@dataclass(frozen=True)
class Letters:
    config: LettersConfig
    name: str = "letters"
    revision: str = "1"
    pooling: str = "count"
    width: int = 26

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        counts = np.array([[text.lower().count(chr(97 + at)) for at in range(26)] for text in texts], np.float32)
        lengths: NDArray[np.float32] = np.linalg.norm(counts, axis=1, keepdims=True)
        return counts / np.maximum(lengths, 1.0)


SPEC = Spec("letters", "Letters", LettersConfig, Letters)
