"""Our BERT is the BERT of transformers; its objective hides what it says; texts come in the order they were given."""

import json
import os
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config, randomised

from minilm import bert
from minilm.bert import (
    BERT,
    MaskedLM,
    averaged,
    by_length,
    cut,
    embed,
    from_bert,
    labelled,
    load,
    mask_tokens,
    save,
    to_bert,
)
from minilm.bert_files import NAMES, from_bert_config, to_bert_config
from minilm.contract import IGNORE, loss
from minilm.heads import Classifier, mean_pool
from minilm.train import train
from minilm.trainer import TrainConfig
from minilm.wordpiece import SPECIALS, WordPiece

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

CONFIG = config(vocab_size=31, norm_first=False, eps=1e-12, activation="gelu_erf", d_ff=20)
IDS = torch.randint(31, (3, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(12) < torch.tensor([[12], [7], [1]])
TYPES = (torch.arange(12) > 4).long().expand(3, -1)
TOKENIZER = WordPiece([*SPECIALS, *"abcdefghij", *(f"##{c}" for c in "abcdefghij")])


@pytest.fixture(autouse=True)
def quiet():
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def theirs(kind, **fields):
    """Their model in float64, with weights that leave nothing at 0 or 1."""
    return randomised(kind(transformers.BertConfig(**{**to_bert_config(CONFIG), **fields}))).eval()


def given_to(model, **more):
    return model(input_ids=IDS, attention_mask=MASK.long(), token_type_ids=TYPES, **more)


@pytest.mark.parametrize("fields", [{}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu", "num_attention_heads": 2}])
def test_all_hidden_states_are_those_of_transformers(fields):
    there = theirs(transformers.BertModel, **fields)
    here = from_bert(there.state_dict(), from_bert_config(there.config.to_dict())).eval()
    for ours, other in zip(
        here.states(IDS, MASK, TYPES), given_to(there, output_hidden_states=True).hidden_states, strict=True
    ):
        torch.testing.assert_close(ours[MASK], other[MASK], rtol=0, atol=1e-9)


def test_transformers_takes_our_weights():
    here = randomised(BERT(CONFIG)).eval()
    there = theirs(transformers.BertModel)
    there = transformers.BertModel(there.config, add_pooling_layer=False).double().eval()
    there.load_state_dict(to_bert(here))  # strict: every weight, and no other
    torch.testing.assert_close(given_to(there)[0][MASK], here(IDS, MASK, TYPES)[MASK], rtol=0, atol=1e-9)


def test_masked_language_model_is_that_of_transformers():
    there = theirs(transformers.BertForMaskedLM)
    here = MaskedLM(CONFIG).double().eval()
    state = there.state_dict()
    here.encoder = from_bert(state, CONFIG)
    for ours, name in (("transform", "transform.dense"), ("norm", "transform.LayerNorm")):
        part = {key: state[f"cls.predictions.{name}.{key}"] for key in ("weight", "bias")}
        getattr(here, ours).load_state_dict(part)
    here.bias.data = state["cls.predictions.bias"]
    targets = torch.where(MASK & (IDS > 15), IDS, IGNORE)
    other = given_to(there, labels=targets)
    logits = here.eval()(IDS, MASK, TYPES)
    torch.testing.assert_close(logits[MASK], other.logits[MASK], rtol=0, atol=1e-9)
    torch.testing.assert_close(loss(logits, targets), other.loss, rtol=0, atol=1e-9)


def test_gradients_agree():
    there = theirs(transformers.BertModel, hidden_dropout_prob=0.0).train()
    here = from_bert(there.state_dict(), CONFIG).train()
    here(IDS, MASK, TYPES)[MASK].square().sum().backward()
    given_to(there)[0][MASK].square().sum().backward()
    for ours, other in ((here.embedding, "word_embeddings"), (here.segment, "token_type_embeddings")):
        torch.testing.assert_close(ours.weight.grad, getattr(there.embeddings, other).weight.grad)
    attention = there.encoder.layer[0].attention.self
    three = torch.cat([part.weight.grad for part in (attention.query, attention.key, attention.value)])
    torch.testing.assert_close(here.stack.blocks[0].attention.qkv.weight.grad, three)


@pytest.mark.data
def test_published_encoder_has_the_hidden_states_of_transformers(tmp_path):
    here, tokenizer = load("all-minilm")
    save(here, tokenizer, tmp_path)
    there = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    texts = ["The capital of France is Paris.", "Élan: 語言 unaffable " * 80, "", "[MASK] is it?"]
    encoded = transformers.BertTokenizer.from_pretrained(tmp_path)(
        texts, padding=True, truncation=True, max_length=512, return_tensors="pt", split_special_tokens=True
    )
    ids, mask = tokenizer.batch(texts)
    assert ids.tolist() == encoded.input_ids.tolist() and ids.shape == (4, 512)
    with torch.no_grad():
        pairs = zip(here.states(ids, mask), there(**encoded, output_hidden_states=True).hidden_states, strict=True)
        for ours, other in pairs:
            torch.testing.assert_close(ours[mask], other[mask], rtol=0, atol=1e-5)


# What it can see


@given(st.integers(0, 11), st.integers(1, 11))
def test_every_position_sees_every_token_and_no_padding(place, length):
    model = randomised(BERT(CONFIG)).eval()
    ids, mask = IDS[:1], torch.arange(12)[None] < length
    changed = ids.clone()
    changed[0, place] = (changed[0, place] + 1) % 31
    moved = (model(ids, mask) - model(changed, mask)).abs().amax(-1)[0, :length]
    assert (moved > 1e-9).all() if place < length else (moved == 0).all()


@pytest.mark.parametrize("fields", [{}, {"norm_first": True, "positions": "rotary", "norm": "rms", "bias": False}])
def test_padding_changes_nothing(fields):
    model = randomised(BERT(replace(CONFIG, **fields))).eval()
    short = model(IDS[1:2, :7])
    torch.testing.assert_close(model(IDS, MASK)[1:2, :7], short)


def test_rotary_positions_are_relative():
    model = randomised(BERT(replace(CONFIG, positions="rotary"))).eval()
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), IDS[:1, :8]], 1)
    torch.testing.assert_close(model(padded, torch.arange(12)[None] >= 4)[:, 4:], model(IDS[:1, :8]))


# The objective


@given(st.integers(0, 2**32), st.floats(0.05, 1))
def test_masking_follows_the_rule(seed, rate):
    ids = torch.randint(5, (40, 50), generator=torch.Generator().manual_seed(seed)) * 7  # 0 7 14 21 28
    mask = ids != 28
    batch = mask_tokens(ids, mask_id=3, ordinary=range(5, 25), rate=rate, seed=seed, mask=mask)
    (inputs, same), targets = batch.inputs, batch.targets
    asked = targets != IGNORE
    assert same is mask and torch.equal(targets[asked], ids[asked])
    assert torch.equal(inputs[~asked], ids[~asked]), "what is not asked for is left alone"
    assert set(ids[asked].tolist()) <= {7, 14, 21}, "specials and padding are never chosen"
    ordinary = (ids > 0) & (ids < 25)
    n = int(ordinary.sum())
    assert abs(int(asked.sum()) - rate * n) < 6 * (rate * (1 - rate) * n) ** 0.5 + 1
    fates = {
        "mask": (inputs == 3)[asked].float().mean(),
        "other": ((inputs != 3) & (inputs != ids))[asked].float().mean(),
    }
    spread = 6 / 2 / int(asked.sum()) ** 0.5
    assert abs(fates["mask"] - 0.8) < spread and abs(fates["other"] - 0.1 * 19 / 20) < spread
    again = mask_tokens(ids, 3, range(5, 25), rate, seed)
    assert torch.equal(again.inputs[0], inputs) and len(again.inputs) == 1
    assert not torch.equal(mask_tokens(ids, 3, range(5, 25), rate, seed + 1).inputs[0], inputs)


def test_random_replacements_are_all_ordinary_tokens_alike():
    ids = torch.full((100, 1000), 7)
    inputs = mask_tokens(ids, 3, range(5, 9), rate=1.0).inputs[0]
    drawn = Counter(inputs.flatten().tolist())
    assert drawn.keys() == {3, 5, 6, 7, 8}
    assert all(abs(drawn[other] - 2500) < 6 * 50 for other in (5, 6, 8))
    assert abs(drawn[7] - 12_500) < 6 * 112  # a tenth that stays, and a quarter of a tenth that is drawn again


def test_learns_one_batch_by_heart():
    model = MaskedLM(config(vocab_size=31))
    batch = mask_tokens(IDS, 3, range(5, 31), rate=0.5)
    initial = loss(model(*batch.inputs), batch.targets)
    train(model, lambda step: batch, TrainConfig(60, 3, 1e-2, eval_every=60), progress=False)
    assert loss(model(*batch.inputs), batch.targets) < 0.5 < initial


# Texts

texts = st.lists(st.text("abcj ", max_size=30), min_size=1, max_size=30)


@given(texts, st.integers(1, 7), st.integers(3, 12))
def test_batches_by_length_hold_every_text_once_with_little_padding(several, batch_size, length):
    found, widths = {}, []
    for places, ids, mask in by_length(TOKENIZER, several, batch_size, length):
        widths.append(ids.shape[1])
        assert len(places) <= batch_size and mask.any(0).all(), "a batch is as wide as its longest row"
        found |= {place: row[own].tolist() for place, row, own in zip(places, ids, mask, strict=True)}
    assert widths == sorted(widths)
    assert [found[i] for i in range(len(several))] == [TOKENIZER.row(text, length=length)[0] for text in several]


def test_embedding_a_text_does_not_depend_on_its_company():
    model = BERT(replace(CONFIG, context=40)).eval()
    several = ["a", "abc abd", "j" * 30, "", "abc abd"]
    vectors = embed(model, TOKENIZER, several, batch_size=2)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(vectors[1], vectors[4])
    for text, vector in zip(several, vectors, strict=True):
        hidden = model(torch.tensor([TOKENIZER.row(text)[0]]))[0].mean(0)
        torch.testing.assert_close(vector, hidden / hidden.norm())


def test_embedding_is_the_mean_over_tokens():
    model = BERT(replace(CONFIG, context=40)).eval()
    ids, mask = TOKENIZER.batch(["a", "abc"])
    pooled = mean_pool(model(ids, mask), mask)
    torch.testing.assert_close(embed(model, TOKENIZER, ["a", "abc"]), torch.nn.functional.normalize(pooled, dim=-1))


@given(st.integers(0, 99), st.integers(1, 5))
def test_an_epoch_shows_every_example_with_its_class(seed, batch_size):
    examples = [("abcdefghij"[i % 10] * (i % 7 + 1), i) for i in range(40)]  # the class is the number of the text
    steps = 40 // batch_size
    stream = labelled(TOKENIZER, examples, batch_size, seed=seed)
    epochs = [[stream(step) for step in range(first, first + steps)] for first in (0, steps)]
    for batches in epochs:
        seen = [int(label) for batch in batches for label in batch.targets]
        assert len(set(seen)) == len(seen) == steps * batch_size
        for batch in batches:
            for row, own, label in zip(*batch.inputs, batch.targets, strict=True):
                assert row[own].tolist() == TOKENIZER.row(examples[label][0])[0]
    assert [b.targets.tolist() for b in epochs[0]] != [b.targets.tolist() for b in epochs[1]]
    assert torch.equal(stream(3).targets, labelled(TOKENIZER, examples, batch_size, seed=seed)(3).targets)


def test_a_classifier_learns_its_set_and_is_kept(monkeypatch, tmp_path):
    """A stand-in for the published encoder, and a set whose class is the first letter."""
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    examples = tuple((letter + " abcj"[i % 5] * (i % 4), label) for i in range(60) for label, letter in enumerate("ab"))
    sets = SimpleNamespace(train=examples)
    monkeypatch.setattr(bert.data, "load_labelled", lambda name: sets)
    torch.manual_seed(0)
    weights = randomised(BERT(replace(CONFIG, context=64, vocab_size=TOKENIZER.vocab_size))).float().state_dict()

    def load(name: str, dropout: float) -> tuple[BERT, WordPiece]:
        model = BERT(replace(CONFIG, context=64, vocab_size=TOKENIZER.vocab_size, dropout=dropout))
        model.load_state_dict(weights)
        return model, TOKENIZER

    monkeypatch.setattr(bert, "load", load)
    model, log = bert.classifier("letters", batch_size=2)
    assert log[-1]["step"] == 60 and not model.training
    found = bert.logits(model, TOKENIZER, [text for text, _ in examples])
    classes = torch.tensor([label for _, label in examples])
    margins = found[:, 1] - found[:, 0]  # of a small encoder at a small rate: it has begun to tell them apart
    assert margins[classes == 1].mean() > margins[classes == 0].mean(), margins
    monkeypatch.setattr("minilm.trainer.Run.advance", None)
    again, same = bert.classifier("letters", batch_size=2)
    assert same == log and torch.equal(again.head.weight, model.head.weight)


@given(texts)
def test_logits_come_in_the_order_of_the_texts(several):
    torch.manual_seed(0)
    model = Classifier(BERT(replace(CONFIG, context=64, vocab_size=TOKENIZER.vocab_size)), 3).eval()
    torch.nn.init.normal_(model.head.weight)
    rows = [TOKENIZER.batch([text]) for text in several]
    expected = torch.cat([model(ids, mask) for ids, mask in rows])
    torch.testing.assert_close(bert.logits(model, TOKENIZER, several), expected, rtol=1e-4, atol=1e-5)


# The folder, and refusals


def test_capitals_are_kept_where_the_folder_says_so(tmp_path):
    cased = WordPiece([*SPECIALS, "a", "A"], lower=False)
    save(randomised(BERT(replace(CONFIG, vocab_size=cased.vocab_size))), cased, tmp_path)
    assert load(tmp_path)[1].encode("A a") == cased.encode("A a") != cased.encode("a a")


def test_folder_and_back(tmp_path):
    model = randomised(BERT(replace(CONFIG, dropout=0.1, vocab_size=TOKENIZER.vocab_size))).float().eval()
    save(model, TOKENIZER, tmp_path)
    again, tokenizer = load(tmp_path)
    assert again.config == model.config and tokenizer.tokens == TOKENIZER.tokens and not again.training
    assert torch.equal(again(IDS % 25, MASK), model(IDS % 25, MASK))
    assert load(tmp_path, dropout=0.0)[0].config == replace(model.config, dropout=0.0)
    there = transformers.BertModel.from_pretrained(tmp_path)
    there.save_pretrained(tmp_path / "theirs")
    TOKENIZER.save(tmp_path / "theirs" / "vocab.txt")
    assert torch.equal(load(tmp_path / "theirs")[0](IDS % 25, MASK), model(IDS % 25, MASK))
    assert transformers.BertTokenizer.from_pretrained(tmp_path).encode("abc j") == TOKENIZER.row("abc j")[0]


def test_every_weight_has_a_name():
    assert {name.partition(".")[0] for name in to_bert(BERT(CONFIG))} == {"embeddings", "encoder"}
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"positions": "rotary"}, "positions='rotary': BERT has 'learned'"),
        ({"norm_first": True}, "norm_first=True"),
        ({"n_kv_heads": 2}, "kv_heads=2: BERT has 4"),
        ({"activation": "relu2"}, "activation='relu2': BERT's code has gelu_erf, gelu, relu"),
    ],
)
def test_refuses_what_bert_has_not(fields, message):
    with pytest.raises(ValueError, match=message):
        to_bert(BERT(replace(CONFIG, **fields)))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model_type": "roberta"}, "model_type='roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"type_vocab_size": 1}, "type_vocab_size=1"),
        ({"hidden_act": "silu"}, "hidden_act='silu'"),
        ({"intermediate_size": None}, "intermediate_size: no such number"),
    ],
)
def test_refuses_variants_of_bert(fields, message):
    with pytest.raises(ValueError, match=message):
        from_bert_config({**to_bert_config(CONFIG), **fields})


