"""Sampling against closed forms, `transformers` and long-run frequencies; a text against many, a cache against none."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process as peer

from minilm import ngram
from minilm.beam import beam
from minilm.generate import Guesser, generate, generate_batch, lookup, next_token_probs, penalise, stream
from minilm.gpt import GPT
from minilm.gpt2_files import to_gpt2, to_gpt2_config
from minilm.rnn import RNNLM, RNNConfig
from minilm.transformer import Config

V, CONTEXT = 24, 20
logits = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True).map(
    lambda x: torch.tensor(x).double() / 8
)


class Chain:
    """A first-order Markov chain with a given transition table."""

    context = 1

    def __init__(self, table):
        self.log_probs = torch.tensor(table).double().log()
        self.vocab_size = len(table)

    def __call__(self, ids):
        return self.log_probs[ids]


def opinionated(model):
    """Random weights large enough that what comes next depends on what stood before; float64, so that ties are none."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.4 if parameter.dim() > 1 else 0.1))
    return model.double().eval()


def gpt(seed=0, **fields):
    torch.manual_seed(seed)
    return opinionated(GPT(Config(V, CONTEXT, d_model=16, n_layers=2, n_heads=4, tied=False, **fields)))


def models():
    """One of each kind that `generate` meets: cached or not, with a bound on the context or without."""
    torch.manual_seed(1)
    text = torch.randint(V, (400,))
    return {
        "gpt": gpt(),
        "modern": gpt(positions="rotary", norm="rms", n_kv_heads=2, bias=False, activation="relu2", qk_norm=True),
        "lstm": opinionated(RNNLM(RNNConfig(V, d_model=16, n_layers=2, cell="lstm"))),
        "trigram": ngram.WittenBell(ngram.count(text, 3, V)),
        "unigram": ngram.WittenBell(ngram.count(text, 1, V)),
    }


# One distribution


@given(logits, st.floats(0.2, 3))
def test_temperature_is_a_power_of_the_probabilities(x, temperature):
    powered = x.softmax(0) ** (1 / temperature)
    torch.testing.assert_close(next_token_probs(x, temperature), powered / powered.sum())


@given(logits, st.integers(1, 12))
def test_top_k_keeps_the_k_likeliest_in_proportion(x, k):
    probs = next_token_probs(x, top_k=k)
    kept = set(x.topk(min(k, len(x))).indices.tolist())
    assert {i for i in range(len(x)) if probs[i] > 0} == kept
    reference = torch.tensor([x.softmax(0)[i] if i in kept else 0.0 for i in range(len(x))]).double()
    torch.testing.assert_close(probs, reference / reference.sum())


@given(logits, st.floats(0.01, 1))
def test_top_p_keeps_the_fewest_tokens_that_hold_p(x, p):
    kept = next_token_probs(x, top_p=p) > 0
    plain = x.softmax(0)
    assert plain[kept].sum() >= p - 1e-9
    assert plain[kept].sum() - plain[kept].min() < p  # one token fewer would not do
    assert not kept.all() or plain.min() > 0
    assert (plain[kept].min() >= plain[~kept].max()) if (~kept).any() else True


def test_where_one_token_holds_exactly_p_no_other_is_kept():
    halves = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64).log()
    assert halves.softmax(-1)[0] == 0.5
    assert next_token_probs(halves, top_p=0.5).tolist() == [1, 0, 0]


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 1e-7])
def test_a_temperature_near_zero_is_zero(temperature):
    """Dividing by 1e-40 overflows; dividing by 1e-7 would leave a second token some of the mass."""
    assert next_token_probs(torch.tensor([3.0, 3.0 - 1e-6, -2.0]), temperature=temperature).tolist() == [1, 0, 0]


@given(logits, st.floats(0.01, 1))
def test_min_p_keeps_what_is_near_the_best(x, p):
    plain = x.softmax(0)
    kept = plain >= p * plain.max()
    torch.testing.assert_close(next_token_probs(x, min_p=p), plain * kept / plain[kept].sum())


WARPERS = {
    "temperature": (st.floats(0.2, 3), peer.TemperatureLogitsWarper),
    "top_k": (st.integers(1, 40), peer.TopKLogitsWarper),
    "top_p": (st.floats(0.05, 0.99), peer.TopPLogitsWarper),
    "min_p": (st.floats(0.01, 1), peer.MinPLogitsWarper),
}


@given(st.data(), st.integers(0, 10_000), st.sets(st.sampled_from(sorted(WARPERS))))
def test_distribution_is_that_of_transformers(data, seed, names):
    scores = 3 * torch.randn(3, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    options = {name: data.draw(strategy, name) for name, (strategy, _) in WARPERS.items() if name in names}
    theirs = scores
    for name, value in options.items():  # in the order in which transformers applies them
        theirs = WARPERS[name][1](value)(None, theirs)
    torch.testing.assert_close(next_token_probs(scores, **options), theirs.softmax(-1), rtol=0, atol=1e-12)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 29), min_size=1, max_size=50), st.floats(0.5, 2))
