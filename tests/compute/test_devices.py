"""The type of a device decides what log-probs are computed with."""

import pytest
import torch

from copd.compute import devices
from copd.compute.devices import computing_on
from copd.compute.flex import Blocks
from copd.compute.tf32 import LinearInTf32


def test_cards_attend_by_blocks_with_a_head_in_tf32_and_eight_times_the_logits():
    assert computing_on(torch.device("cuda", 1)) == (Blocks, LinearInTf32, 2**28)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_attend_in_windows_with_a_head_in_float32(device):
    assert computing_on(torch.device(device)) == devices.OTHER
    assert (devices.OTHER.attention, devices.OTHER.logits) == (devices.windows_of, 2**25)