def test_refuses_weights_of_another_config():
    state = to_bert(BERT(CONFIG))
    with pytest.raises(ValueError, match=r"encoder\.layer\.2\.\S+ is missing"):
        from_bert(state, replace(CONFIG, n_layers=3))
    with pytest.raises(ValueError, match=r"position_embeddings\.weight has the shape \(12, 16\), .* \(13, 16\)"):
        from_bert(state, replace(CONFIG, context=13))


def test_refuses_damaged_folders(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json: give a folder written by save, or a card's name"):
        load(tmp_path)
    save(BERT(replace(CONFIG, vocab_size=TOKENIZER.vocab_size)), TOKENIZER, tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    for damaged in (weights[:-1], weights[:100], b""):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged or cut short"):
            load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save({}))
    with pytest.raises(ValueError, match="is missing"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="model_type='gpt2'"):
        load(tmp_path)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: BERT(replace(CONFIG, positions="sinusoid")), "choose 'learned' or 'rotary'"),
        (lambda: BERT(CONFIG)(torch.zeros(1, 13, dtype=torch.long)), "13 tokens, the model reads at most 12"),
        (lambda: mask_tokens(IDS, 3, range(5, 31), rate=0.0), "rate=0.0"),
        (lambda: labelled(TOKENIZER, [("a", 0)], 2), "holds 1 texts: a batch of 2"),
    ],
)
def test_refusals_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_names_of_all_parts_can_be_had_from_bert():
    assert bert.BERT is BERT and set(bert.__all__) <= set(dir(bert))


