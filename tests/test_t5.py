"""Our T5 is T5: the same logits, gradients and texts from the same weights as the ``transformers`` library."""

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import randomised
from torch import nn

from minilm import evaluate, t5_files
from minilm.beam import beam
from minilm.contract import LanguageModel, loss
from minilm.generate import generate, generate_batch
from minilm.layers import relative_buckets
from minilm.spans import END, PAD, pairs, sample_pairs
from minilm.t5 import T5, answers, bias
from minilm.t5_files import FIXED, from_t5, from_t5_config, to_t5, to_t5_config
from minilm.train import TrainConfig, train
from minilm.transformer import Config

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
from transformers.models.t5 import modeling_t5  # noqa: E402

CONFIG = Config(31, context=12, d_model=24, n_layers=3, n_heads=3, d_ff=20, eps=1e-6, **FIXED)
BATCH = pairs([[5, 6, 7, 8, 9, 10, 11], [12, 13]], [[5, 6, 7], [3]])
SOURCES = [[5, 6, 7, 8, END], [9, END], [20, 21, 22, 23, 24, 25, 26, 27, END]]


def model(seed: int = 0, **fields) -> T5:
    torch.manual_seed(seed)
    return randomised(T5(Config(**{**CONFIG.__dict__, **fields}))).eval()


def theirs(config: Config = CONFIG) -> nn.Module:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**to_t5_config(config))).double().eval()


@pytest.fixture
def exact_norms(monkeypatch):
    """Their norm squares in float32 even where all else is float64; here it squares in float64 as well."""
    norm = lambda self, x: F.rms_norm(x, (x.shape[-1],), self.weight, self.variance_epsilon)
    monkeypatch.setattr(modeling_t5.T5LayerNorm, "forward", norm)


