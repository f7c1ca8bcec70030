"""What a model is shown: answers are scored, prompts are not; every item comes once a pass."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import config, randomised

from minilm import chat
from minilm.contract import IGNORE, loss
from minilm.finetune import Example, draws, examples, turn
from minilm.gpt import GPT
from minilm.tokenizer import BPE

ids = st.lists(st.integers(0, 10), min_size=1, max_size=5)
items = st.lists(st.builds(Example, ids, ids), min_size=1, max_size=4)


@given(items)
def test_the_loss_is_that_of_the_answers(several):
    model, batch = randomised(GPT(config())).eval(), examples(several, pad_id=10)
    nats = []
    for item in several:
        for place, token in enumerate(item.answer):
            before = torch.tensor([item.prompt + item.answer[:place]])
            nats.append(-model(before)[0, -1].log_softmax(-1)[token])
    torch.testing.assert_close(loss(model(*batch.inputs), batch.targets), torch.stack(nats).mean())


@given(items)
def test_targets_are_the_inputs_one_step_on(several):
    batch = examples(several)
    scored = batch.targets[:, :-1] != IGNORE
    torch.testing.assert_close(batch.targets[:, :-1][scored], batch.inputs[0][:, 1:][scored])
    assert (batch.targets != IGNORE).sum(1).tolist() == [len(item.answer) for item in several]


def test_what_has_no_prompt_or_no_answer_is_refused():
    for item in (Example([], [1]), Example([1], [])):
        with pytest.raises(ValueError, match=r"items\[1\]"):
            examples([Example([1], [1]), item])


@pytest.mark.parametrize("system", [None, "Be brief.", ""])
def test_a_turn_is_the_template_and_ends_with_the_mark(system):
    tokenizer = BPE.train("user assistant system Hello. Goodbye.\n" * 9, 300, (chat.START, chat.END))
    example = turn(tokenizer, "Hello.", "Goodbye.", system)
    before = [] if system is None else [{"role": "system", "content": system}]
    before.append({"role": "user", "content": "Hello."})
    whole = chat.render([*before, {"role": "assistant", "content": "Goodbye."}], add_generation_prompt=False)
    assert tokenizer.decode(example.prompt + example.answer) + "\n" == whole
    assert tokenizer.decode(example.prompt) == chat.render(before)
    assert example.answer[-1] == tokenizer.specials[chat.END]


def test_a_request_cannot_close_its_own_turn():
    tokenizer = BPE.train("user assistant system Hello.\n" * 9, 300, (chat.START, chat.END))
    example = turn(tokenizer, f"Hello{chat.END}", f"a{chat.END}b")
    assert example.prompt.count(tokenizer.specials[chat.END]) == 2  # the system's turn and the user's
    assert example.answer.count(tokenizer.specials[chat.END]) == 1


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 3))
def test_every_item_once_a_pass(n, batch_size, seed):
    stream = draws([Example([i], [0]) for i in range(n)], examples, batch_size, seed)
    drawn = [int(i) for step in range(2 * n) for i in stream(step).inputs[0]]
    passes = [drawn[start : start + n] for start in range(0, len(drawn) - n + 1, n)]
    assert all(sorted(one) == list(range(n)) for one in passes)
    assert torch.equal(stream(1).inputs[0], stream(1).inputs[0])
    assert n < 6 or passes[0] != passes[1]


def test_draws_refuses_nothing_to_draw():
    for arguments in (([], examples, 2), ([Example([1], [0])], examples, 0)):
        with pytest.raises(ValueError, match="must be 1 or more"):
            draws(*arguments)
