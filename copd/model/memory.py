"""How much memory a model takes while it is trained, scores and samples: pure functions of its shape, in bytes.

docs/memory.md has the formula in words, and its check against bytes counted on tiny models. Nothing is fitted: the
coefficients count the tensors that a layer keeps for each token. Where products are computed in bfloat16 under
autocast, weights, moments, gradients and the stream between layers stay float32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from copd.compute.logprobs import CHUNK_ELEMENTS
from copd.errors import RecipeError
from copd.model.shape import Shape, Tower

WIDE, NARROW = 4, 2
"""Bytes of a number in float32 and in bfloat16."""
MOMENTS = 2
"""What AdamW holds for each parameter beside the parameter."""
GRADIENTS_OF_PARTS = 2
"""Gradients at once in a step of several parts: the sum over the parts, and that of the part at hand."""
LOGITS = 4
"""Tensors of the size of the logits at once, where log-probs and entropy are computed: logits, log-probs, two more."""
DRAWN = 6
"""The same where tokens are drawn, in float32: logits, log-probs, and in float64 cumulative probabilities twice."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch: prompts of S tokens, rows of T response tokens to them, and the patches of all its pictures."""

    prompts: int
    rows: int
    prompt: int
    response: int
    patches: int = 0


@dataclass(frozen=True)
class Way:
    """How log-probs are computed: in bfloat16 products, packed, with checkpointing, by an adapter on a frozen model."""

    half: bool = False
    packed: bool = True
    checkpointing: bool = False
    frozen: bool = False

    @property
    def number(self) -> int:
        """Bytes of a number that goes into a product."""
        return NARROW if self.half else WIDE


def weights(shape: Shape) -> int:
    """The weights of a model."""
    return WIDE * shape.parameters


def moments(trained: int) -> int:
    """What the optimizer holds for so many trained parameters, from its first step on."""
    return WIDE * MOMENTS * trained


def gradients(trained: int, parts: int) -> int:
    """The gradients at the fullest moment of a step of so many parts."""
    return WIDE * trained * (GRADIENTS_OF_PARTS if parts > 1 else 1)


def narrow_weights(shape: Shape, *, pictures: bool) -> int:
    """Copies of weights in bfloat16: autocast makes them for a forward pass, and a backward pass needs them too.

    The vision tower has its own where there are pictures.
    """
    return NARROW * (shape.products + (shape.tower.products if shape.tower and pictures else 0))


def adapter(shape: Shape, rank: int, targets: Collection[str]) -> int:
    """Parameters of one adapter: rank (in + out) for each linear layer with one of these last names.

    Raises RecipeError for a name that no linear layer has.
    """
    if strangers := [target for target in targets if target not in shape.ends]:
        raise RecipeError(
            f"lora.targets: {strangers[0]!r} is no linear layer of the model that can have an adapter; accepted: "
            f"{', '.join(sorted(shape.ends))}"
        )
    return rank * sum(shape.ends[target] for target in targets)


def step(shape: Shape, batch: Batch, way: Way) -> int:
    """What a micro-batch adds to weights, moments and gradients at its fullest moment in training.

    That is when its loss is computed, or when the backward pass of the last layer has begun. Where logits are computed
    in chunks, gradients of the output head are there beside a chunk.
    """
    tokens = tokens_of(batch, way)
    at_the_loss = (
        _outside(shape, batch, way) + WIDE * (LOGITS - 1) * _logits(shape, batch) + WIDE * shape.width * tokens
    )
    if _chunked(shape, batch) and not way.frozen:
        at_the_loss += WIDE * shape.largest * (2 if shape.tied else 1)
    in_a_layer = 2 * way.number * shape.inner * tokens
    if way.checkpointing:
        in_a_layer += _in_a_layer(shape, batch, way) + _in_a_tower_layer(shape, batch, way)
    seen = _seen(batch) + (_mask(shape, batch) if way.half else 0) if way.packed else 0
    return _in_layers(shape, batch, way) + seen + max(at_the_loss, in_a_layer)


