"""The code samples of the five documents, line by line, on models that the course makes itself: no hub, no network.

Where a line names a model of the hub, a folder of the course takes its place, and the printed name stands beside it as
a comment: with a network, either works. What a sample leaves out is filled in, and its line is left as it is.
Why some lines are there against better judgement: book/errata.md.
"""

import os
import socket

import pytest
import torch
from torch import nn

from minilm import bert, t5_files
from minilm.archive import members
from minilm.batching import pad
from minilm.cards import CARDS
from minilm.contract import IGNORE, Batch, next_token
from minilm.gpt import GPT
from minilm.gpt2_files import save_gpt2
from minilm.spans import PAD
from minilm.t5 import T5
from minilm.tokenizer import BPE
from minilm.train import TrainConfig, train
from minilm.transformer import Config
from minilm.wordpiece import WordPiece

os.environ["HF_HUB_OFFLINE"], os.environ["KERAS_BACKEND"] = "1", "torch"
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args):
        raise AssertionError(f"a sample tried to reach the network: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


# Documents 0 and 1: GPT-2 goes on with a text

TALE = "Once upon a time there was a king who counted his words, and every evening one was missing.<|endoftext|>"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT that knows one tale by heart, in GPT-2's format."""
    torch.manual_seed(0)
    tokenizer = BPE.train(TALE.removesuffix("<|endoftext|>") * 9, 300)
    batch = next_token(torch.tensor([tokenizer.encode(TALE, specials=True)]))
    model = GPT(Config(vocab_size=tokenizer.vocab_size, context=200, d_model=32, n_layers=2, n_heads=2))
    train(model, lambda step: batch, TrainConfig(steps=100, batch_size=1, learning_rate=1e-2), progress=False)
    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(model.eval(), tokenizer, folder)
    return folder


def test_document_0(gpt2):
    from transformers import GPT2LMHeadModel, GPT2Tokenizer

    tokenizer = GPT2Tokenizer.from_pretrained(gpt2)  # printed: 'gpt2'
    model = GPT2LMHeadModel.from_pretrained(gpt2)  # printed: 'gpt2'

    input_text = "Once upon a time"
    input_ids = tokenizer.encode(input_text, return_tensors="pt")

    output = model.generate(input_ids, max_length=50, num_return_sequences=1)
    decoded_text = tokenizer.decode(output[0], skip_special_tokens=True)

    assert decoded_text == TALE.removesuffix("<|endoftext|>") and len(output[0]) <= 50


def test_document_1(gpt2):
    from transformers import GPT2LMHeadModel, GPT2Tokenizer

    tokenizer = GPT2Tokenizer.from_pretrained(gpt2)  # printed: 'gpt2'
    model = GPT2LMHeadModel.from_pretrained(gpt2)  # printed: 'gpt2'

    inputs = tokenizer.encode("Once upon a time", return_tensors="pt")
    outputs = model.generate(inputs, max_length=200, temperature=0.7)

    assert tokenizer.decode(outputs[0]) == TALE  # the end is shown, since nothing asks to leave it out
    assert torch.equal(outputs, model.generate(inputs, max_length=200))  # the temperature did nothing


# Document 2: T5 answers a question

CAPITALS = {"France": "Paris", "Italy": "Rome", "Egypt": "Cairo", "Japan": "Tokyo", "Peru": "Lima", "Cuba": "Havana"}
QUESTION = "Q: What is the capital of {}?"


@pytest.fixture(scope="module")
def t5_small(tmp_path_factory):
    """A T5 that has learnt six capitals, and a tokenizer that knows these words, in the layout of transformers."""
    folder = tmp_path_factory.mktemp("t5-small")
    pieces = dict.fromkeys(" ".join([QUESTION, *map("{}? {}".format, CAPITALS, CAPITALS.values())]).split())
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = transformers.T5Tokenizer(vocab=special + [(f"▁{piece}", -1.0) for piece in pieces], extra_ids=0)
    words.save_pretrained(folder)

    source = pad([words.encode(QUESTION.format(country)) for country in CAPITALS], PAD)
    target = pad([words.encode(capital) for capital in CAPITALS.values()], IGNORE)
    start = torch.full_like(target[:, :1], PAD)
    batch = Batch((source, torch.cat([start, target[:, :-1]], 1), source != PAD), target)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(words), "context": 32, "d_model": 32, "n_layers": 1, "n_heads": 2}
    model = T5(Config(**sizes, eps=1e-6, **t5_files.FIXED))
    train(model, lambda step: batch, TrainConfig(steps=100, batch_size=6, learning_rate=1e-2), progress=False)

    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**t5_files.to_t5_config(model.config)))
    theirs.load_state_dict(t5_files.to_t5(model))
    theirs.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("country", CAPITALS)
def test_document_2(t5_small, country):
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    # 加载预训练模型和分词器
    model_name = t5_small  # printed: "t5-small"
    tokenizer = T5Tokenizer.from_pretrained(model_name)
    model = T5ForConditionalGeneration.from_pretrained(model_name)

    # 输入文本
    input_text = f"What is the capital of {country}?"  # printed: with France

    # 分词
    inputs = tokenizer.encode("Q: " + input_text, return_tensors="pt")

    # 预测
    outputs = model.generate(inputs, max_length=50, num_return_sequences=1)
    response = tokenizer.decode(outputs[0], skip_special_tokens=True)

    assert response == CAPITALS[country]  # for France: Paris


