"""What a run says of memory is that of all its processes, of each GPU apart."""

import pytest
import torch

from copd.runs.screen import memory_in_words
from copd.system.processes import Memory, peak, summed

GIB = 2**30


def test_memory_of_several_processes_is_summed_for_the_machine_and_each_gpu():
    assert summed([Memory(1), Memory(2, (10, 0)), Memory(4, (20, 30, 5))]) == Memory(7, (30, 30, 5))
    assert summed([Memory(1), Memory(2)]) == Memory(3)


@pytest.mark.parametrize(
    ("held", "words"),
    [(Memory(3 * GIB // 2), "1.5 GiB"), (Memory(GIB, (0, 5 * GIB // 2)), "1.0 GiB, on GPUs 0.0, 2.5 GiB")],
)
def test_memory_is_told_in_gib(held, words):
    assert memory_in_words(held) == words


def test_a_process_tells_what_torch_has_held_of_every_gpu_once_it_has_used_one(monkeypatch):
    assert peak().machine > 2**27
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert peak().gpus == ()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 100 + device)
    assert peak().gpus == (100, 101, 102)
