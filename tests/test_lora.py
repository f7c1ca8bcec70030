"""LoRA: the identity at the start, equal after merging, equal to peft on transformers' GPT-2 and Llama, both ways."""

import copy
import json

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file, save_file
from tiny import config, configs, randomised
from torch import nn

from minilm.attention import Attention
from minilm.batching import sample
from minilm.gpt import GPT
from minilm.gpt2_files import to_gpt2, to_gpt2_config
from minilm.heads import trainable
from minilm.lora import LoRA, adapters, merge, wrap
from minilm.lora_files import CONFIG, WEIGHTS, load_lora, save_lora, theirs
from minilm.train import TrainConfig, train

ALL = ("qkv", "out", "inner", "outer")
IDS = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))


def shaken(model: nn.Module) -> nn.Module:
    """Corrections that are not zero, as after training."""
    torch.manual_seed(1)
    for _, layer in adapters(model):
        nn.init.normal_(layer.A, std=0.3)
        nn.init.normal_(layer.B, std=0.3)
    return model


def test_the_formula():
    layer = LoRA(nn.Linear(5, 3).double(), rank=2, alpha=7)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 5, dtype=torch.float64)
    W, b, A, B = layer.base.weight, layer.base.bias, layer.A, layer.B
    expected = torch.stack([W @ row + b + 7 / 2 * (B @ (A @ row)) for row in x])
    torch.testing.assert_close(layer(x), expected)
    assert (layer.A.shape, layer.B.shape) == ((2, 5), (3, 2))


@given(configs().filter(lambda c: c.n_layers and c.positions != "relative"))
def test_wrapping_changes_nothing_and_merging_loses_nothing(shape):
    model = randomised(GPT(shape)).eval()
    ids = torch.randint(shape.vocab_size, (2, shape.context))
    before = model(ids)
    wrap(model, rank=2, alpha=3, names=ALL)
    assert torch.equal(model(ids), before)
    wrapped = shaken(model)(ids)
    torch.testing.assert_close(merge(model)(ids), wrapped, rtol=1e-9, atol=1e-9)
    assert not list(adapters(model)) and {type(m) for m in model.modules()}.isdisjoint({LoRA})


def test_merged_equals_wrapped_in_single_precision():
    """The proof above is in double precision; of 300 seeds, 13 are further apart than this, by rounding."""
    torch.manual_seed(0)
    model = GPT(config())
    before, wrapped = model(IDS), shaken(wrap(model, names=ALL))(IDS)
    assert (wrapped - before).abs().max() > 0.01
    torch.testing.assert_close(merge(model)(IDS), wrapped, rtol=0, atol=1e-6)


def test_only_the_thin_matrices_train():
    torch.manual_seed(0)
    model = wrap(GPT(config()), rank=2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    text = torch.arange(200) % 11
    train(model, sample(text, 8, 8), TrainConfig(40, 8, learning_rate=0.05), progress=False)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if name.endswith((".A", ".B"))}
    assert trainable(model) == 2 * 2 * ((16 + 48) + (16 + 16))  # layers, rank, widths of qkv and of out


def test_a_wrapped_layer_serves_cross_attention():
    attention = wrap(Attention(12, 6, 2), rank=2).double()
    x, memory = torch.randn(1, 3, 12).double(), torch.randn(1, 5, 12).double()
    wrapped = shaken(attention)(x, memory)
    torch.testing.assert_close(merge(attention)(x, memory), wrapped)


def test_unknown_names_and_ranks():
    with pytest.raises(ValueError, match=r"c_attn.*: inner, out, outer, qkv"):
        wrap(GPT(config()), names=["c_attn"])
    with pytest.raises(ValueError, match="rank=0"):
        wrap(GPT(config()), rank=0)
    with pytest.raises(ValueError, match="rank=17"):
        wrap(GPT(config()), rank=17)
    with pytest.raises(ValueError, match="wrap it first"):
        save_lora(GPT(config()), "nowhere")


def test_the_base_is_as_before_where_wrapping_is_refused():
    model = GPT(config())
    with pytest.raises(ValueError, match="no linear layer"):
        wrap(model, names=["qkv", "typo"])
    assert trainable(model) == sum(p.numel() for p in model.parameters())