def test_penalty_is_that_of_transformers(seed, ids, penalty):
    scores = torch.randn(1, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theirs = peer.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), scores)
    assert penalise(scores[0], ids, penalty).equal(theirs[0])
    assert penalise(scores[0], [], penalty).equal(scores[0])


# The loop


def test_samples_follow_the_distribution():
    table = [[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]
    ids = [0, *generate(Chain(table), [0], 6_000, seed=1)]
    for state in range(3):
        counts = torch.bincount(torch.tensor([b for a, b in pairwise(ids) if a == state]), minlength=3)
        expected = counts.sum() * torch.tensor(table[state], dtype=torch.float64)
        assert chisquare(counts, expected).pvalue > 1e-3


def test_rows_of_a_batch_are_independent_draws():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    firsts = [text[0] for text in generate_batch(Chain([p.tolist()] * 4), [[0]] * 4_001, 1, seed=5)]
    neighbours = torch.tensor([4 * a + b for a, b in pairwise(firsts)])
    assert chisquare(neighbours.bincount(minlength=16), 4_000 * torch.outer(p, p).flatten()).pvalue > 1e-3


def test_seed_decides_the_text():
    model = Chain([[0.5, 0.5], [0.5, 0.5]])
    assert generate(model, [0], 40, seed=3) == generate(model, [0], 40, seed=3) != generate(model, [0], 40, seed=4)


def test_model_is_shown_no_more_than_its_context():
    class Strict(Chain):
        context = 2

        def __call__(self, ids):
            assert ids.shape[1] <= 2
            return super().__call__(ids)

    assert len(generate(Strict([[0.5, 0.5], [0.5, 0.5]]), [0, 1, 1], 5)) == 5


HOW = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.0, 0.7, 1.0]), "seed": st.integers(0, 99)},
    optional={"top_k": st.just(5), "top_p": st.just(0.9), "repetition_penalty": st.just(1.3), "stop": st.just({3, 4})},
)
PROMPTS = st.tuples(
    st.lists(st.integers(0, V - 1), max_size=CONTEXT),
    st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=CONTEXT + 5), min_size=1, max_size=4),
).map(lambda both: [both[0] + rest for rest in both[1]])
"""Prompts that begin alike, or do not."""


@pytest.mark.parametrize("name", models())
@settings(max_examples=15)
@given(PROMPTS, st.integers(0, 2 * CONTEXT), HOW)
def test_one_by_one_is_batch_is_stream_is_uncached(name, prompts, length, how):
    """Also past the context limit, with prompts beyond it, and with rows that stop at different times."""
    model, how = models()[name], dict(how)
    batch = generate_batch(model, prompts, length, **how)
    assert batch == generate_batch(model, prompts, length, cache=False, **how)
    seed = how.pop("seed")
    for row, (prompt, text) in enumerate(zip(prompts, batch, strict=True)):
        assert generate(model, prompt, length, seed=seed + row, **how) == text
        assert list(stream(model, prompt, length, seed=seed + row, cache=False, **how)) == text
        assert len(text) <= length and not set(text) & how.get("stop", set())


def test_cache_is_used():
    class Counting(GPT):
        read = 0

        def before_head(self, ids, cache=None):
            self.read += ids.numel()
            return super().before_head(ids, cache)

    model = Counting(Config(V, CONTEXT, d_model=16, n_layers=1, n_heads=2))
    generate(model, [1, 2, 3], 10)
    assert model.read == 3 + 9  # the prompt once, then every new token but the last
    model.read = 0
    assert next(iter(stream(model, [1, 2, 3], 10))) in range(V)
    assert model.read == 3, "a stream runs no further than it is asked"
    model.read = 0
    generate_batch(model, [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3, 4]], 4)
    assert model.read == 3 + 3 * 2 + 3 * 3, "what all prompts begin with is read once; a rest is padded to the longest"


