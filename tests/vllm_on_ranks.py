"""A policy on one of the ranks of its branch, for which vLLM samples, as a program: RANK COUNT PORT FILE.

It writes the tokens that all ranks together sampled, and how far the engine's log-probs are from the policy's.
"""

import json
import sys
from pathlib import Path

import torch
from conftest import _policy

from copd.compute.ranks import Meeting, joined
from copd.model.engine import EngineSampler
from copd.model.tiny import tiny_processor
from copd.model.vllm_sampler import VllmEngine
from copd.tasks.digits import Digits
from copd.types import Split


def main(rank: int, count: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    problems = [Digits("image", conflict=1.0).problem(Split.TRAIN, i) for i in range(3)]
    with joined(Meeting(f"127.0.0.1:{port}", rank, count), torch.device("cpu"), 5) as ranks:
        policy = _policy(tiny_processor())
        policy.ranks = ranks
        policy.sampler = EngineSampler(VllmEngine(0.25), problems[:1], 1.0)
        policy.sampler.prove(policy)
        found = []
        for _ in range(2):
            drawn = policy.sample(
                problems, rollouts_per_prompt=2, generator=torch.Generator().manual_seed(0), max_new_tokens=8
            )
            apart = float((drawn.logp_NT - policy.score(drawn).logp_NT).abs().max())
            found.append({"tokens": drawn.tokens_NT.tolist(), "apart": apart})
            policy.load_weights({name: weight * 1.05 for name, weight in policy.weights().items()})
        policy.sampler.close()
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
