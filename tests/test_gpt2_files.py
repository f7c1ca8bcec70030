"""Our GPT is GPT-2: the same logits from the same weights, and a folder that both open."""

import json
import os
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from tiny import randomised

from minilm import gpt2_files
from minilm.gpt import GPT
from minilm.gpt2_files import from_gpt2, from_gpt2_config, load_gpt2, save_gpt2, to_gpt2, to_gpt2_config
from minilm.tokenizer import BPE, Characters
from minilm.transformer import Config

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

TEXT = "Once upon a time there was a king who counted. " * 10
CONFIG = Config(vocab_size=280, context=200, d_model=24, n_layers=3, n_heads=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("gpt2")
    save_gpt2(GPT(CONFIG).eval(), BPE.train(TEXT, 280), place)
    return place


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def theirs(**fields):
    """Their model in float64, with weights that leave nothing at 0 or 1."""
    sizes = {"vocab_size": 31, "n_positions": 12, "n_embd": 24, "n_layer": 3, "n_head": 4}
    kind = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, **fields)
    return randomised(transformers.GPT2LMHeadModel(kind)).eval()


IDS = torch.randint(31, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "fields",
    [{}, {"n_inner": 20}, {"layer_norm_epsilon": 0.1}, {"tie_word_embeddings": False}, {"activation_function": "relu"}],
    ids=str,
)
def test_logits_are_those_of_transformers(fields):
    torch.manual_seed(0)
    there = theirs(**fields)
    config = from_gpt2_config(json.loads(there.config.to_json_string(use_diff=False)))
    here = from_gpt2(there.state_dict(), config).eval()
    torch.testing.assert_close(here(IDS), there(IDS).logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fields", [{}, {"d_ff": 20}, {"eps": 0.1}, {"tied": False}, {"activation": "relu"}], ids=str)
def test_transformers_takes_our_weights(fields):
    torch.manual_seed(0)
    here = randomised(GPT(replace(CONFIG, vocab_size=31, context=12, **fields))).eval()
    there = transformers.GPT2LMHeadModel(transformers.GPT2Config(**to_gpt2_config(here.config))).double().eval()
    there.load_state_dict(to_gpt2(here))  # strict: every weight, and no other
    torch.testing.assert_close(there(IDS).logits, here(IDS), rtol=0, atol=1e-9)


def test_training_steps_agree():
    """Gradients too, in training mode without dropout."""
    torch.manual_seed(0)
    there = theirs(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train()
    here = from_gpt2(there.state_dict(), from_gpt2_config(there.config.to_dict())).train()
    here(IDS).square().sum().backward()
    there(IDS).logits.square().sum().backward()
    ours, pairs = dict(here.named_parameters()), gpt2_files._names(here)
    for name, parameter in there.named_parameters():
        (twin,) = (mine for mine, other in pairs.items() if other == name.removeprefix("transformer.") and mine in ours)
        torch.testing.assert_close(gpt2_files._flip(twin, ours[twin].grad), parameter.grad)


def test_first_gpt2_files_have_no_prefix():
    there = theirs()
    old = {name.removeprefix("transformer."): tensor for name, tensor in there.state_dict().items()}
    del old["lm_head.weight"]
    old["h.0.attn.bias"] = torch.ones(1, 1, 12, 12)  # a mask that they store as well
    config = from_gpt2_config(there.config.to_dict())
    torch.testing.assert_close(from_gpt2(old, config).eval()(IDS), there(IDS).logits, rtol=0, atol=1e-9)


# The folder


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "AutoTokenizer", "PreTrainedTokenizerFast"])
def test_their_tokenizers_open_ours(folder, kind):
    there, here = getattr(transformers, kind).from_pretrained(folder), BPE.train(TEXT, 280)
    text = "Once upon a king's  time,\n低 <|endoftext|>"
    assert there.encode(text) == here.encode(text, specials=True) and len(there) == 280
    assert there.decode(there.encode("a , it 's")) == "a , it 's"  # no cleaning up of spaces
    assert there.eos_token_id == here.specials["<|endoftext|>"] == 0


