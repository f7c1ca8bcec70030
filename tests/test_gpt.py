"""The GPT by itself: it reads left to right, a cache changes nothing, and it learns."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config, configs, randomised

from minilm import evaluate
from minilm.contract import LanguageModel, loss, next_token
from minilm.gpt import GPT, POSITIONS
from minilm.tokenizer import BPE
from minilm.transformer import Config


def ids(model: GPT, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(model.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def test_obeys_the_contract():
    model = GPT(config())
    assert isinstance(model, LanguageModel)
    assert model(ids(model, 2, 5)).shape == (2, 5, 11)


def test_is_scored_on_the_ruler():
    tokenizer = BPE.train("to be or not to be", 257)
    model = GPT(config(vocab_size=257)).eval()
    score = evaluate.score(model, tokenizer, "to be or not to be, that is the question. " * 20)
    assert score.bits_per_byte == pytest.approx(8, rel=0.05)  # untrained: about uniform over the bytes


def test_too_many_tokens_is_refused():
    with pytest.raises(ValueError, match="positions='relative': a GPT has one of 'learned'"):
        GPT(config(positions="relative"))
    with pytest.raises(ValueError, match="ids holds 13 tokens, the model reads at most 12"):
        GPT(config())(torch.zeros(1, 13, dtype=torch.long))


@given(configs(), st.data())
def test_the_future_changes_nothing(c, data):
    """Nor does padding on the right, which is the same thing."""
    model = randomised(GPT(c)).eval()
    length = data.draw(st.integers(1, c.context))
    text, end = ids(model, 2, c.context), ids(model, 2, c.context, seed=1)
    other = torch.cat([text[:, :length], end[:, length:]], 1)
    torch.testing.assert_close(model(other)[:, :length], model(text)[:, :length])
    torch.testing.assert_close(model(text[:, :length]), model(text)[:, :length])


@given(configs(), st.data())
def test_cached_is_uncached(c, data):
    """However the text is cut into pieces."""
    model = randomised(GPT(c)).eval()
    text = ids(model, 2, c.context)
    cuts = sorted(data.draw(st.sets(st.integers(1, c.context))) | {c.context})
    cache, pieces = model.new_cache(batch=2), []
    for begin, end in zip([0, *cuts], cuts, strict=False):
        pieces.append(model(text[:, begin:end], cache))
    torch.testing.assert_close(torch.cat(pieces, 1), model(text))


@pytest.mark.parametrize("positions", POSITIONS)
def test_rows_of_different_lengths_share_a_cache(positions):
    """A batch padded on the right, then one token a row: as if each row stood alone."""
    model = randomised(GPT(config(positions=positions, n_kv_heads=2))).eval()
    lengths, text = torch.tensor([3, 6, 1]), ids(model, 3, 10)
    cache = model.new_cache(batch=3)
    model(text[:, :6], cache)
    cache.keep(lengths)
    for step in range(3):
        at = lengths + step
        logits = model(text.gather(1, at[:, None]), cache)
        for row in range(3):
            alone = model(text[row : row + 1, : at[row] + 1])[0, -1]
            torch.testing.assert_close(logits[row, 0], alone)


def test_a_cache_is_no_larger_than_the_context():
    model = GPT(config())
    assert model.new_cache(1).size == model.new_cache(1, 99).size == 12 and model.new_cache(1, 5).size == 5


def test_order_matters_where_positions_are_known_and_only_there():
    for positions in POSITIONS:
        model = randomised(GPT(config(positions=positions, n_layers=1))).eval()
        a, b = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[2, 1, 3]]))
        assert torch.allclose(a[0, -1], b[0, -1]) == (positions == "none")


def test_first_weights():
    """GPT-2's: 0.02, divided by the root of the number of additions to the stream for what is added to it."""
    torch.manual_seed(0)
    model = GPT(config(d_model=256, n_layers=8))
    block = model.stack.blocks[3]
    for weight in (model.embedding.weight, model.position.weight, block.attention.qkv.weight, block.mlp.inner.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    for weight in (block.attention.out.weight, block.mlp.outer.weight):
        assert weight.std().item() == pytest.approx(0.02 / 4, rel=0.02)
    assert not block.mlp.inner.bias.any() and (block.norm1.weight == 1).all()
    free = GPT(config(d_model=256, n_layers=1, tied=False))
    assert free.embedding.weight.std().item() == pytest.approx(1, rel=0.05)
    assert free.head.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_starts_at_the_loss_of_a_uniform_guess():
    torch.manual_seed(0)
    model = GPT(Config(vocab_size=500, context=32, d_model=64, n_layers=4, n_heads=4))
    batch = next_token(ids(model, 8, 32))
    assert loss(model(*batch.inputs), batch.targets).item() == pytest.approx(math.log(500), abs=0.05)


def test_tied_head_is_the_embedding():
    tied, free = GPT(config()), GPT(config(tied=False))
    assert tied.head.weight is tied.embedding.weight and free.head.weight is not free.embedding.weight
    assert not torch.equal(free.head.weight, free.embedding.weight)


@settings(max_examples=5)
@given(st.sampled_from(POSITIONS), st.booleans(), st.sampled_from(["layer", "rms"]))
def test_overfits_one_batch(positions, norm_first, norm):
    torch.manual_seed(0)
    model = GPT(config(positions=positions, norm_first=norm_first, norm=norm, d_model=32))
    batch, optimizer = next_token(torch.randint(11, (4, 9))), torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nats = loss(model(*batch.inputs), batch.targets)
        nats.backward()
        optimizer.step()
    assert nats < 0.3  # below log 11 = 2.4; not 0, since rows may begin alike and go on differently
