"""Log-probs over a large vocabulary in chunks, forward and backward, against all logits at once.

    python -m benchmarks.vocabulary CHUNK [TOKENS] [VOCABULARY] [THREADS]

prints, for log-probs of `TOKENS` response tokens of which `CHUNK` have their logits at a time, the seconds and the MiB
that a forward and backward pass adds at most to a process that has made a smaller one.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from benchmarks.memory import memory_mib
from copd.compute.logprobs import _chunked
from copd.maths.logprobs import TokenStats, token_stats

WIDTH = 64


def differentiate(tokens: int, vocabulary: int, chunk: int) -> None:
    """Log-probs of random tokens from random hidden states, and their gradient in both and in the head."""
    draw = torch.Generator().manual_seed(0)
    hidden_MD = torch.randn(tokens, WIDTH, generator=draw, requires_grad=True)
    head = torch.nn.Linear(WIDTH, vocabulary, bias=False)
    ids_M = torch.randint(vocabulary, (tokens,), generator=draw)
    banned_V = torch.zeros(vocabulary, dtype=torch.bool)

    def stats(hidden: torch.Tensor, part: slice) -> TokenStats:
        return token_stats(head(hidden), ids_M[part], banned_V, temperature=1.0)

    _chunked(stats, hidden_MD, chunk).logp_M.sum().backward()


def measured(tokens: int, vocabulary: int, chunk: int) -> tuple[float, float]:
    """Seconds, and MiB added at most."""
    differentiate(8, vocabulary, 8)
    before, _ = memory_mib()
    started = time.perf_counter()
    differentiate(tokens, vocabulary, chunk)
    return time.perf_counter() - started, memory_mib()[1] - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chunk", type=int)
    parser.add_argument("tokens", type=int, nargs="?", default=512)
    parser.add_argument("vocabulary", type=int, nargs="?", default=151_936)
    parser.add_argument("threads", type=int, nargs="?", default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    seconds, added = measured(asked.tokens, asked.vocabulary, asked.chunk)
    print(json.dumps({"seconds": seconds, "added_mib": added}))


if __name__ == "__main__":
    main()