# Files


def gpt2(model: GPT):
    """The same model in transformers."""
    transformers = pytest.importorskip("transformers")
    twin = transformers.GPT2LMHeadModel(transformers.GPT2Config(**to_gpt2_config(model.config))).eval()
    twin.load_state_dict(to_gpt2(model), strict=False)
    return twin


def llama(model: GPT):
    """The same model in transformers: fused matrices cut apart."""
    transformers = pytest.importorskip("transformers")
    c = model.config
    twin = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.d_model, intermediate_size=c.d_inner, num_attention_heads=c.n_heads,
            num_hidden_layers=c.n_layers, num_key_value_heads=c.kv_heads, max_position_embeddings=c.context,
            rms_norm_eps=c.eps, rope_theta=c.rotary_base, tie_word_embeddings=c.tied,
        )
    ).eval()  # fmt: skip
    state = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.stack.norm.weight}
    for i, block in enumerate(model.stack.blocks):
        for path, layer in block.named_modules():
            if isinstance(layer, nn.Linear):
                names = theirs(f"stack.blocks.{i}.{path}", "llama")
                widths = {3: [n * c.d_head for n in (c.n_heads, c.kv_heads, c.kv_heads)], 2: c.d_inner, 1: c.d_model}
                parts = layer.weight.split(widths[len(names)])
                state |= {f"{name}.weight": part for name, part in zip(names, parts, strict=True)}
        state[f"model.layers.{i}.input_layernorm.weight"] = block.norm1.weight
        state[f"model.layers.{i}.post_attention_layernorm.weight"] = block.norm2.weight
    state["lm_head.weight"] = model.embedding.weight
    twin.load_state_dict(state)
    return twin


def small_llama() -> GPT:
    fields = {"norm": "rms", "activation": "swiglu", "positions": "rotary", "rotary_base": 1e5, "bias": False}
    return randomised(GPT(config(**fields, n_kv_heads=2, d_ff=24))).float().eval()


MODELS = {"gpt2": lambda: randomised(GPT(config())).float().eval(), "llama": small_llama}
TWINS = {"gpt2": gpt2, "llama": llama}


@pytest.mark.parametrize("layout", MODELS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_peft_opens_our_adapter(layout, tmp_path):
    peft = pytest.importorskip("peft")
    model = MODELS[layout]()
    twin = TWINS[layout](model)
    torch.testing.assert_close(model(IDS), twin(IDS).logits, rtol=1e-4, atol=1e-4)
    plain = model(IDS)
    shaken(wrap(model, rank=3, alpha=5, names=ALL))
    save_lora(model, tmp_path, layout, base="tiny")
    adapted = peft.PeftModel.from_pretrained(twin, tmp_path)
    assert (model(IDS) - plain).abs().max() > 0.1
    torch.testing.assert_close(adapted(IDS).logits, model(IDS), rtol=1e-4, atol=1e-4)
    again = MODELS[layout]()
    again.load_state_dict(
        {k.replace(".base", ""): v for k, v in model.state_dict().items() if k[-2:] not in (".A", ".B")}
    )
    torch.testing.assert_close(load_lora(again, tmp_path, layout)(IDS), model(IDS))


TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


@pytest.mark.parametrize("layout", MODELS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_we_open_what_peft_has_written(layout, tmp_path):
    peft = pytest.importorskip("peft")
    model = MODELS[layout]()
    settings = {"r": 3, "lora_alpha": 5, "target_modules": TARGETS[layout], "fan_in_fan_out": layout == "gpt2"}
    adapted = peft.get_peft_model(TWINS[layout](model), peft.LoraConfig(**settings, init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path)
    plain = model(IDS)
    load_lora(model, tmp_path, layout)
    assert (model(IDS) - plain).abs().max() > 0.1
    torch.testing.assert_close(model(IDS), adapted(IDS).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merge(model)(IDS), adapted(IDS).logits, rtol=1e-4, atol=1e-4)


def test_the_file_holds_the_corrections_alone(tmp_path):
    save_lora(wrap(GPT(config()), rank=2, names=["qkv"]), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    name = "base_model.model.stack.blocks.1.attention.qkv.lora_B.weight"
    assert len(tensors) == 4 and tensors[name].shape == (48, 2)


def refused(folder, message: str, layout: str = "minilm") -> None:
    """Loading fails with the message, and the model is as before."""
    model = MODELS["gpt2"]()
    before = model(IDS)
    with pytest.raises(ValueError, match=message):
        load_lora(model, folder, layout)
    assert torch.equal(model(IDS), before) and trainable(model) == sum(p.numel() for p in model.parameters())


def test_what_cannot_be_loaded(tmp_path):
    refused(tmp_path, "holds no adapter")
    save_lora(wrap(MODELS["gpt2"](), rank=2, names=["qkv"]), tmp_path)
    refused(tmp_path, "fits no layer under layout='gpt2'", "gpt2")
    refused(tmp_path, "layout='t5'", "t5")
    written, tensors = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / WEIGHTS)
    for field, value in {"use_dora": True, "bias": "all", "rank_pattern": {"qkv": 4}}.items():
        (tmp_path / CONFIG).write_text(json.dumps(written | {field: value}))
        refused(tmp_path, field)
    (tmp_path / CONFIG).write_text(json.dumps(written))
    first = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, tmp_path / WEIGHTS)
    refused(tmp_path, "some of its parts")
    save_file(tensors | {first: torch.zeros(2, 5)}, tmp_path / WEIGHTS)
    refused(tmp_path, "do not fit")
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:50])
    refused(tmp_path, "holds no adapter")