@pytest.mark.parametrize("cache", [True, False])
def test_output_layer_is_asked_for_what_comes_next_only(cache):
    model, rows = gpt(), []
    model.head.register_forward_hook(lambda layer, inputs, output: rows.append(inputs[0].numel() // 16))
    prompts = [[1, 2, 3, 4], [5, 6], [7]]
    together = generate_batch(model, prompts, 4, cache=cache)
    assert sum(rows) == 3 * 4 if cache else rows[0] == 3
    assert together == [generate(model, prompt, 4, seed=b, cache=cache) for b, prompt in enumerate(prompts)]
    rows.clear()
    generate(model, [1, 2, 3], 3, draft=lambda text: [9, 9], cache=cache)
    assert rows[0] == 3, "after the prompt, and after each guess"


# Guesses


@pytest.mark.parametrize("name", models())
@settings(max_examples=15)
@given(st.lists(st.integers(0, V - 1), min_size=1, max_size=CONTEXT + 5), st.integers(0, 2 * CONTEXT), HOW, st.data())
def test_guesses_never_change_the_text(name, prompt, length, how, data):
    """Right ones, wrong ones, too many, none: also past the context, with stops, penalties and without a cache."""
    every, cache = models(), data.draw(st.booleans())
    model = every[name]
    text = generate(model, prompt, length, **how)
    right = [*prompt, *text]
    guess = st.lists(st.integers(0, V - 1), max_size=6)

    def draft(written):
        assert list(written) == right[: len(written)]
        return right[len(written) :][: data.draw(st.integers(0, 6))] + data.draw(guess)

    for how_guessed in (draft, lambda written: lookup(written, 1), Guesser(every["modern"]), Guesser(model, 3)):
        assert generate(model, prompt, length, draft=how_guessed, cache=cache, **how) == text


def test_right_guesses_save_calls_and_wrong_ones_cost_none():
    class Counting(GPT):
        calls = read = 0

        def before_head(self, ids, cache=None):
            self.calls, self.read = self.calls + 1, self.read + ids.numel()
            return super().before_head(ids, cache)

    torch.manual_seed(0)
    model = opinionated(Counting(Config(V, CONTEXT, d_model=16, n_layers=1, n_heads=2)))
    text = generate(model, [1, 2, 3], 13, temperature=0.0)
    assert model.calls == 13
    model.calls = model.read = 0
    knows = lambda written: text[len(written) - 3 :][:3]
    assert generate(model, [1, 2, 3], 13, temperature=0.0, draft=knows) == text
    assert model.calls == 4  # three right guesses and one token more each: 4 + 4 + 4 + 1
    assert model.read == 3 + 12, "no token is read twice"
    model.calls = 0
    wrong = lambda written: [(text[len(written) - 3] + 1) % V]
    assert generate(model, [1, 2, 3], 13, temperature=0.0, draft=wrong) == text
    assert model.calls == 13


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_lookup_is_what_followed_last_time(text, n, most):
    places = [i for i in range(n, len(text)) if text[i - n : i] == text[len(text) - n :]]
    expected = text[places[-1] : places[-1] + most] if places else []
    assert lookup(text, n, most) == expected


@pytest.mark.parametrize("name", models())
@settings(max_examples=10)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=CONTEXT + 5), min_size=1, max_size=5))
def test_a_guesser_writes_what_its_model_would_whatever_it_was_asked_before(name, texts):
    model = models()[name]
    guesser = Guesser(model, 3)
    for text in texts:
        assert guesser(text) == generate(model, text, 3, temperature=0.0)


def test_a_beginning_that_all_share_may_be_longer_than_the_context():
    model, prompts = gpt(), [[*range(V), 1, end] for end in (2, 3)]
    assert generate_batch(model, prompts, 4) == [generate(model, prompts[b], 4, seed=b) for b in (0, 1)]


def test_a_guesser_makes_room_before_there_is_none():
    torch.manual_seed(0)
    model = opinionated(GPT(Config(V, 600, d_model=16, n_layers=1, n_heads=2)))
    guesser = Guesser(model, 3)
    guesser([1])
    room = guesser.reader.cache.size
    for more in (room - 3, room - 2, room):
        text = torch.randint(V, (more,)).tolist()
        assert guesser(text) == generate(model, text, 3, temperature=0.0)


def test_a_guesser_that_is_the_model_is_always_right_and_reads_nothing_twice():
    model, read = gpt(), []
    small = gpt()
    small.embedding.register_forward_hook(lambda layer, inputs, output: read.append(inputs[0].numel()))
    passes = []
    model.embedding.register_forward_hook(lambda layer, inputs, output: passes.append(inputs[0].numel()))
    text = generate(model, [1, 2, 3], 12, temperature=0.0, draft=Guesser(small))
    assert text == generate(gpt(), [1, 2, 3], 12, temperature=0.0)
    assert passes == [5, 3, 3, 3] and sum(read) == 3 + 12 - 2, "all but the last guess and what follows it"
    read.clear()
    known = lambda text: [7]
    assert Guesser(small, first=known)([1, 2, 3]) == [7] and not read


@pytest.mark.parametrize(
    "guess", [lambda: lookup([1, 2], n=0), lambda: lookup([1, 2], most=0), lambda: Guesser(gpt(), 0)]
)
def test_bad_guesses_are_named(guess):
    with pytest.raises(ValueError, match=r"n=0|most=0"):
        guess()


