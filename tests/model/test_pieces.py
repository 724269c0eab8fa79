"""Responses token by token: joined, the pieces are the text, whatever a token cuts through."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from copd.model.pieces import token_pieces


@pytest.fixture(scope="module")
def bytewise():
    """A byte-level vocabulary without merges: one token per byte, as the rarest characters have in large ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"eos_token": "<|im_end|>"})
    return fast


def like_llama_2() -> Tokenizer:
    """Spaces are marks before words, rare characters are bytes, and the first space of a text is dropped."""
    words = ["\u2581", *"abc.", "\u2581a", "\u2581b", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("\u2581", "a"), ("\u2581", "b")]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def like_t5() -> Tokenizer:
    words = ["\u2581", *"abc.", "\u2581a", "\u2581b"]
    merges = [("\u2581", "a"), ("\u2581", "b")]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


@pytest.mark.parametrize("make", [like_llama_2, like_t5])
@pytest.mark.parametrize("text", ["a b c.", "ab", "a  b   a", "a b<end> c", " a", ""])
def test_no_space_is_lost_where_the_tokenizer_drops_the_first_of_a_text(make, text):
    fast = PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="<end>")
    ids = fast(text).input_ids
    pieces = token_pieces(fast, ids)
    assert "".join(pieces) == fast.decode(ids, clean_up_tokenization_spaces=False)
    assert len(pieces) == len(ids)


def test_characters_of_several_tokens_stand_behind_their_spaces():
    fast = PreTrainedTokenizerFast(tokenizer_object=like_llama_2())
    assert token_pieces(fast, fast("a 数 b").input_ids) == ["a", " ", "", "", "数", " b"]


@pytest.mark.parametrize("text", ["3 8;11", "größer als 数字, \U0001f600!", "\n\t ", " a  b ", "don 't . stop", ""])
def test_joined_the_pieces_are_the_text(bytewise, text):
    ids = bytewise(text).input_ids
    pieces = token_pieces(bytewise, ids)
    assert "".join(pieces) == text
    assert len(pieces) == len(ids)


def test_a_character_of_several_tokens_stands_with_its_last(bytewise):
    assert token_pieces(bytewise, bytewise("a数\U0001f600b").input_ids) == [
        *("a", "", "", "数", "", "", "", "\U0001f600", "b")
    ]


def test_special_tokens_are_named(bytewise):
    ids = [*bytewise("9}").input_ids, bytewise.eos_token_id]
    assert token_pieces(bytewise, ids) == ["9", "}", "<|im_end|>"]


def test_a_character_that_is_never_completed_is_marked(bytewise):
    half = bytewise("数").input_ids[:2]
    assert token_pieces(bytewise, half) == ["", "\ufffd"]
    broken = token_pieces(bytewise, [*half, *bytewise("abc").input_ids])
    assert len(broken) == 5
    assert "".join(broken) == "\ufffdabc"


def test_bytes_that_are_no_text_do_not_hold_up_the_rest(bytewise):
    (last,) = bytewise.convert_tokens_to_ids(["\u00ff"])
    pieces = token_pieces(bytewise, [last] * 6 + bytewise("x").input_ids)
    assert len(pieces) == 7
    assert pieces[-1].endswith("x")
    assert "".join(pieces[:4]).startswith("\ufffd")