def logits(their: nn.Module, source, target, mask):
    return their(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits


# The outside reference


@pytest.mark.parametrize("both_sides", [True, False])
def test_buckets_are_those_of_transformers(both_sides):
    distance = torch.arange(-3000, 3001)
    reference = modeling_t5.T5Attention._relative_position_bucket(distance, both_sides)
    assert torch.equal(relative_buckets(distance, both_sides), reference)


@pytest.mark.parametrize("fields", [{}, {"d_ff": None}, {"n_layers": 1, "n_heads": 4}], ids=str)
def test_transformers_takes_our_weights(fields, exact_norms):
    here = model(**fields)
    there = theirs(here.config)
    there.load_state_dict(to_t5(here))  # strict: every weight, and no other
    torch.testing.assert_close(logits(there, *BATCH.inputs), here(*BATCH.inputs), rtol=0, atol=1e-12)


def test_logits_are_those_of_transformers(exact_norms):
    torch.manual_seed(0)
    there = randomised(theirs())
    here = from_t5(there.state_dict(), from_t5_config(there.config.to_dict())).eval()
    source, target = torch.randint(2, 31, (2, 300)), torch.randint(2, 31, (2, 200))  # past the farthest distance
    mask = torch.ones_like(source, dtype=torch.bool)
    torch.testing.assert_close(here(source, target, mask), logits(there, source, target, mask), rtol=0, atol=1e-9)


def test_logits_are_those_of_transformers_as_it_comes():
    """With the float32 in their norm, and with the initial weights of either side."""
    there = theirs()
    there.load_state_dict(to_t5(T5(CONFIG).double()))
    here = from_t5(there.state_dict(), CONFIG).eval()
    torch.testing.assert_close(logits(there, *BATCH.inputs), here(*BATCH.inputs), rtol=0, atol=2e-6)


def test_gradients_agree(exact_norms):
    here, there = model().train(), theirs().train()
    there.config.dropout_rate = 0.0
    for module in there.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    there.load_state_dict(to_t5(here))
    loss(here(*BATCH.inputs), BATCH.targets).backward()
    loss(logits(there, *BATCH.inputs), BATCH.targets).backward()
    grads = {name: p.grad for name, p in there.named_parameters()}
    for ours, parameter in here.named_parameters():
        names = [name for name in t5_files._theirs(ours) if name in grads]
        expected = torch.cat([grads[name] / t5_files._scale(name, CONFIG) for name in names])
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_writes_what_transformers_writes(seed, exact_norms):
    here, there = model(seed), theirs()
    there.load_state_dict(to_t5(here))
    for source in SOURCES:
        ids, given_source = torch.tensor([source]), here.given(source)
        greedy = there.generate(ids, max_new_tokens=9, do_sample=False)[0].tolist()[1:]
        assert generate(given_source, [PAD], 9, temperature=0.0, stop={END}) == greedy[: _end(greedy)]
        beams = there.generate(ids, max_new_tokens=9, do_sample=False, num_beams=3)[0].tolist()[1:]
        assert beam(given_source, [PAD], 9, n_beams=3, stop={END})[0].ids == beams[: _end(beams)]


def _end(ids: list[int]) -> int:
    return ids.index(END) if END in ids else len(ids)


# By itself


def test_the_bias_of_a_query_that_stands_at_two():
    table = torch.arange(32.0)[:, None] * torch.tensor([1.0, 10.0])  # two heads
    both = bias(table, torch.tensor([[2]]), 4, both_sides=True)[0, :, 0]
    torch.testing.assert_close(both, torch.tensor([[2.0, 1.0, 0.0, 17.0], [20.0, 10.0, 0.0, 170.0]]))
    left = bias(table, torch.tensor([[2]]), 4, both_sides=False)[0, 0, 0]
    assert left.tolist() == [2.0, 1.0, 0.0, -torch.inf]


def test_position_is_nothing_but_distance():
    """An encoder that looks at pairs equally far apart cannot tell where they stand: no table of positions."""
    assert not any("position" in name for name, _ in model().named_parameters())
    table = torch.randn(32, 3)
    whole = bias(table, torch.arange(9)[None], 9, both_sides=True)
    torch.testing.assert_close(whole[..., :-1, :-1], whole[..., 1:, 1:])


def test_padding_of_the_source_changes_nothing():
    here, (source, target, mask) = model(), BATCH.inputs
    alone = here(source[1:, :3], target[1:])
    torch.testing.assert_close(here(source, target, mask)[1:], alone)
    other = source.masked_fill(~mask, 17)
    torch.testing.assert_close(here(other, target, mask), here(source, target, mask))


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 9))
def test_the_future_of_the_target_changes_nothing_and_the_source_does(length, seed):
    here, generator = model(seed), torch.Generator().manual_seed(seed)
    source, target, other = (torch.randint(2, 31, (2, 10), generator=generator) for _ in range(3))
    mixed = torch.cat([target[:, :length], other[:, length:]], 1)
    torch.testing.assert_close(here(source, mixed)[:, :length], here(source, target)[:, :length])
    changed = source.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 31
    assert (here(changed, target) - here(source, target)).abs()[:, 0].max() > 1e-9  # the encoder sees both sides


@settings(max_examples=20)
@given(st.sets(st.integers(1, 9)), st.integers(0, 9))
def test_cached_is_uncached(cuts, seed):
    here, target = model(seed), torch.randint(2, 31, (3, 10), generator=torch.Generator().manual_seed(seed))
    writer = here.given(SOURCES)
    cache, pieces = writer.new_cache(3, 10), []
    places = sorted(cuts | {10})
    for begin, end in zip([0, *places], places, strict=False):
        pieces.append(writer(target[:, begin:end], cache))
    torch.testing.assert_close(torch.cat(pieces, 1), writer(target))


