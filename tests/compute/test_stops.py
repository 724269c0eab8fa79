"""Stop strings: where they are found in tokens, and where they end the responses of both loops."""

from unittest.mock import patch

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from waits import Waits

from copd.compute import refill
from copd.compute.stops import Stops
from copd.model.pieces import token_pieces

NEW_TOKENS = 14
MERGES = [("<", "/"), ("</", "a"), ("n", "s"), (">", "<"), ("</a", "ns"), ("Ġ", "a")]


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level, with tokens of several characters and characters of several tokens."""
    merged = [a + b for a, b in MERGES]
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *merged]
    made = Tokenizer(models.BPE({text: i for i, text in enumerate(vocabulary)}, MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize(
    ("text", "strings", "kept"),
    [
        ("so <ans>7</ans> and", ["</ans>"], "so <ans>7</ans>"),
        ("so <ans>7</ans><ans>", ["</ans>"], "so <ans>7</ans><"),  # one token holds both "><"
        ("a b c", [" b", " "], "a "),
        ("wer weiß é", ["ß"], "wer weiß"),
        ("wer weiß é", ["é"], "wer weiß é"),
        ("nothing of it", ["</ans>", "zz"], None),
    ],
)
def test_a_response_ends_with_the_token_that_completes_the_first_string(tokenizer, text, strings, kept):
    ids = tokenizer.encode(text)
    last = Stops(tokenizer, strings).first(ids, 0)
    assert (None if last is None else tokenizer.decode(ids[: last + 1])) == kept


def test_looking_token_by_token_or_block_by_block_finds_the_same(tokenizer):
    ids, stops = tokenizer.encode("weiß nicht, ob </an </a ns> oder </ans> es beendet"), Stops(tokenizer, ["</ans>"])
    (expected,) = {stops.first(ids, 0)}
    for block in (1, 2, 3, 7, 100):
        looks = [stops.first(ids[: start + block], start) for start in range(0, expected + 1, block)]
        assert looks == [None] * (len(looks) - 1) + [expected]


def sampled(policy, problems, stop, *, card=False, block=4, seed=3):
    with (
        patch("copd.model.builtin_sampler.refills", lambda device: card),
        patch("copd.model.builtin_sampler.decode_refilled", lambda *given: refill.decode_refilled(*given, block)),
    ):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return policy.sample(problems, rollouts_per_prompt=3, generator=generator, max_new_tokens=NEW_TOKENS, stop=stop)


def rows(rollouts):
    return [tokens[mask].tolist() for tokens, mask in zip(rollouts.tokens_NT, rollouts.mask_NT, strict=True)]


@pytest.fixture(scope="module")
def free(ending64, problems_of):
    """Responses that nothing but an end token or the limit ends."""
    return sampled(ending64, problems_of["text"], ())


def strings_of(policy, free):
    """Two characters of the middle of one response, and the last of another."""
    texts = [
        "".join(token_pieces(policy.tokenizer, ids))
        for ids, end in zip(rows(free), free.finished_N, strict=True)
        if not end
    ]
    return [texts[0][5:7], texts[1][-1]]


@pytest.mark.parametrize(("card", "block"), [(False, 0), (True, 1), (True, 5), (True, 64)])
def test_each_row_is_what_it_was_up_to_the_token_that_completes_a_string(ending64, problems_of, free, card, block):
    stop = strings_of(ending64, free)
    found = sampled(ending64, problems_of["text"], stop, card=card, block=block)
    ended = 0
    for n, ids in enumerate(rows(free)):
        texts = ["".join(token_pieces(ending64.tokenizer, ids[: t + 1])) for t in range(len(ids))]
        lengths = [t + 1 for t, text in enumerate(texts) if any(string in text for string in stop)]
        assert rows(found)[n] == ids[: min(lengths, default=len(ids))]
        assert bool(found.finished_N[n]) == bool(lengths or free.finished_N[n])
        ended += bool(lengths)
    assert 1 < ended < 9, "some have to end so, and others not"
    kept = found.mask_NT
    torch.testing.assert_close(found.logp_NT[kept], free.logp_NT[:, : kept.shape[1]][kept], atol=1e-6, rtol=0)
    assert not found.tokens_NT[~kept].any()


def test_a_greedy_answer_ends_so_too_and_the_string_stays_in_its_text(ending64, problems_of):
    texts = ending64.texts(sampled(ending64, problems_of["text"], (), seed=None))
    stop = texts[0][2:4]
    found = sampled(ending64, problems_of["text"], [stop], seed=None)
    assert ending64.texts(found)[0] == texts[0][: texts[0].index(stop) + 2]
    assert bool(found.finished_N[0])


def test_a_string_completed_by_the_last_token_of_the_limit_counts_as_finished(ending64, problems_of, free):
    n = int((~free.finished_N).nonzero()[0])
    text = "".join(token_pieces(ending64.tokenizer, rows(free)[n]))
    for card in (False, True):
        assert bool(sampled(ending64, problems_of["text"], [text[-6:]], card=card).finished_N[n])


def test_between_two_looks_at_a_block_the_host_of_a_card_looks_at_nothing_more(ending, problems_of):
    ending.encoder.lengths(problems_of["text"])
    counted = []
    for stop in ((), ["no such string"]):
        with Waits() as waits:
            sampled(ending, problems_of["text"], stop, card=True, block=5)
        counted.append(len(waits.counted))
    assert counted[0] == counted[1]
