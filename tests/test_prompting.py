"""Prompts by hand; the scores of labels against the probability of each text read whole; calibration against Bayes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import randomised

from minilm import chat, ngram, prompting
from minilm.contract import next_token
from minilm.counts import count
from minilm.generate import common
from minilm.gpt import GPT
from minilm.prompting import CONTENT_FREE, Prompted, calibrate, few_shot, label_scores, turns
from minilm.rnn import RNNLM, RNNConfig
from minilm.tokenizer import BPE
from minilm.transformer import Config

TEXT = "a fine film, a dull film; the label of a fine text is positive, of a dull text negative. user assistant system"
UNITS = BPE.train(TEXT, 320, (chat.START, chat.END))
LABELS = ["positive", "negative", "fine", "f", "qq"]  # of one token and of several, two beginning alike


def models():
    torch.manual_seed(0)
    shape = Config(UNITS.vocab_size, context=400, d_model=16, n_layers=2, n_heads=2, positions="rotary")
    rnn = RNNConfig(UNITS.vocab_size, d_model=8, n_layers=1, cell="lstm")
    ids = torch.tensor(UNITS.encode(TEXT))
    return {
        "gpt": randomised(GPT(shape)).eval(),
        "lstm": randomised(RNNLM(rnn)).eval(),
        "ngram": ngram.WittenBell(count(ids, 3, UNITS.vocab_size)),
    }


@pytest.mark.parametrize("kind", ["gpt", "lstm", "ngram"])
@pytest.mark.parametrize("shots", [[], [("a fine film", "positive"), ("a film", "negative")]])
@pytest.mark.parametrize("talk", [False, True])
def test_scores_are_those_of_the_whole_text(kind, shots, talk):
    model, make = models()[kind], turns if talk else few_shot
    texts = ["a dull film", "", "the film of a text is a fine film, of a dull film", "a dull film"]
    prompts = [make(text, shots, "Say the label.") for text in texts]
    got = label_scores(model, UNITS, prompts, LABELS, batch_size=3)
    for prompt, row in zip(prompts, got, strict=True):
        start = chat.encode(UNITS, prompt) if talk else UNITS.encode(prompt)
        for label, score in zip(LABELS, row, strict=True):
            ending = UNITS.encode(label if talk else " " + label)
            batch = next_token(torch.tensor([start + ending]))
            log_probs = model(*batch.inputs).log_softmax(-1)[0, torch.arange(len(batch.targets[0])), batch.targets[0]]
            torch.testing.assert_close(score, log_probs[-len(ending) :].sum().float(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt", "lstm"])
def test_the_shared_beginning_is_read_once(kind):
    model, widths = models()[kind], []
    model.embedding.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape))
    shots = [("a fine film", "positive")] * 20
    prompts = [few_shot(f"{word} film", shots) for word in ("fine", "dull", "good", "bad")]
    label_scores(model, UNITS, prompts, ["fine"], batch_size=2)
    whole = sum(len(UNITS.encode(prompt)) for prompt in prompts)
    assert widths[0][0] == 1 and sum(rows * T for rows, T in widths) < whole / 2


def test_a_text_does_not_depend_on_its_neighbours():
    model = models()["gpt"]
    prompts = [few_shot(text) for text in ("a fine film", "a dull film, a dull text, a dull label", "film")]
    together = label_scores(model, UNITS, prompts, LABELS)
    torch.testing.assert_close(together, torch.cat([label_scores(model, UNITS, [one], LABELS) for one in prompts]))


def test_prompts_by_hand():
    assert few_shot("x") == "Text: x\nLabel:"
    whole = few_shot("x", [("a", "yes"), ("b", "no")], "Do it.", ("Q", "A"))
    assert whole == "Do it.\n\nQ: a\nA: yes\n\nQ: b\nA: no\n\nQ: x\nA:"
    talk = turns("x", [("a", "yes")], "Do it.")
    assert [one["content"] for one in talk] == ["Do it.\n\na", "yes", "Do it.\n\nx"]
    assert turns("x") == [{"role": "user", "content": "x"}]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=4))
def test_the_common_beginning(rows):
    n = common(rows)
    assert all(row[:n] == rows[0][:n] and len(row) > n for row in rows)
    longer = [tuple(row[: n + 1]) for row in rows]
    assert len(set(longer)) > 1 or min(map(len, rows)) == n + 1


def test_what_cannot_be_scored_is_refused():
    model = models()["gpt"]
    for prompts, labels in (([], ["a"]), (["a"], [])):
        with pytest.raises(ValueError, match="give at least one of each"):
            label_scores(model, UNITS, prompts, labels)
    with pytest.raises(ValueError, match=r"hold \d+ tokens, the model reads 400: shorten"):
        label_scores(model, UNITS, ["film " * 400], ["a"])


# Calibration

scores = st.lists(st.floats(-20, 0), min_size=3, max_size=3)


@given(st.lists(scores, min_size=1, max_size=5), scores, st.floats(-5, 5))
def test_calibration_takes_out_what_all_texts_share(rows, bias, shift):
    """Bayes: with P(label|text) ~ P(text|label) P(label), dividing by the prior leaves the likelihood, normalised."""
    likelihood, prior = torch.tensor(rows).double(), torch.tensor(bias).double()
    seen = likelihood + prior + shift
    torch.testing.assert_close(calibrate(seen, prior[None]), likelihood.log_softmax(-1))
    torch.testing.assert_close(calibrate(seen, seen[:1]).exp()[0], torch.full((3,), 1 / 3).double())


def test_several_neutral_texts_are_averaged_as_probabilities():
    neutral = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    got = calibrate(torch.tensor([[0.7, 0.3]]).log(), neutral).exp()
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.5]]))


class Grudge:
    """A language model over UNITS that says "negative" ten times as often, whatever it reads, but knows 'fine'."""

    vocab_size, context = UNITS.vocab_size, None

    def __call__(self, ids):
        logits = torch.zeros(*ids.shape, self.vocab_size, dtype=torch.float64)
        bad, good, fine = (UNITS.encode(word)[0] for word in (" negative", " positive", " fine"))
        logits[..., bad] = math.log(10)
        seen = (ids == fine).cumsum(-1) > 0
        logits[..., good] = torch.where(seen, math.log(5), 0.0)
        return logits


def test_a_classifier_without_training():
    labels = ["negative", "positive"]
    assert len({UNITS.encode(" " + label)[0] for label in labels}) == 2
    raw = Prompted(Grudge(), UNITS, labels)
    fair = Prompted(Grudge(), UNITS, labels, neutral=CONTENT_FREE)
    texts = ["a fine film", "a dull film"]
    assert raw(texts).argmax(1).tolist() == [0, 0] and fair(texts).argmax(1).tolist()[0] == 1
    torch.testing.assert_close(raw(texts).exp().sum(1), torch.ones(2))
    torch.testing.assert_close(fair(texts)[1].exp(), torch.tensor([0.5, 0.5]))
    own = Prompted(Grudge(), UNITS, labels, prompt=lambda text: prompting.few_shot(text, names=("Review", "Verdict")))
    assert own.scores(texts).shape == (2, 2)
