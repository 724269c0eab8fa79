"""Signal and cosine of noisy gradients: without bias, by all samples of small distributions."""

from itertools import product

import pytest
import torch

from copd.maths.gradients import signal_cosine, signal_squared

VALUES = torch.tensor([[3.0, 1.0], [1.0, -2.0], [-1.0, 4.0]], dtype=torch.float64)
"""A gradient is one of these, each as likely; the expected one is (1, 1)."""


def estimate(sample_BD) -> float:
    return signal_squared(float(sample_BD.mean(0).square().sum()), sample_BD.square().sum(1).tolist())


@pytest.mark.parametrize("count", [2, 3, 4])
def test_over_all_samples_the_estimate_is_the_squared_norm_of_the_expected_gradient(count):
    found = [estimate(VALUES[list(drawn)]) for drawn in product(range(3), repeat=count)]
    assert sum(found) / len(found) == pytest.approx(2.0)


def test_two_gradients_by_hand():
    # g = (1, 0) and (3, 0): mean (2, 0); the dot of two independent gradients, 3, estimates |E g|^2
    assert signal_squared(4.0, [1.0, 9.0]) == pytest.approx(3.0)


def test_gradients_without_noise_are_all_signal_and_opposite_ones_none():
    assert signal_squared(25.0, [25.0, 25.0, 25.0]) == pytest.approx(25.0)
    assert signal_squared(0.0, [25.0, 25.0]) == pytest.approx(-25.0)


def test_one_gradient_cannot_tell():
    with pytest.raises(ValueError, match="1 gradients: at least two"):
        signal_squared(1.0, [1.0])


def test_the_cosine_is_that_of_the_expected_gradients_whatever_their_lengths():
    assert signal_cosine(6.0, 4.0, 9.0) == pytest.approx(1.0)
    assert signal_cosine(-3.0, 4.0, 9.0) == pytest.approx(-0.5)
    assert signal_cosine(-300.0, 400.0, 900.0) == pytest.approx(-0.5)


def test_noise_cannot_bring_a_cosine_out_of_its_range_and_hides_a_gradient_without_signal():
    assert signal_cosine(7.0, 4.0, 9.0) == 1.0
    assert signal_cosine(-7.0, 4.0, 9.0) == -1.0
    assert signal_cosine(7.0, 4.0, 0.0) is None
    assert signal_cosine(7.0, -1.0, 9.0) is None
