"""Talk with a model that has learnt to answer: messages to one text and back, in the template that it was trained on.

To the model a conversation is one text like any other, in which special tokens say who speaks (ChatML):

    <|im_start|>user
    What is the capital of France?<|im_end|>
    <|im_start|>assistant

`render` writes that text, `encode` its ids, and `reply` generates what comes next, piece by piece.

Not here: templates of other models, tools, and how a model learns to answer (``minilm.finetune``).
Reference: the template in the file of SmolLM2-135M-Instruct, a program in the language Jinja; this is what it does.
"""

import codecs
from collections.abc import Iterator, Mapping, Sequence

from .contract import LanguageModel
from .generate import stream
from .tokenizer import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"
"""The special tokens around each message."""

ROLES = ("system", "user", "assistant")
"""Who may speak. The system's message comes first, and says how the assistant is to behave."""

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""The system's message where a conversation has none of its own."""

Message = Mapping[str, str]
"""Who speaks (``role``) and what is said (``content``)."""


def render(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    r"""The conversation as one text; at the end of it, unless told otherwise, it is the assistant's turn.

    Raises ValueError for no message, or one that lacks a role of ``ROLES`` or a text.

    >>> render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    """
    turns = [f"{START}{turn}{END}\n" for turn in _turns(messages)]
    return "".join(turns) + (f"{START}assistant\n" if add_generation_prompt else "")


def encode(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
    """The ids of the same text, in which only the template can begin or end a message.

    A name such as ``<|im_end|>`` in a message stays plain text: whoever types it into a form must not be able to
    speak as somebody else. Where no message holds such a name, these are the ids of `render`.
    Raises ValueError for a tokenizer without the special tokens, and what `render` raises.
    """
    specials = getattr(tokenizer, "specials", {})
    if missing := {START, END} - specials.keys():
        raise ValueError(f"tokenizer has no {min(missing)}: give that of a model that has learnt to chat, as smollm2")
    ids = []
    for turn in _turns(messages):
        ids += [specials[START], *tokenizer.encode(turn), specials[END], *tokenizer.encode("\n")]
    return ids + ([specials[START], *tokenizer.encode("assistant\n")] if add_generation_prompt else [])


def reply(
    model: LanguageModel, tokenizer: Tokenizer, messages: Sequence[Message], max_new_tokens: int = 256, **options
) -> Iterator[str]:
    """The assistant's answer in pieces, each as soon as it is known; ``options`` are those of `minilm.generate`.

    A piece is whole characters: bytes of one that is not finished wait for the rest.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    prompt = encode(tokenizer, messages)
    for id in stream(model, prompt, max_new_tokens, stop={tokenizer.specials[END]}, **options):
        if piece := decoder.decode(tokenizer.token_bytes(id)):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


def _turns(messages: Sequence[Message]) -> Iterator[str]:
    """Each message, its role before it, after the system's message that stands in where there is none."""
    if not messages:
        raise ValueError('messages is empty: give one, such as {"role": "user", "content": "Hello"}')
    for number, message in enumerate(messages):
        role, content = (message.get(key) for key in ("role", "content"))
        if role not in ROLES:
            raise ValueError(f"messages[{number}] has the role {role!r}: choose one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"messages[{number}] has the content {content!r}: give a text")
    if messages[0]["role"] != "system":
        yield f"system\n{SYSTEM}"
    for message in messages:
        yield f"{message['role']}\n{message['content']}"
