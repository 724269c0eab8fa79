"""How much memory a model takes while it is trained, scores and samples: pure functions of its shape, in bytes.

docs/memory.md has the formula in words, and its check against bytes counted on tiny models. Nothing is fitted: the
coefficients count the tensors that a layer keeps for each token. Where products are computed in bfloat16 under
autocast, weights, moments, gradients and the stream between layers stay float32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from copd.compute.devices import CARD, OTHER
from copd.compute.flex import padded_length
from copd.costs.shape import Shape, Tower
from copd.errors import RecipeError
from copd.model.optimizers import KINDS
from copd.model.stored import SHARD_BYTES

WIDE, NARROW = 4, 2
"""Bytes of a number in float32 and in bfloat16."""
MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256, "adamw_on_cpu": 8.0}
"""Bytes that each kind of AdamW holds for a parameter beside the parameter."""
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
    """How log-probs are computed: in bfloat16 products, packed, with checkpointing, by an adapter on a frozen model.

    `card`: as a card computes attention and logits (`copd.compute.devices`).
    """

    half: bool = False
    packed: bool = True
    checkpointing: bool = False
    frozen: bool = False
    card: bool = False

    @property
    def windows(self) -> bool:
        """Whether attention is in windows, with masks and copies of keys, and not by blocks."""
        return self.packed and not self.card

    @property
    def logits(self) -> int:
        """Most logits that exist at once."""
        return (CARD if self.card else OTHER).logits

    @property
    def number(self) -> int:
        """Bytes of a number that goes into a product."""
        return NARROW if self.half else WIDE


def weights(shape: Shape) -> int:
    """The weights of a model."""
    return WIDE * shape.parameters


def frozen_weights(shape: Shape) -> int:
    """The weights of a model that nobody trains, of which autocast's type holds what it would cast."""
    halved = shape.products + (shape.tower.products if shape.tower else 0)
    return WIDE * (shape.parameters - halved) + NARROW * halved


def moments(trained: int, kind: str = "adamw") -> int:
    """What the optimizer holds for so many trained parameters, from its first step on. It follows the weights or not.

    Small tensors, of which 8 bits are not taken, are left out.
    """
    return round(MOMENTS[kind] * trained)


def moments_on_the_card(trained: int, kind: str) -> int:
    """The same where weights are on a card: nothing of a state that stays on the CPU."""
    return moments(trained, kind) if KINDS[kind].follows else 0


def gradients(trained: int) -> int:
    """The gradient: all parts of a step add to one."""
    return WIDE * trained


def narrow_weights(shape: Shape, *, pictures: bool) -> int:
    """Copies of weights in bfloat16: autocast makes them for a forward pass, and a backward pass needs them too.

    The vision tower has its own where there are pictures.
    """
    return NARROW * (shape.products + (shape.tower.products if shape.tower and pictures else 0))


def cast_weights(shape: Shape, batch: Batch, way: Way) -> int:
    """Those of a batch; a model that nobody trains is held in bfloat16 itself."""
    return narrow_weights(shape, pictures=batch.patches > 0) if way.half and not way.frozen else 0


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
    in chunks, gradients of the output head are there beside a chunk. Checkpointing casts weights layer by layer in the
    backward pass.
    """
    tokens, narrow = tokens_of(batch, way), cast_weights(shape, batch, way)
    at_the_loss = _outside(shape, batch, way) + WIDE * (LOGITS - 1) * _logits(shape, batch, way)
    at_the_loss += WIDE * shape.width * tokens + narrow
    if _chunked(shape, batch, way) and not way.frozen:
        at_the_loss += WIDE * shape.largest * (2 if shape.tied else 1)
    in_a_layer = 2 * way.number * shape.inner * tokens
    if way.checkpointing:
        in_a_layer += _in_a_layer(shape, batch, way) + _in_a_tower_layer(shape, batch, way) + narrow // shape.layers
    else:
        in_a_layer += narrow
    seen = _seen(batch) if way.windows else 0
    return _in_layers(shape, batch, way) + seen + max(at_the_loss, in_a_layer)


def kept(shape: Shape, batch: Batch, way: Way) -> int:
    """What the forward pass of the log-probs keeps for the backward pass, copies of weights left out."""
    return _in_layers(shape, batch, way) + _outside(shape, batch, way)


def _in_layers(shape: Shape, batch: Batch, way: Way) -> int:
    """What all layers and the vision tower keep, and the masks that they share."""
    one = WIDE * shape.width * tokens_of(batch, way) if way.checkpointing else _in_a_layer(shape, batch, way)
    masks = _mask(shape, batch, way) if way.windows else 0
    return shape.layers * one + masks + _in_tower(shape, batch, way)


def _outside(shape: Shape, batch: Batch, way: Way) -> int:
    """What stands outside the layers: cosines and sines, the last stream and its norm, log-probs of all tokens."""
    streams = (1 if way.frozen else 2) * shape.width + 2 * shape.head
    responses = batch.rows * batch.response
    logits = 0 if _chunked(shape, batch, way) else responses * shape.vocabulary
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

    Attention in windows keeps its output twice, by window and in the sequence's order, and each row's keys and values
    behind copies of its prompt's. By blocks, queries, keys, values and output are kept once more, with padding.
    """
    number, normed = way.number, 0 if way.frozen else 1
    stream = 2 * WIDE * (1 + normed) + (5 if way.half else 2) * number
    attention = 2 * number + (WIDE + number * normed if shape.normed else 0)
    per_token = stream * shape.width + attention * (shape.query + shape.key) + 4 * number * shape.inner
    tokens = tokens_of(batch, way)
    if not way.packed:
        return tokens * per_token
    if way.card:
        return tokens * per_token + number * (2 * shape.query + 2 * shape.key) * padded_length(tokens)
    return tokens * per_token + number * (shape.query * tokens + 2 * shape.key * _behind(batch))