def kept(shape: Shape, batch: Batch, way: Way) -> int:
    """What the forward pass of the log-probs keeps for the backward pass, copies of weights left out."""
    return _in_layers(shape, batch, way) + _outside(shape, batch, way)


def _in_layers(shape: Shape, batch: Batch, way: Way) -> int:
    """What all layers and the vision tower keep, and the masks that they share."""
    one = WIDE * shape.width * tokens_of(batch, way) if way.checkpointing else _in_a_layer(shape, batch, way)
    masks = _mask(shape, batch) if way.packed and not way.half else 0
    return shape.layers * one + masks + _in_tower(shape, batch, way)


def _outside(shape: Shape, batch: Batch, way: Way) -> int:
    """What stands outside the layers: cosines and sines, the last stream and its norm, log-probs of all tokens."""
    streams = (1 if way.frozen else 2) * shape.width + 2 * shape.head
    responses = batch.rows * batch.response
    logits = 0 if _chunked(shape, batch) else responses * shape.vocabulary
    return WIDE * (tokens_of(batch, way) * streams + responses * shape.width + logits)


def tokens_of(batch: Batch, way: Way) -> int:
    """The tokens that a layer computes: packed, each prompt once, and of each row all but the last token."""
    if way.packed:
        return batch.prompts * batch.prompt + batch.rows * (batch.response - 1)
    return batch.rows * (batch.prompt + batch.response)