def test_characters_travel_too(tmp_path):
    here = Characters.train(TEXT)
    save_gpt2(GPT(replace(CONFIG, vocab_size=here.vocab_size)), here, tmp_path)
    there = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (
        there.encode("Once upon") == here.encode("Once upon") and there.decode(there.encode("Once upon")) == "Once upon"
    )
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path).config.eos_token_id is None


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_folder_and_back(tmp_path, tied, dtype):
    config, tokenizer = replace(CONFIG, tied=tied, d_ff=20, dropout=0.1), BPE.train(TEXT, 270)
    model = GPT(config).to(dtype).eval()
    save_gpt2(model, tokenizer, tmp_path)
    again, words = load_gpt2(tmp_path)
    assert again.config == config and words.tokens == tokenizer.tokens
    assert torch.equal(again.eval()(IDS), model(IDS))
    there = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert there.dtype == dtype
    if dtype == torch.float64:
        torch.testing.assert_close(there(IDS).logits, model(IDS), rtol=0, atol=1e-9)


def test_reads_what_transformers_writes(tmp_path, folder):
    there = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    there.save_pretrained(tmp_path)
    BPE.train(TEXT, 280).save(tmp_path / "tokenizer.json")
    torch.testing.assert_close(load_gpt2(tmp_path)[0].eval()(IDS), there(IDS).logits)


def test_the_same_model_makes_the_same_files(tmp_path, folder):
    torch.manual_seed(0)
    save_gpt2(GPT(CONFIG), BPE.train(TEXT, 280), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in folder.iterdir())
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": "rotary"}, "positions='rotary': GPT-2 has 'learned'"),
        ({"norm": "rms"}, "norm='rms'"),
        ({"norm_first": False}, "norm_first=False"),
        ({"conv": 1}, "conv=1: GPT-2 has 0"),
        ({"bias": False}, "bias=False"),
        ({"qk_norm": True}, "qk_norm=True"),
        ({"n_kv_heads": 2}, "n_kv_heads=2: GPT-2 has 4"),
        ({"activation": "relu2"}, "activation='relu2': GPT-2's code has gelu and relu"),
    ],
)
def test_refuses_what_gpt2_has_not(fields, message, tmp_path):
    model = GPT(replace(CONFIG, **fields))
    with pytest.raises(ValueError, match=message):
        to_gpt2(model)
    with pytest.raises(ValueError, match=message):
        save_gpt2(model, BPE.train(TEXT, 280), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"activation_function": "silu"}, "activation_function='silu'"),
        ({"n_embd": None}, "n_embd: no such number"),
    ],
)
def test_refuses_variants_of_gpt2(fields, message):
    with pytest.raises(ValueError, match=message):
        from_gpt2_config({**to_gpt2_config(CONFIG), **fields})


def test_refuses_weights_of_another_config():
    state = to_gpt2(GPT(CONFIG))
    with pytest.raises(ValueError, match=r"h\.3\.ln_1\.weight is missing"):
        from_gpt2(state, replace(CONFIG, n_layers=4))
    with pytest.raises(ValueError, match=r"wpe\.weight has the shape \(200, 24\), but the config asks for \(100, 24\)"):
        from_gpt2(state, replace(CONFIG, context=100))


def test_refuses_a_tokenizer_that_is_too_large(tmp_path):
    with pytest.raises(ValueError, match="tokenizer has 280 tokens, model 279"):
        save_gpt2(GPT(replace(CONFIG, vocab_size=279)), BPE.train(TEXT, 280), tmp_path)


def test_refuses_damaged_folders(tmp_path, folder):
    with pytest.raises(ValueError, match=r"has no config\.json: give a folder written by save_gpt2"):
        load_gpt2(tmp_path)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = (folder / "model.safetensors").read_bytes()
    for damaged in (weights[:-1], weights[:100], b""):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged or cut short"):
            load_gpt2(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save({}))
    with pytest.raises(ValueError, match="is missing"):
        load_gpt2(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"n_embd"')
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_gpt2(tmp_path)


def test_a_model_from_a_folder_is_ready_to_be_evaluated(folder):
    assert not load_gpt2(folder)[0].training
