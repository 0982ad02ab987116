"""The Transformer of chapter 9 (fig. 89), part by part, as Vaswani et al. (2017) describe it.

Letters in the comments on shapes: B sentences in a batch, S tokens of the source, T tokens of the target, D the size of
a token's vector (d_model), H heads of D/H numbers each, V words of the vocabulary.

Masks are True where attention may look. A padded batch has its padding at the end of each sentence.
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stages.common.dropout import ByteDropout
from stages.common.products import Linear, linear

MOST_REAL = 0.8  # share of a batch that isn't padding up to which the tokens are taken out of it


def padding_mask(tokens: torch.Tensor, pad: int) -> torch.Tensor:
    """Return (B, 1, 1, S), True at the tokens (B, S) that are no padding: the same for every head and query."""
    return (tokens != pad)[:, None, None, :]


def causal_mask(length: int) -> torch.Tensor:
    """Return (T, T), True where a position (row) may look: at itself and at those before it."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def as_multiplied(x: torch.Tensor) -> torch.Tensor:
    """Return x in the precision in which autocast multiplies: cast once here, not by each product that takes it."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Places(NamedTuple):
    """Where in a padded batch the tokens are, so that what is done to each alone needn't be done to the padding."""

    shape: torch.Size  # (B, S)
    numbers: torch.Tensor  # (N,), of B·S places

    @classmethod
    def of(cls, real: torch.Tensor) -> "Places | None":
        """Return the places where `real` (B, S) is true; None where it isn't worth it.

        So it is with little padding, and on a GPU, which would wait for the number of tokens, and has cores enough.
        """
        if real.device.type != "cpu" or real.sum() > MOST_REAL * real.numel():
            return None
        return cls(real.shape, real.flatten().nonzero().squeeze(1))

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens' vectors (N, D) of a padded batch (B, S, D)."""
        return x.flatten(0, 1).index_select(0, self.numbers)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """Return the padded batch (B, S, D), zeros in the padding, of the tokens' vectors (N, D)."""
        return x.new_zeros(self.shape.numel(), x.shape[1]).index_copy(0, self.numbers, x).unflatten(0, self.shape)


def packed(x: torch.Tensor, places: Places | None) -> torch.Tensor:
    """Return the tokens' vectors (N, D) of x (B, S, D); x itself without places."""
    return x if places is None else places.pack(x)


def unpacked(x: torch.Tensor, places: Places | None) -> torch.Tensor:
    """Undo `packed`, but for zeros in the padding."""
    return x if places is None else places.unpack(x)


class Embedding(nn.Module):
    """A vector for each token, times √d_model (section 3.4): tokens (B, S) to (B, S, D)."""

    def __init__(self, vocabulary: int, d_model: int):
        super().__init__()
        self.table = nn.Embedding(vocabulary, d_model)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table(tokens) * math.sqrt(self.table.embedding_dim)


def sinusoids(length: int, d_model: int) -> torch.Tensor:
    """Return (length, D): sin(p / 10000^(2i/D)) at the even places 2i of position p, the cosine at the odd ones.

    § 3.5. The angles are computed in double precision, which at position 5,000 still matters.
    """
    positions = torch.arange(length, dtype=torch.float64)[:, None]
    rates = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    angles = positions * rates  # (length, D/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :d_model].float()


