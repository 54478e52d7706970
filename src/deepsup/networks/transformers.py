"""Transformers that read tokens: Vaswani et al. 2017 (arXiv 1706.03762), built as GPT-2 is (Radford et al. 2019)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import ConfigError
from deepsup.networks.blocks import check_positive, check_share
from deepsup.networks.families import family

STD = 0.02


@final
class Attention(nn.Module):
    """Self-attention of several heads; with `causal` a place sees itself and those before it."""

    def __init__(self, width: int, heads: int, *, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, width) to the same."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.mix(x).chunk(3, -1))
        share = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=share, is_causal=self.causal)
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@final
class TransformerBlock(nn.Module):
    """Attention and two linear layers, each normalised before and added to the stream (N, L, width)."""

    def __init__(self, width: int, heads: int, *, dropout: float, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout=dropout, causal=causal)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.drop1, self.drop2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop1(self.attention(self.norm1(x)))
        return x + self.drop2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


@final
class Transformer(nn.Module):
    """What `transformer` builds."""

    def __init__(
        self,
        depth: int,
        *,
        symbols: int,
        length: int,
        classes: int,
        width: int,
        heads: int,
        dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, dropout=dropout, causal=causal) for _ in range(depth))
        )
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                last = name.endswith(("attention.out.weight", "mlp.2.weight"))  # of what is added to the stream
                nn.init.normal_(parameter, std=STD / (2 * depth) ** 0.5 if last else STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Whole numbers (N, L) to scores (N, L, classes)."""
        where = self.places(torch.arange(x.shape[1], device=x.device))
        return self.fc(self.norm(self.blocks(self.drop(self.tokens(x) + where))))  # type: ignore[no-any-return]


@family("transformer-N", "transformer-12", reads="tokens")
def transformer(
    depth: int,
    *,
    classes: int,
    in_channels: int,
    size: int = 256,
    width: int = 64,
    heads: int = 4,
    dropout: float = 0.0,
    causal: bool = True,
) -> Transformer:
    """`depth` blocks of self-attention over tokens, and a linear layer that gives every place its scores.

    Example: `transformer(12, classes=50257, in_channels=50257, size=1024, width=768, heads=12)` is GPT-2, with an output layer
    of its own where the release uses the embedding again.

    `in_channels` is how many symbols there are, `size` how long a sequence may be. Input whole numbers `(N, L)`, output
    `(N, L, classes)`. A place sees none of those behind it, as whoever is to tell the next token must; `causal=False` lets it
    see them all, for labels of tokens that are there. Layers: tokens, places, blocks.0, ..., norm, fc. Weights from
    N(0, 0.02²), those of what is added to the stream divided by sqrt(2 depth), biases 0.
    """
    check_positive(depth=depth, classes=classes, in_channels=in_channels, size=size, width=width, heads=heads)
    check_share(dropout=dropout)
    if width % heads:
        raise ConfigError(f"width={width} cannot be shared by heads={heads}; take a multiple of it.")
    if not isinstance(causal, bool):
        raise ConfigError(f"causal={causal!r} must be true or false.")
    made = {"width": width, "heads": heads, "dropout": dropout, "causal": causal}
    return Transformer(depth, symbols=in_channels, length=size, classes=classes, **made)  # type: ignore[arg-type]