def test_guesses_are_for_one_prompt():
    with pytest.raises(ValueError, match="draft is given with 2 prompts"):
        generate_batch(Chain([[1.0]]), [[0], [0]], 3, draft=lookup)


# The whole, beside transformers


def hugging_face(model, prompts, length, **options):
    """What ``GPT2LMHeadModel.generate`` appends with the same weights; the prompts padded on the left, as it wants."""
    twin = GPT2LMHeadModel(GPT2Config(**to_gpt2_config(model.config)))
    twin.load_state_dict(to_gpt2(model), strict=False)
    twin = twin.double().eval()
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    plan = GenerationConfig(max_new_tokens=length, pad_token_id=0, bos_token_id=None, **options)
    return twin.generate(ids, attention_mask=mask, generation_config=plan)[:, width:].tolist()


def until(ids, stop):
    """The ids before the first stop token."""
    return ids[: next((i for i, token in enumerate(ids) if token in stop), len(ids))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_is_that_of_transformers(seed, penalty):
    model, prompts, stop = gpt(seed), [[1, 2, 3], [4], [5, 6, 7, 8, 9]], [10, 11]
    theirs = hugging_face(model, prompts, 15, do_sample=False, repetition_penalty=1.0, eos_token_id=stop)
    assert generate_batch(model, prompts, 15, temperature=0.0, stop=stop) == [until(ids, stop) for ids in theirs]
    for prompt in prompts:  # alone, since transformers' penalty takes the padding for text
        [theirs] = hugging_face(model, [prompt], 15, do_sample=False, repetition_penalty=penalty)
        assert generate(model, prompt, 15, temperature=0.0, repetition_penalty=penalty) == theirs


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n_beams", [1, 2, 3, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("stop", [[], [10], [2, 10, 17]])
def test_beam_is_that_of_transformers(seed, n_beams, length_penalty, stop):
    model, prompt = gpt(seed), [1, 2, 3]
    options = {"length_penalty": length_penalty, "eos_token_id": stop or None} if n_beams > 1 else {}
    theirs = hugging_face(
        model, [prompt], 12, num_beams=n_beams, num_return_sequences=n_beams, do_sample=False, **options
    )
    ours = beam(model, prompt, 12, n_beams, length_penalty, stop if n_beams > 1 else [])
    assert [h.ids for h in ours] == [until(ids, stop if n_beams > 1 else []) for ids in theirs]


@given(st.integers(0, 999), st.sampled_from([0.0, 1.0]), st.booleans())
def test_wide_beam_finds_the_likeliest_text(seed, length_penalty, stops):
    table = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)).double().softmax(-1)
    stop, texts = {3} if stops else set(), {(0,): 0.0}  # every text of up to 3 tokens and its log-probability
    ended = {}
    for length in range(1, 4):
        longer = {(*t, i): p + table[t[-1], i].log().item() for t, p in texts.items() for i in range(4)}
        over = {t: p for t, p in longer.items() if t[-1] in stop or length == 3}
        ended |= {t: p / length**length_penalty for t, p in over.items()}
        texts = {t: p for t, p in longer.items() if t not in over}
    best = max(ended.values())
    [first, *others] = beam(Chain(table.tolist()), [0], 3, 64, length_penalty, stop)
    equals = [t for t, score in ended.items() if score > best - 1e-9]  # the same steps in another order are a tie
    assert first.ids in [list(until(t[1:], stop)) for t in equals]
    assert first.score == pytest.approx(best) and all(first.score >= other.score for other in others)


@pytest.mark.parametrize("name", models())
def test_beam_with_cache_is_beam_without(name):
    texts = [beam(models()[name], [1, 2, 3], CONTEXT, 3, stop={5}, cache=cache) for cache in (True, False)]
    assert [h.ids for h in texts[0]] == [h.ids for h in texts[1]]
    for found in texts[0]:
        assert found.log_prob == pytest.approx(found.score * (len(found.ids) + (len(found.ids) < CONTEXT)))


def test_one_beam_is_greedy():
    model = gpt(7)
    assert beam(model, [1, 2], 30, n_beams=1)[0].ids == generate(model, [1, 2], 30, temperature=0.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt": []}, "prompt is empty"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"min_p": 1.5}, "min_p=1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        generate(Chain([[1.0]]), **{"prompt": [0], "max_new_tokens": 1, **options})


@pytest.mark.parametrize("options", [{"n_beams": 0}, {"max_new_tokens": 0}, {"prompt": []}])
def test_bad_beams_are_named(options):
    with pytest.raises(ValueError, match=r"prompt is empty|n_beams=0|max_new_tokens=0"):
        beam(Chain([[1.0]]), **{"prompt": [0], "max_new_tokens": 1, **options})