@given(st.lists(st.text("abcdefghij中文", min_size=1, max_size=12), min_size=1, max_size=60), st.integers(16, 30))
def test_pieces_of_a_text_are_all_of_it_and_fit(words, length):
    text = " ".join(words)
    pieces = cut(TOKENIZER, text, length)
    ids = [id for piece in pieces for id in TOKENIZER.row(piece, length=length)[0][1:-1]]
    assert ids == TOKENIZER.encode(text), "nothing is lost, and nothing comes twice"
    assert "".join("".join(pieces).split()) == "".join(words)
    assert (pieces == [text]) == (len(TOKENIZER.encode(text)) <= length - 2)


@settings(max_examples=20)
@given(texts)
def test_only_long_texts_are_averaged(several):
    torch.manual_seed(0)
    model = Classifier(BERT(replace(CONFIG, context=64, vocab_size=TOKENIZER.vocab_size)), 3).eval()
    torch.nn.init.normal_(model.head.weight)
    logits = lambda some: bert.logits(model, TOKENIZER, some)
    assert torch.equal(averaged(logits, TOKENIZER, several), logits(several))
    long = "a b " * 100 + "c " * 100
    pieces = cut(TOKENIZER, long)
    found = averaged(logits, TOKENIZER, [*several, long])[-1]
    assert len(pieces) > 3
    torch.testing.assert_close(found, logits(pieces).mean(0), rtol=1e-4, atol=1e-5)