def test_wrapping_again_starts_anew():
    model = GPT(config())
    merged = merge(shaken(wrap(copy.deepcopy(model), rank=2)))
    assert torch.equal(wrap(merged, rank=2)(IDS), merge(merged)(IDS))


def test_a_file_holds_one_scale_and_a_layer_shows_its_own(tmp_path):
    torch.manual_seed(0)
    model = GPT(config())
    wrap(model, 8, 16, ["qkv"])
    assert "alpha=16" in repr(model), "or a cache would take one alpha for another"
    wrap(model, 4, 16, ["out"])
    with pytest.raises(ValueError, match="a file holds one"):
        save_lora(model, tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("alpha", [6, 5])
def test_what_peft_has_written_is_written_for_peft_again(alpha, tmp_path):
    """Read, the three A's of queries, keys and values stand side by side: a higher rank than that of the others."""
    peft = pytest.importorskip("peft")
    model = small_llama()
    settings = {"r": 3, "lora_alpha": alpha, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    theirs = peft.get_peft_model(llama(model), peft.LoraConfig(**settings, init_lora_weights=False)).eval()
    theirs.save_pretrained(tmp_path / "one")
    twin, plain = llama(model), copy.deepcopy(model)
    load_lora(model, tmp_path / "one", "llama")
    assert {layer.rank for _, layer in adapters(model)} == {3, 9}
    save_lora(model, tmp_path / "two", "llama")
    again = peft.PeftModel.from_pretrained(twin, tmp_path / "two")
    torch.testing.assert_close(again(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(load_lora(plain, tmp_path / "two", "llama")(IDS), model(IDS), rtol=1e-4, atol=1e-4)


def test_a_rank_of_0_is_refused(tmp_path):
    save_lora(wrap(MODELS["gpt2"](), rank=2, names=["qkv"]), tmp_path)
    written = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(written | {"r": 0}))
    refused(tmp_path, "holds no adapter that can be read")


def test_a_weight_of_two_modules_is_not_corrected(tmp_path):
    """Merged, the correction of the output layer would change the embedding."""
    with pytest.raises(ValueError, match=r"weight of its own is called 'head'; those of this model: inner, out, outer"):
        wrap(GPT(config()), names=["head"])
    free = GPT(config(tied=False)).eval()
    wrapped = shaken(wrap(free, names=["head"]))(IDS)
    save_lora(free, tmp_path)
    refused(tmp_path, r"head\.lora_A\.weight fits no layer")
    torch.testing.assert_close(merge(free)(IDS), wrapped, rtol=0, atol=1e-5)
