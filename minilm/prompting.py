"""Prompting: a language model does a task that is written into its text, and none of its weights moves.

A prompt is a plain text that the model continues (`few_shot`), or a conversation in which it answers (`turns`). Where
the answer is one of a few labels, nothing need be generated: `label_scores` asks how likely each label is, and
`calibrate` takes away what the model would say to any text. `Prompted` is the classifier made of all this.

Not here: answers of a prescribed form (``minilm.constrain``), chat templates (``minilm.chat``).
Letters: N prompts, C labels, M neutral texts.
References: Brown et al. 2020 (few-shot prompts); Zhao et al. 2021 (contextual calibration); Fei et al. 2023 and Zhou et
al. 2024 (calibration on unlabelled texts).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from . import chat
from .batching import pad
from .chat import Message
from .contract import LanguageModel
from .evaluate import nll
from .generate import ALL, common, logits_at
from .tokenizer import Tokenizer

Prompt = str | Sequence[Message]
"""A text to be continued, or a conversation in which it is the assistant's turn."""

Shot = tuple[str, str]
"""A solved example: a text and its answer."""

CONTENT_FREE = ("N/A", "[MASK]", "")
"""Texts that say nothing, with which Zhao et al. find out what a prompt makes a model say by itself."""


def few_shot(
    text: str, shots: Sequence[Shot] = (), instruction: str = "", names: tuple[str, str] = ("Text", "Label")
) -> str:
    """A plain prompt: instruction, solved examples, and the text to be solved; without examples it is *zero-shot*.

    It ends without a blank, which belongs to the first token of the answer.

    >>> print(few_shot("dull", [("fine", "positive")], names=("Review", "Verdict")))
    Review: fine
    Verdict: positive
    <BLANKLINE>
    Review: dull
    Verdict:
    """
    blocks = [f"{names[0]}: {shown}\n{names[1]}: {answer}" for shown, answer in shots]
    return "\n\n".join([*filter(None, [instruction]), *blocks, f"{names[0]}: {text}\n{names[1]}:"])


def turns(text: str, shots: Sequence[Shot] = (), instruction: str = "") -> list[dict[str, str]]:
    """The same as a conversation: solved examples are earlier turns, and each request repeats the instruction.

    >>> [message["role"] for message in turns("dull", [("fine", "positive")])]
    ['user', 'assistant', 'user']
    """
    talk = []
    for shown, answer in [*shots, (text, None)]:
        talk.append({"role": "user", "content": "\n\n".join(filter(None, [instruction, shown]))})
        talk.append({"role": "assistant", "content": answer})
    return talk[:-1]


@torch.inference_mode()
def label_scores(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Prompt], labels: Sequence[str], batch_size: int = 8
) -> Float[Tensor, "N C"]:
    """Log-probability of each label after each prompt: the sum over the label's tokens.

    After a plain prompt a label has a blank before it. What all prompts begin with, instruction and examples, is read
    once where the model has a cache, and `evaluate.nll` scores every pair where it has none. A label of more tokens
    has more places to lose probability: prefer labels of one token, or `calibrate`.

    Raises ValueError for no prompts or labels, and where a prompt with a label is longer than the context.
    """
    if not prompts or not labels:
        raise ValueError(f"{len(prompts)} prompts, {len(labels)} labels: give at least one of each")
    plain = isinstance(prompts[0], str)
    rows = [tokenizer.encode(one) if isinstance(one, str) else chat.encode(tokenizer, one) for one in prompts]
    endings = [tokenizer.encode(f" {label}" if plain else label) for label in labels]
    longest = max(map(len, rows)) + max(map(len, endings))
    if not hasattr(model, "new_cache"):
        return torch.tensor([[-float(nll(model, torch.tensor(r + e))[-len(e) :].sum()) for e in endings] for r in rows])
    if model.context is not None and longest > model.context:
        raise ValueError(f"prompt and label hold {longest} tokens, the model reads {model.context}: shorten the text")
    cache = model.new_cache(1, longest)
    if shared := common(rows):
        logits_at(model, torch.tensor([rows[0][:shared]]), cache, (ALL, -1))
    scores = torch.empty(len(rows), len(labels))
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))  # so that little is padded
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        scores[places] = _scored(model, cache, [rows[place][shared:] for place in places], endings)
    return scores


def _scored(model, cache, rests: list[list[int]], endings: list[list[int]]) -> Float[Tensor, "B C"]:
    """Scores of the endings after texts that the cache has read but for their rests."""
    before, lengths = cache.lengths[0], torch.tensor([len(rest) for rest in rests])
    own = fork(cache, [0] * len(rests))
    next_token = logits_at(model, pad(rests, 0), own, (torch.arange(len(rests)), lengths - 1)).log_softmax(-1)
    own.keep(before + lengths)
    scores = next_token[:, [ending[0] for ending in endings]].float()
    for column, ending in enumerate(endings):
        if len(ending) > 1:
            read = torch.tensor(ending[:-1]).expand(len(rests), -1)
            log_probs = model(read, fork(own, range(len(rests)))).log_softmax(-1)
            scores[:, column] += log_probs[:, range(len(ending) - 1), ending[1:]].sum(-1)
    return scores


def fork(cache, rows: Sequence[int]):
    """A cache whose row b is a copy of row ``rows[b]``; what it is a copy of stays as it is."""
    copied = copy.copy(cache)
    copied.reorder(torch.tensor(rows))
    return copied


def calibrate(scores: Float[Tensor, "N C"], neutral: Float[Tensor, "M C"]) -> Float[Tensor, "N C"]:
    """Log-probabilities of the labels, divided by what neutral texts get on average: a text must *change* the odds.

    ``neutral`` holds the scores of texts that say nothing (`CONTENT_FREE`), or of texts of which nothing is known, as
    unlabelled texts of the training set. The latter assumes that all labels are equally frequent among them.

    >>> biased = torch.tensor([[0.8, 0.2], [0.7, 0.3]]).log()
    >>> calibrate(biased, neutral=torch.tensor([[0.75, 0.25]]).log()).exp()
    tensor([[0.5714, 0.4286],
            [0.4375, 0.5625]])
    """
    return (scores.log_softmax(-1) - neutral.softmax(-1).mean(0).log()).log_softmax(-1)


@dataclass(frozen=True)
class Prompted:
    """A classifier without training: a language model, a prompt for each text, and the labels it chooses among.

    With ``neutral`` texts its scores are calibrated.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    labels: Sequence[str]
    prompt: Callable[[str], Prompt] = few_shot
    neutral: Sequence[str] = ()

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "N C"]:
        """The log-probability of each label, which together make one."""
        scores = self.scores(texts)
        return calibrate(scores, self.usual) if self.neutral else scores.log_softmax(-1)

    def scores(self, texts: Sequence[str]) -> Float[Tensor, "N C"]:
        """What `label_scores` finds."""
        return label_scores(self.model, self.tokenizer, [self.prompt(text) for text in texts], self.labels)

    @cached_property
    def usual(self) -> Float[Tensor, "M C"]:
        """The scores of the neutral texts."""
        return self.scores(self.neutral)
