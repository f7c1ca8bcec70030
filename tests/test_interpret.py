"""What is shown of the inside is what happened there: layers average with these weights, and transformers agrees."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config, configs, randomised

from minilm import ngram
from minilm.attention import Attention
from minilm.generate import stream
from minilm.gpt import GPT
from minilm.interpret import Watched, attention_maps


@given(shape=configs(), data=st.data())
def test_the_weights_are_those_that_the_layers_average_with(shape, data):
    """Each layer's output, computed again from the map, its values and its output matrix."""
    model = randomised(GPT(shape)).eval()
    T = data.draw(st.integers(1, shape.context))
    ids = torch.randint(shape.vocab_size, (2, T))
    if not shape.n_layers:
        with pytest.raises(ValueError, match="no attention"):
            attention_maps(model, ids)
        return
    seen = []
    for layer in (part for part in model.modules() if isinstance(part, Attention)):
        layer.register_forward_hook(lambda layer, inputs, output: seen.append((layer, *inputs, output)))
    maps = attention_maps(model, ids)
    for weights, (layer, x, output) in zip(maps, seen, strict=True):
        v = layer.project(x)[2].repeat_interleave(layer.n_heads // layer.n_kv_heads, 1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(F.linear(mixed, layer.out.weight, layer.out.bias), output)
    torch.testing.assert_close(maps.triu(1), torch.zeros_like(maps))
    torch.testing.assert_close(attention_maps(model, ids, last=1), maps[:, :, :, -1:])


def test_the_maps_are_those_of_transformers():
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 11, "max_position_embeddings": 12, "num_hidden_layers": 2, "num_attention_heads": 4}
    theirs = LlamaForCausalLM(
        LlamaConfig(**shape, hidden_size=16, intermediate_size=64, num_key_value_heads=2, attn_implementation="eager")
    )
    ours = GPT(config(n_kv_heads=2, norm="rms", eps=1e-6, activation="swiglu", positions="rotary", bias=False))
    theirs = randomised(theirs).eval()
    state = dict(theirs.state_dict())
    with torch.no_grad():
        ours = ours.double().eval()
        ours.embedding.weight.copy_(state["model.embed_tokens.weight"])
        for number, block in enumerate(ours.stack.blocks):
            part = lambda name, at=f"model.layers.{number}": state[f"{at}.{name}.weight"]
            block.norm1.weight.copy_(part("input_layernorm"))
            block.norm2.weight.copy_(part("post_attention_layernorm"))
            block.attention.qkv.weight.copy_(torch.cat([part(f"self_attn.{one}_proj") for one in "qkv"]))
            block.attention.out.weight.copy_(part("self_attn.o_proj"))
            block.mlp.inner.weight.copy_(torch.cat([part(f"mlp.{one}_proj") for one in ("gate", "up")]))
            block.mlp.outer.weight.copy_(part("mlp.down_proj"))
        ids = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(0))
        expected = torch.stack(theirs(ids, output_attentions=True).attentions)
    # Cosines and sines of the positions are 32-bit numbers in both.
    torch.testing.assert_close(attention_maps(ours, ids), expected, rtol=1e-5, atol=2e-6)


def test_nothing_is_left_behind_even_after_an_error():
    model = GPT(config()).eval()
    before = model(torch.tensor([[1, 2, 3]]))
    attention_maps(model, torch.tensor([[1, 2, 3]]))
    with pytest.raises(ValueError, match="at most 12"):
        attention_maps(model, torch.ones(1, 13, dtype=torch.long))
    assert not any(part._forward_pre_hooks for part in model.modules())
    torch.testing.assert_close(model(torch.tensor([[1, 2, 3]])), before, rtol=0, atol=0)


def test_a_model_without_attention_is_refused():
    counts = ngram.count(torch.tensor([0, 1, 0, 1]), 2, 2)
    with pytest.raises(ValueError, match="AddK, which has no attention"):
        attention_maps(ngram.AddK(counts), torch.tensor([[0, 1]]))


@settings(max_examples=12)  # each one is a text of 14 tokens, read three times
@given(cache=st.booleans(), temperature=st.sampled_from([0.0, 0.7, 1.0]), seed=st.integers(0, 99))
def test_watching_changes_nothing_and_the_scores_are_the_models(cache, temperature, seed):
    model = randomised(GPT(config(positions="rotary"))).eval()
    how = {"cache": cache, "temperature": temperature, "seed": seed}
    watched, prompt = Watched(model), [3, 1]
    text = [*prompt]
    for token in stream(watched, prompt, 14, **how):  # past the context of 12 as well
        expected = model(torch.tensor([text[-12:]]))[0, -1]
        torch.testing.assert_close(watched.scores, expected, rtol=1e-9, atol=1e-9)
        text.append(token)
    assert text[2:] == list(stream(model, prompt, 14, **how))