class PositionalEncoding(nn.Module):
    """Adds to each token's vector that of its position: (B, S, D) to (B, S, D). Nothing here is learned."""

    def __init__(self, longest: int, d_model: int, dropout: float):
        super().__init__()
        self.dropout = ByteDropout(dropout)
        self.register_buffer("table", sinusoids(longest, d_model), persistent=False)

    def forward(self, x: torch.Tensor, first: int = 0) -> torch.Tensor:
        """`first`: the position of the first token of x; in step-by-step decoding the others are known already.

        Raises:
            ValueError: for a sentence longer than the table.
        """
        if first + x.shape[1] > len(self.table):
            raise ValueError(f"a sentence of {first + x.shape[1]} tokens; the network takes {len(self.table)}")
        return self.dropout(x + self.table[first : first + x.shape[1]])


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: nn.Module | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q Kᵀ / √d) V (equation 1), written out: the reference for the fused function, and the attention's maps.

    query (B, H, T, d), key and value (B, H, S, d), mask broadcastable to (B, H, T, S), `dropout` of the weights.
    Returns the values (B, H, T, d) and the weights (B, H, T, S), which add up to 1 over S, before their dropout.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, S)
    if mask is not None:  # added, since to fill in so many numbers by a mask is slower
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    return (weights if dropout is None else dropout(weights)) @ value, weights


class KeyValue(NamedTuple):
    """Keys and values of tokens that were seen already, each (B, H, S, D/H)."""

    key: torch.Tensor
    value: torch.Tensor


class MultiHeadAttention(nn.Module):
    """H attentions side by side over D/H numbers each, and one linear map of their results (section 3.2.2).

    As in the book, the four maps have no bias. Those of the keys and of the values are one matrix, whose upper half is
    the keys', since they always take the same tokens: one product in place of two.
    """

    def __init__(self, d_model: int, heads: int, dropout: float):
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model {d_model} must be a multiple of heads {heads}")
        self.heads = heads
        self.dropout = ByteDropout(dropout)
        self.w_query = Linear(d_model, d_model, bias=False)
        self.w_key_value = Linear(d_model, 2 * d_model, bias=False)
        self.w_o = Linear(d_model, d_model, bias=False)
        self.maps: torch.Tensor | None = None  # the last weights (B, H, T, S), where `keep_maps` asks for them
        self.keep_maps = False

    def split(self, x: torch.Tensor, places: Places | None = None) -> torch.Tensor:
        return unpacked(x, places).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, S, D) to (B, H, S, D/H)

    def keys_and_values(self, x: torch.Tensor, places: Places | None = None) -> KeyValue:
        """Return those of x: (B, S, D), or (N, D) with the places of its tokens."""
        key, value = self.w_key_value(x).chunk(2, dim=-1)
        return KeyValue(self.split(key, places), self.split(value, places))

    def forward(
        self,
        x: torch.Tensor,
        seen: KeyValue,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        places: Places | None = None,
    ) -> torch.Tensor:
        """Let x (B, T, D) look at what was `seen`; `causal`: the token at place t of x at the first t + 1 of them only.

        The mask (broadcastable to (B, H, T, S)) and `causal` exclude each other. With `places` x and the result are
        (N, D).
        """
        query = self.split(self.w_query(x), places)
        dropped = self.dropout.p if self.training else 0.0
        # On a CPU the fused function writes it out itself where weights drop out, in more steps.
        if self.keep_maps or (dropped and x.device.type == "cpu"):
            mask = causal_mask(query.shape[2]).to(x.device) if causal else mask
            values, weights = attend(query, *seen, mask, self.dropout)
            self.maps = weights if self.keep_maps else None
        else:
            values = F.scaled_dot_product_attention(query, *seen, attn_mask=mask, dropout_p=dropped, is_causal=causal)
        values = values.transpose(1, 2).flatten(2)  # (B, H, T, D/H) to (B, T, D)
        return self.w_o(packed(values, places))