# Document 3: a classifier on top of BERT

PRAISE, BLAME = "a warm and bright film", "a cold and dull film"


@pytest.fixture(scope="module")
def bert_base_uncased(tmp_path_factory):
    """A small BERT of the package, with a vocabulary for two sentences, as a folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert-base-uncased")
    tokenizer = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(f"{PRAISE} {BLAME}".split())])
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 32, "d_model": 32, "n_layers": 2, "n_heads": 2}
    bert.save(bert.BERT(Config(**sizes, norm_first=False, eps=1e-12, activation="gelu_erf")), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def all_minilm(tmp_path_factory):
    """The published encoder of the course's card, unpacked."""
    folder = tmp_path_factory.mktemp("all-minilm")
    for name, content in members(CARDS["all-minilm"], r"/(config\.json|model\.safetensors|vocab\.txt)$"):
        (folder / name.rpartition("/")[2]).write_bytes(content)
    return folder


@pytest.mark.parametrize("folder", ["bert_base_uncased", pytest.param("all_minilm", marks=pytest.mark.data)])
def test_document_3(folder, request):
    from transformers import BertModel, BertTokenizer

    folder = request.getfixturevalue(folder)

    class BertForSequenceClassification(nn.Module):
        def __init__(self, num_labels):
            super(BertForSequenceClassification, self).__init__()  # noqa: UP008
            self.bert = BertModel.from_pretrained(folder)  # printed: 'bert-base-uncased'
            self.classifier = nn.Linear(self.bert.config.hidden_size, num_labels)

        def forward(self, input_ids, attention_mask):
            outputs = self.bert(input_ids, attention_mask=attention_mask)
            pooled_output = outputs[1]
            logits = self.classifier(pooled_output)
            return logits

    # What the document leaves out: texts, classes and a training.
    torch.manual_seed(0)
    tokenizer = BertTokenizer.from_pretrained(folder)
    texts = tokenizer([PRAISE, f"{BLAME} and a cold film"], return_tensors="pt", padding=True)
    inputs, classes = (texts["input_ids"], texts["attention_mask"]), torch.tensor([1, 0])
    model = BertForSequenceClassification(num_labels=2)
    train(model, lambda step: Batch(inputs, classes), TrainConfig(steps=15, batch_size=2), progress=False)
    logits = model.eval()(*inputs)

    assert logits.shape == (2, 2) and torch.equal(logits.argmax(1), classes)
    alone = tokenizer(PRAISE, return_tensors="pt")
    torch.testing.assert_close(model(alone["input_ids"], alone["attention_mask"]), logits[:1])  # padding is not read


# Document 4: a classifier in Keras


KERAS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # keras 3.15 under numpy 2
POINTS = ("good", "fine", "warm", "bright"), ("bad", "dull", "cold", "grey")
DATA = [f"A {word} film, and {other}." for words in POINTS for word in words for other in words]
LABELS = [label for label, words in enumerate(POINTS) for _ in range(len(words) ** 2)]


def test_document_4_cannot_run_as_printed():
    with pytest.raises(ImportError, match="MultiHeadAttention"):
        from transformers import MultiHeadAttention  # noqa: F401


@KERAS
def test_document_4():
    keras = pytest.importorskip("keras")
    np = pytest.importorskip("numpy")
    # printed: tensorflow.keras, which is this part of Keras 3
    from keras._tf_keras.keras.preprocessing.sequence import pad_sequences
    from keras._tf_keras.keras.preprocessing.text import Tokenizer

    data = DATA  # printed: [...]
    keras.utils.set_random_seed(0)

    tokenizer = Tokenizer()
    tokenizer.fit_on_texts(data)
    sequences = tokenizer.texts_to_sequences(data)

    max_len = 100
    padded_sequences = pad_sequences(sequences, maxlen=max_len, padding="post")

    # the fifth is printed as: from transformers import MultiHeadAttention
    from keras._tf_keras.keras.layers import Dense, Embedding, GlobalAveragePooling1D, Input, MultiHeadAttention
    from keras._tf_keras.keras.models import Model

    vocab_size, d_model = len(tokenizer.word_index) + 1, 16  # not printed

    input_layer = Input(shape=(max_len,))

    embedding_layer = Embedding(vocab_size, d_model)(input_layer)
    # printed: ...other layers...
    attention = MultiHeadAttention(2, d_model // 2)(embedding_layer, embedding_layer)
    probabilities = Dense(2, activation="softmax")(GlobalAveragePooling1D()(embedding_layer + attention))
    model = Model(input_layer, probabilities)
    labels = np.array(LABELS)

    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(padded_sequences, labels, epochs=100, verbose=0)

    tests = ["Bad, and cold, and grey.", "Warm; fine."]
    test_padded_sequences = pad_sequences(tokenizer.texts_to_sequences(tests), maxlen=max_len, padding="post")
    test_labels = np.array([1, 0])
    test_loss, test_acc = model.evaluate(test_padded_sequences, test_labels, verbose=0)

    assert test_acc == 1.0 and test_loss < 0.69