def test_a_source_follows_its_row():
    """Greedy rows end at different steps, so rows are dropped; each must go on with its own source and cache."""
    here = model(3)
    nn.init.normal_(here.embedding.weight, std=3.0)
    together = generate_batch(here.given(SOURCES), [[PAD]] * 3, 12, temperature=0.0, stop={END, 20})
    alone = [generate(here.given(one), [PAD], 12, temperature=0.0, stop={END, 20}) for one in SOURCES]
    begun = generate_batch(here.given(SOURCES), [[PAD, 5]] * 3, 12, temperature=0.0)  # alike, of unlike sources
    assert begun == [generate(here.given(one), [PAD, 5], 12, temperature=0.0) for one in SOURCES]
    assert together == alone and len(set(map(len, alone))) > 1
    cache = here.given(SOURCES).new_cache(3, 4)
    cache.reorder(torch.tensor([2, 0]))
    assert cache.mask.sum(1).tolist() == [9, 5]


def test_answers_come_in_the_order_of_their_questions():
    here, generator = model(1), torch.Generator().manual_seed(0)
    sources = [torch.randint(2, 31, (n,), generator=generator).tolist() for n in (7, 1, 4, 9, 4, 2)]
    alone = [generate(here.given(one), [PAD], 8, temperature=0.0, stop={END}) for one in sources]
    assert answers(here, sources, 8, batch_size=4) == alone


def test_given_a_source_it_is_a_language_model():
    here = model()
    writer = here.given(SOURCES[0])
    assert isinstance(writer, LanguageModel)
    target = torch.tensor([PAD, 7, 8, 9, END])
    nats = evaluate.nll(writer, target)
    rows = here(torch.tensor([SOURCES[0]]), target[None, :-1])[0].log_softmax(-1)
    torch.testing.assert_close(nats, -rows.gather(1, target[1:, None])[:, 0])
    with pytest.raises(ValueError, match="there are 3 sources for 2 targets"):
        here.given(SOURCES)(torch.zeros(2, 1, dtype=torch.long))


def test_learns_to_reverse():
    """A task that needs both stacks and the positions; the trainer is the one that trains everything else."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 9, (4,), generator=generator).tolist() for _ in range(200)]
    torch.manual_seed(0)
    net = T5(Config(9, context=8, d_model=32, n_layers=1, n_heads=4, eps=1e-6, **FIXED))
    config = TrainConfig(250, 32, 0.02, warmup=10, schedule="linear", final=0.0, optimizer="muon")
    train(net, sample_pairs(texts, [text[::-1] for text in texts], 32), config, progress=False)
    new = [torch.randint(3, 9, (4,), generator=generator).tolist() for _ in range(50)]
    found = answers(net.eval(), [[*text, END] for text in new], 6)
    right = [one == text[::-1] for one, text in zip(found, new, strict=True)]
    assert sum(right) > 40


# What is refused


def test_another_kind_of_position_is_refused():
    with pytest.raises(ValueError, match="positions='rotary'"):
        T5(Config(9, context=8, d_model=16, n_layers=1, n_heads=2, positions="rotary"))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"norm": "layer"}, "norm='layer': T5 has 'rms'"),
        ({"activation": "gelu"}, "activation='gelu'"),
        ({"tied": False}, "tied=False"),
        ({"n_kv_heads": 1}, "n_kv_heads=1: T5 has 3"),
    ],
)
def test_what_t5_has_not_stays_here(fields, match):
    with pytest.raises(ValueError, match=match):
        to_t5(T5(Config(**{**CONFIG.__dict__, **fields})))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"feed_forward_proj": "gated-gelu"}, "feed_forward_proj"),
        ({"d_kv": 5}, "d_kv=5"),
        ({"num_decoder_layers": 1}, "num_decoder_layers=1"),
        ({"relative_attention_num_buckets": 8}, "relative_attention_num_buckets=8"),
        ({"scale_decoder_outputs": False}, "scale_decoder_outputs"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_variants_of_theirs_are_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        from_t5_config({**to_t5_config(CONFIG), **fields})


def test_weights_of_another_model_are_refused():
    state = to_t5(model())
    with pytest.raises(ValueError, match=r"lm_head.weight is missing"):
        from_t5({name: w for name, w in state.items() if name != "lm_head.weight"}, CONFIG)
    with pytest.raises(ValueError, match=r"shared.weight has the shape \(31, 24\)"):
        from_t5(state, Config(**{**CONFIG.__dict__, "vocab_size": 30}))