class FeedForward(nn.Module):
    """max(0, x W₁ + b₁) W₂ + b₂ at every position alike (equation 2): (B, S, D) to (B, S, D)."""

    def __init__(self, d_model: int, d_ff: int, dropout: float):
        super().__init__()
        self.linear1 = Linear(d_model, d_ff)
        self.dropout = ByteDropout(dropout)
        self.linear2 = Linear(d_ff, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear2(self.dropout.of_relu(self.linear1(x)))


class Residual(nn.Module):
    """x + dropout(part(norm(x))): what both stacks are made of.

    The norm stands before the part, as in the book, where the paper has it behind the sum: deep stacks train more
    easily so (Xiong et al., 2020). It is PyTorch's LayerNorm, the variance divided by D, as published (Ba et al.,
    2016), and ε under the root; the book's divides by D − 1 and adds ε to the root.
    """

    def __init__(self, d_model: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = ByteDropout(dropout)

    def forward(self, x: torch.Tensor, part) -> torch.Tensor:
        return x + self.dropout(part(as_multiplied(self.norm(x)))).to(x.dtype)


class EncoderLayer(nn.Module):
    """Attention to the whole source, then the feed-forward network, each in a residual connection."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float):
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, heads, dropout)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.residuals = nn.ModuleList(Residual(d_model, dropout) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor, places: Places | None = None) -> torch.Tensor:
        """Map x (B, S, D) to as many; or, with the tokens' places, (N, D)."""
        attention = self.self_attention
        x = self.residuals[0](x, lambda y: attention(y, attention.keys_and_values(y, places), mask, places=places))
        return self.residuals[1](x, self.feed_forward)


class LayerCache(NamedTuple):
    """What a decoder's layer keeps while it writes word by word: of the target so far, and of the source."""

    target: KeyValue | None
    source: KeyValue


class DecoderLayer(nn.Module):
    """Attention to the target so far, attention to the encoded source, then the feed-forward network."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float):
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, heads, dropout)
        self.cross_attention = MultiHeadAttention(d_model, heads, dropout)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.residuals = nn.ModuleList(Residual(d_model, dropout) for _ in range(3))

    def forward(
        self, x: torch.Tensor, memory: KeyValue, src_mask: torch.Tensor, places: Places | None = None
    ) -> torch.Tensor:
        """All positions of x (B, T, D), or with `places` (N, D), at once, each seeing itself and those before it."""
        attention = self.self_attention
        x = self.residuals[0](
            x, lambda y: attention(y, attention.keys_and_values(y, places), causal=True, places=places)
        )
        x = self.residuals[1](x, lambda y: self.cross_attention(y, memory, src_mask, places=places))
        return self.residuals[2](x, self.feed_forward)

    def step(self, x: torch.Tensor, cache: LayerCache, src_mask: torch.Tensor) -> tuple[torch.Tensor, LayerCache]:
        """The next position alone, x (B, 1, D); returns its result and the cache with this position in it."""
        normed = as_multiplied(self.residuals[0].norm(x))
        new = self.self_attention.keys_and_values(normed)
        if cache.target is not None:
            new = KeyValue(*(torch.cat(pair, dim=2) for pair in zip(cache.target, new, strict=True)))
        x = x + self.residuals[0].dropout(self.self_attention(normed, new))
        x = self.residuals[1](x, lambda y: self.cross_attention(y, cache.source, src_mask))
        return self.residuals[2](x, self.feed_forward), LayerCache(new, cache.source)


class Transformer(nn.Module):
    """Encoder, decoder and projection (fig. 89).

    Args:
        src_vocabulary, tgt_vocabulary: numbers of tokens.
        layers: of the encoder, and as many of the decoder; 6 in the book.
        longest: tokens of the longest sentence.
        tied: whether the projection takes the target embedding's table as its weights (Press and Wolf, 2017); the
            book's are apart.
        pad: the token that fills a batch.
    """

    def __init__(
        self,
        src_vocabulary: int,
        tgt_vocabulary: int,
        d_model: int = 512,
        layers: int = 6,
        heads: int = 8,
        d_ff: int = 2048,
        dropout: float = 0.1,
        longest: int = 350,
        tied: bool = False,
        pad: int = 1,
    ):
        super().__init__()
        self.pad = pad
        self.src_embedding, self.tgt_embedding = Embedding(src_vocabulary, d_model), Embedding(tgt_vocabulary, d_model)
        self.positions = PositionalEncoding(longest, d_model, dropout)
        shape = (d_model, heads, d_ff, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*shape) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(d_model)
        self.decoder = nn.ModuleList(DecoderLayer(*shape) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(d_model)
        self.bias = nn.Parameter(torch.zeros(tgt_vocabulary))
        self.weight = None if tied else nn.Parameter(torch.empty(tgt_vocabulary, d_model))
        for name, parameter in self.named_parameters():  # Glorot's, as in the program that belongs to the book
            if parameter.dim() > 1:
                for matrix in parameter.chunk(2 if "w_key_value" in name else 1):
                    nn.init.xavier_uniform_(matrix)
        if tied:  # a table of logits must not begin with large ones: √d_model times a vector is of length √d_model
            for embedding in (self.src_embedding, self.tgt_embedding):
                nn.init.normal_(embedding.table.weight, std=d_model**-0.5)

    @torch.no_grad()
    def set_embeddings(self, src: torch.Tensor, tgt: torch.Tensor) -> None:
        """Begin with these vectors of the tokens, (V, D) each."""
        self.src_embedding.table.weight.copy_(src)
        self.tgt_embedding.table.weight.copy_(tgt)

    def encode(self, src: torch.Tensor, src_mask: torch.Tensor) -> torch.Tensor:
        """Return the encoded source (B, S, D) of tokens (B, S)."""
        places = Places.of(src != self.pad)
        x = packed(self.positions(self.src_embedding(src)), places)
        for layer in self.encoder:
            x = layer(x, src_mask, places)
        return unpacked(self.encoder_norm(x), places)

    def decode(self, tgt: torch.Tensor, memory: torch.Tensor, src_mask: torch.Tensor) -> torch.Tensor:
        """Return for tokens (B, T) what the next one is told from, (B, T, D); memory (B, S, D): the encoded source."""
        places, memory_places = Places.of(tgt != self.pad), Places.of(src_mask[:, 0, 0])
        x = packed(self.positions(self.tgt_embedding(tgt)), places)
        memory = packed(as_multiplied(memory), memory_places)
        for layer in self.decoder:
            x = layer(x, layer.cross_attention.keys_and_values(memory, memory_places), src_mask, places)
        return unpacked(self.decoder_norm(x), places)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (…, V) of the next token from (…, D)."""
        weight = self.tgt_embedding.table.weight if self.weight is None else self.weight
        return linear(x, weight, self.bias)

    def forward(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
        """Return logits (B, T, V) of the token after each of tgt (B, T), given src (B, S); both padded at the end."""
        src_mask = padding_mask(src, self.pad)
        return self.project(self.decode(tgt, self.encode(src, src_mask), src_mask))

    def start(self, memory: torch.Tensor) -> list[LayerCache]:
        """Return the caches of the layers before the first token: the keys and values of the source are all there."""
        memory = as_multiplied(memory)
        return [LayerCache(None, layer.cross_attention.keys_and_values(memory)) for layer in self.decoder]

    def step(
        self, tokens: torch.Tensor, place: int, caches: list[LayerCache], src_mask: torch.Tensor
    ) -> tuple[torch.Tensor, list[LayerCache]]:
        """Return what the token after one more (B,) at `place` is told from, (B, D), and the caches with it in them."""
        x, after = self.positions(self.tgt_embedding(tokens[:, None]), place), []
        for layer, cache in zip(self.decoder, caches, strict=True):
            x, cache = layer.step(x, cache, src_mask)
            after.append(cache)
        return self.decoder_norm(x)[:, 0], after


def reordered(caches: list[LayerCache], rows: torch.Tensor) -> list[LayerCache]:
    """Return the caches of the sentences `rows` (any number of them, repeated or left out)."""
    return [LayerCache(*(KeyValue(*(part[rows] for part in pair)) for pair in cache)) for cache in caches]