def _behind(batch: Batch) -> int:
    """Keys of all rows of a packed batch, each with its prompt's before its own."""
    return batch.rows * (batch.prompt + batch.response - 1)


def _seen(batch: Batch) -> int:
    """Pairs of a query and a key in the windows of a packed batch: a byte each, of the masks that say who sees whom."""
    return batch.prompts * batch.prompt**2 + (batch.response - 1) * _behind(batch)


def _mask(shape: Shape, batch: Batch, way: Way) -> int:
    """The masks that attention in windows adds, the same for all layers, repeated for heads that share a key head."""
    return way.number * shape.query // shape.key * _seen(batch)


def _chunked(shape: Shape, batch: Batch, way: Way) -> bool:
    """Whether there are more logits than may exist at once, so that the backward pass computes them again."""
    return batch.rows * batch.response * shape.vocabulary > way.logits


def _logits(shape: Shape, batch: Batch, way: Way) -> int:
    """Logits that exist at once."""
    return min(batch.rows * batch.response * shape.vocabulary, max(way.logits, shape.vocabulary))


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
    """What the log-probs of a micro-batch take without a gradient: the fullest of MLP, attention and logits.

    Copies of weights are made on the way; all of them are counted.
    """
    tokens, number = tokens_of(batch, way), way.number
    stream = WIDE * tokens * (shape.width + 2 * shape.head) + cast_weights(shape, batch, way)
    if batch.patches:  # the embeddings with pictures and without, and where pictures are
        stream += (WIDE + 1) * tokens * shape.width
    mlp = tokens * 3 * (WIDE * shape.width + number * shape.inner)
    responses = batch.rows * batch.response
    logits = WIDE * ((tokens + responses) * shape.width + LOGITS * _logits(shape, batch, way))
    if not way.packed:
        return stream + max(mlp, logits)
    queries, pairs = 2 * WIDE + (4 if way.half else 3) * number, 2 * (WIDE + number)
    attention = tokens * (2 * WIDE * shape.width + queries * shape.query + pairs * shape.key)
    if way.card:
        return stream + max(mlp, logits, attention + number * (2 * shape.query + 2 * shape.key) * padded_length(tokens))
    attention += 2 * number * shape.key * _behind(batch)
    return stream + max(mlp, logits, attention) + _seen(batch) + _mask(shape, batch, way)


def sampling(shape: Shape, batch: Batch, *, half: bool) -> int:
    """What sampling adds to the cache at its fullest: the prompts that are read, or the logits of drawn tokens."""
    prompts = read_prompts(shape, batch.prompts * batch.prompt, 0, half=half)
    return max(prompts, WIDE * DRAWN * batch.rows * shape.vocabulary)


def read_prompts(shape: Shape, tokens: int, patches: int, *, half: bool) -> int:
    """What reading so many prompt tokens takes beside keys and values: pixels, and the fuller of tower and layers."""
    number = NARROW if half else WIDE
    decoder = tokens * (4 * WIDE * shape.width + 3 * number * shape.inner)
    if shape.tower is None:
        return decoder
    return WIDE * shape.tower.numbers * patches + max(decoder, patches * _of_a_patch(shape.tower, Way(half)))


def cached(shape: Shape, batch: Batch, *, half: bool) -> int:
    """Keys and values with room for all rows, and at the beginning those of the prompts, as CPUs have them."""
    tokens = batch.rows * (batch.prompt + batch.response) + batch.prompts * batch.prompt
    return cache(shape, tokens, half=half)


def joined_weights(shape: Shape) -> int:
    """Copies of the weights before and after attention that the decode step of CPUs makes (`copd.compute.cpu`)."""
    return WIDE * shape.layers * shape.width * (shape.query + 2 * shape.key + 2 * shape.inner)


def cache(shape: Shape, tokens: int, *, half: bool) -> int:
    """Keys and values of so many tokens in every layer."""
    return 2 * (NARROW if half else WIDE) * shape.layers * shape.key * tokens


def gathered(shape: Shape) -> int:
    """What a rank of several holds of others' weights in a pass: all outside of layers, one layer and the next."""
    layer = shape.products // shape.layers
    if shape.tower:
        layer = max(layer, shape.tower.products // shape.tower.layers)
    return WIDE * (_outside_of_layers(shape) + 2 * layer)


def gathered_gradients(shape: Shape) -> int:
    """Gradients on a rank of several before they are summed over all: of what is outside of layers, and of a layer."""
    return WIDE * (_outside_of_layers(shape) + shape.products // shape.layers)


def _outside_of_layers(shape: Shape) -> int:
    return shape.parameters - shape.products - (shape.tower.products if shape.tower else 0)


def checkpoint(trained: int, kind: str = "adamw") -> int:
    """A branch in a checkpoint: what is trained, and its moments."""
    return WIDE * trained + moments(trained, kind)


def kept_batch(rows: int, response: int) -> int:
    """A native batch that a branch keeps to be replayed: a token is 4 bytes, and a row has 14 more."""
    return rows * (4 * response + 14)


def merging(shape: Shape, branches: int) -> int:
    """What the process of the run holds while it merges: one tensor of each branch, and one file of the result."""
    return WIDE * shape.largest * (branches + 1) + min(weights(shape), SHARD_BYTES)
