"""The two attention blocks of the fusion network, written so that they export cleanly.

Masks are bool with true = valid. Callers guarantee at least one valid key a row (``taemi.model`` puts
a missing-modality token there), so no softmax ever sees a row of minus infinities.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """One query vector attends to a sequence: the anchored cross-attention of the paper.

    q = LayerNorm(W_q query), k = LayerNorm(W_k X), v = W_v X; scaled dot product over the valid keys,
    then W_o. All four linears have a bias; there is no residual, no feed-forward and no output norm.

    Args:
        query_dim: Width of the query vector.
        key_dim: Width of the sequence.
        hidden: Width of queries, keys, values and the result.
        heads: Number of heads; divides ``hidden``.
        dropout: Dropout on attention weights while training.
    """

    def __init__(self, query_dim: int, key_dim: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (hidden // heads) ** -0.5
        self.query = nn.Linear(query_dim, hidden)
        self.key = nn.Linear(key_dim, hidden)
        self.value = nn.Linear(key_dim, hidden)
        self.query_norm = nn.LayerNorm(hidden)
        self.key_norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: [batch, query_dim].
            sequence: [batch, length, key_dim].
            mask: [batch, length] bool, at least one true a row.

        Returns:
            The attended vector [batch, hidden] and the weights [batch, heads, length], which sum to 1.
        """
        # The scale goes to q before the product: fused half-precision attention kernels expect it there.
        q = self._split(self.query_norm(self.query(query)).unsqueeze(1)) * self.scale
        k = self._split(self.key_norm(self.key(sequence)))
        v = self._split(self.value(sequence))
        scores = (q @ k.transpose(-1, -2)).masked_fill(~mask[:, None, None, :], float("-inf"))
        weights = scores.softmax(-1)
        attended = self.dropout(weights) @ v
        vector: Tensor = self.output(attended.transpose(1, 2).flatten(1))
        return vector, weights.squeeze(2)

    def _split(self, x: Tensor) -> Tensor:
        """[batch, length, hidden] to [batch, heads, length, hidden / heads]."""
        split: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split


class EncoderLayer(nn.Module):
    """One standard post-norm Transformer encoder layer (Vaswani et al. 2017, figure 1) with GELU.

    ``nn.TransformerEncoderLayer`` is not used because its fused inference path does not export; the
    initialisation is the same.

    Args:
        hidden: Width of the sequence.
        heads: Number of heads; divides ``hidden``.
        feed_forward: Inner width of the feed-forward part.
        dropout: Dropout on attention weights and after both parts.
    """

    def __init__(self, hidden: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = dropout
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, feed_forward)
        self.contract = nn.Linear(feed_forward, hidden)
        self.feed_forward_norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [batch, length, hidden] for x of that shape and a [batch, length] bool mask."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask[:, None, None, :],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        x = self.attention_norm(x + self.dropout(self.output(attended.transpose(1, 2).flatten(2))))
        inner = self.dropout(F.gelu(self.expand(x)))
        result: Tensor = self.feed_forward_norm(x + self.dropout(self.contract(inner)))
        return result


def sinusoidal_positions(length: int, like: Tensor) -> Tensor:
    """Return the fixed positional encoding [length, width] for a [..., length, width] tensor.

    PE(p, 2i) = sin(p / 10000^(2i/width)), PE(p, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5).
    """
    width = like.shape[-1]
    place = torch.arange(length, device=like.device, dtype=torch.float32)
    index = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    angle = place[:, None] * torch.exp(index * (-9.210340371976184 / width))  # ln 10000
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :width].to(like.dtype)