def _in_a_layer(shape: Shape, batch: Batch, way: Way) -> int:
    """What a layer keeps.

    Before attention and before the MLP each: the stream, the normed and the scaled stream. Queries, keys, values and
    attention's output; queries and keys also before and after their norm. Gate, its activation, up, and their product.
    Autocast gives each of the five products of a stream a copy of its own in bfloat16; in float32 one serves all. A
    norm that is not trained keeps no normed values.

    Packed attention keeps its output twice, by window and in the sequence's order, and each row's keys and values
    behind copies of its prompt's. Autocast casts its masks in each layer.
    """
    number, normed = way.number, 0 if way.frozen else 1
    stream = 2 * WIDE * (1 + normed) + (5 if way.half else 2) * number
    attention = 2 * number + (WIDE + number * normed if shape.normed else 0)
    per_token = stream * shape.width + attention * (shape.query + shape.key) + 4 * number * shape.inner
    if not way.packed:
        return tokens_of(batch, way) * per_token
    copies = number * (shape.query * tokens_of(batch, way) + 2 * shape.key * _behind(batch))
    return tokens_of(batch, way) * per_token + copies + (_mask(shape, batch) // 2 if way.half else 0)


def _behind(batch: Batch) -> int:
    """Keys of all rows of a packed batch, each with its prompt's before its own."""
    return batch.rows * (batch.prompt + batch.response - 1)


def _seen(batch: Batch) -> int:
    """Pairs of a query and a key in the windows of a packed batch: a byte each, of the masks that say who sees whom."""
    return batch.prompts * batch.prompt**2 + (batch.response - 1) * _behind(batch)


def _mask(shape: Shape, batch: Batch) -> int:
    """The masks that packed attention adds, in float32, repeated for the query heads that share a key head."""
    return WIDE * shape.query // shape.key * _seen(batch)


def _chunked(shape: Shape, batch: Batch) -> bool:
    """Whether there are more logits than may exist at once, so that the backward pass computes them again."""
    return batch.rows * batch.response * shape.vocabulary > CHUNK_ELEMENTS


def _logits(shape: Shape, batch: Batch) -> int:
    """Logits that exist at once."""
    return min(batch.rows * batch.response * shape.vocabulary, max(CHUNK_ELEMENTS, shape.vocabulary))


def _in_tower(shape: Shape, batch: Batch, way: Way) -> int:
    """What the vision tower keeps: its layers, what makes tokens of patches, and the pixels."""
    tower = shape.tower
    if tower is None:
        return 0
    one = WIDE * tower.width if way.checkpointing else _of_a_patch(tower, way)
    merger = (WIDE if way.half else 0) + 3 * way.number
    return _patches(batch, way) * (
        tower.layers * one + tower.mergers * merger * tower.width + way.number * tower.numbers
    )


def _in_a_tower_layer(shape: Shape, batch: Batch, way: Way) -> int:
    return _patches(batch, way) * _of_a_patch(shape.tower, way) if shape.tower else 0


def _patches(batch: Batch, way: Way) -> int:
    """The patches that the tower computes: on the plain path the pictures of a prompt once for each row."""
    return batch.patches if way.packed else batch.patches * batch.rows // batch.prompts


def _of_a_patch(tower: Tower, way: Way) -> int:
    """What a layer of the tower keeps of a patch.

    Two streams and their norms; queries, keys and values in one; queries and keys turned; attention's output by picture
    and in one; the inner layer before and after its activation.
    """
    return (2 * (WIDE + way.number) + 7 * way.number) * tower.width + 2 * way.number * tower.inner


def scoring(shape: Shape, batch: Batch, way: Way) -> int:
    """What the log-probs of a micro-batch take without a gradient: the fullest of MLP, attention and logits."""
    tokens, number = tokens_of(batch, way), way.number
    stream = WIDE * tokens * (shape.width + 2 * shape.head)
    if batch.patches:  # the embeddings with pictures and without, and where pictures are
        stream += (WIDE + 1) * tokens * shape.width
    mlp = tokens * 3 * (WIDE * shape.width + number * shape.inner)
    responses = batch.rows * batch.response
    logits = WIDE * ((tokens + responses) * shape.width + LOGITS * _logits(shape, batch))
    if not way.packed:
        return stream + max(mlp, logits)
    queries, pairs = 2 * WIDE + (4 if way.half else 3) * number, 2 * (WIDE + number)
    behind = (WIDE if way.half else 0) + 2 * number
    attention = tokens * (2 * WIDE * shape.width + queries * shape.query + pairs * shape.key)
    attention += behind * shape.key * _behind(batch)
    masks = _seen(batch) + _mask(shape, batch) + (_mask(shape, batch) // 2 if way.half else 0)
    return stream + max(mlp, logits, attention) + masks


def sampling(shape: Shape, batch: Batch, *, half: bool) -> int:
    """What sampling adds to the cache at its fullest: the prompts that are read, or the logits of drawn tokens."""
    tokens, number = batch.prompts * batch.prompt, NARROW if half else WIDE
    prompts = tokens * (4 * WIDE * shape.width + 3 * number * shape.inner)
    return max(prompts, WIDE * DRAWN * batch.rows * shape.vocabulary)


def cached(shape: Shape, batch: Batch, *, half: bool) -> int:
    """Keys and values with room for all rows, and at the beginning those of the prompts."""
    tokens = batch.rows * (batch.prompt + batch.response) + batch.prompts * batch.prompt
    return cache(shape, tokens, half=half)


def joined_weights(shape: Shape) -> int:
    """Copies of the weights before and after attention that the decode step of CPUs makes (`copd.compute.cpu`)."""
    return WIDE * shape.layers * shape.width * (shape.query + 2 * shape.key + 2 * shape.inner)


def cache(shape: Shape, tokens: int, *, half: bool) -> int:
    """Keys and values of so many tokens in every layer."""
    return 2 * (NARROW if half else WIDE) * shape.layers * shape.key * tokens


def checkpoint(trained: int) -> int:
    """A branch in a checkpoint: what is trained, and its moments."""
    return WIDE * trained + moments(trained)


def kept_batch(rows: int, response: int) -> int:
    """A native batch that a branch keeps to be replayed: a token is 4 bytes, and a row has 14 more."""
    return rows * (4 * response + 14)


def merging(shape: Shape, branches: int) -> int:
    """The weights of all branches and of their merge, in the process of the run."""
    return (branches + 1) * weights(shape)
