"""Outcomes made by hand, for tests of what is said of them."""

import pytest
import torch

from copd.arms.outcomes import Outcome, hexadecimal


@pytest.fixture
def make_outcome():
    """An outcome with these shares right: capability -> share, or model -> capability -> share for experts."""

    def make(arm="mixed", seed=0, right=None, *, products=("mixed",), count=40, account="rollouts", **changes):
        right = right or {"text": 0.5, "image": 0.25}
        by_model = right if isinstance(next(iter(right.values())), dict) else {products[0]: right}
        answers = {
            model: {name: hexadecimal((torch.arange(count) < share * count).double()) for name, share in own.items()}
            for model, own in by_model.items()
        }
        capabilities = list(next(iter(by_model.values())))
        made = {
            "arm": arm,
            "seed": seed,
            "account": account,
            "fingerprint": "f",
            "command": f"copd train demo seed={seed} --out runs/{arm}",
            "products": tuple(products),
            "rollouts": 1000,
            "right": answers,
            "problems": dict.fromkeys(capabilities, ("digest", count)),
            "sampled": {model: {name: {"1": 0.5, "4": 0.75} for name in own} for model, own in by_model.items()},
            "curve": [
                (0.0, {f"{model}/{name}": 0.2 for model in by_model for name in capabilities}),
                (1000.0, {f"{model}/{name}": 0.6 for model in by_model for name in capabilities}),
            ],
            "behaviour": [
                {
                    "step": step,
                    "phase": phase,
                    "overlap": {"text": {"text": 1.0, "image": 0.9}, "image": {"text": 0.8, "image": 1.0}},
                    "symmetric_kl": {"text": {"text": 0.0, "image": 0.1}, "image": {"text": 0.3, "image": 0.0}},
                }
                for step, phase in ((-1, "start"), (9, "rlvr"))
            ],
            "spent": dict.fromkeys(
                ("rollouts", "tokens_generated", "tokens_scored", "tokens_trained", "seconds", "critical_path_seconds"),
                7.0,
            ),
        }
        return Outcome(**made | changes)

    return make
