"""Models by name: what calls share, and what they do not."""

import os

import torch
from tiny import config

from minilm import checkpoint, models
from minilm.gpt import GPT
from minilm.tokenizer import Characters


def test_a_folder_is_loaded_once_and_anew_where_it_changed(tmp_path):
    units = Characters.train("hello world")
    model = GPT(config(vocab_size=units.vocab_size))
    folder = str(tmp_path)
    checkpoint.save(folder, model, units)
    first, _ = models.load(folder)
    assert models.load(folder)[0] is first
    with torch.no_grad():
        model.head.weight.mul_(2)  # as after more training: the files have the sizes that they had
    checkpoint.save(folder, model, units)
    os.utime(tmp_path / "model.safetensors", ns=(0, 1))  # the clock of some disks ticks slowly
    again, _ = models.load(folder)
    assert torch.equal(again.head.weight, 2 * first.head.weight) and models.load(folder)[0] is again
