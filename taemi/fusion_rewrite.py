"""The fusion network with less work: exact rewrites that only hold outside of training.

The training model stays as the paper has it and is the reference; here its layers are put together anew
for export, out of the same parameters. What each rewrite saves is in docs/exact-rewrites.md.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from taemi.attention import CrossAttention
from taemi.model import Taemi


class PooledValueAttention(nn.Module):
    """Cross-attention whose values are projected after the weighted sum.

    There is one query, so each head needs one vector: the weighted mean of its values. With weights a and
    head h, sum_i a_i (W_h x_i + b_h) = W_h (sum_i a_i x_i) + b_h, as weights sum to 1. One projection of a
    vector for each head replaces that of the whole sequence.

    No sequence is split into heads, either, which would cost a transposition of all of it: the query of a
    head is the whole query with zeros where other heads are, and of what the value projection gives for a
    head's mean the rows of that head alone are kept.

    Args:
        attention: The layer whose parameters it shares.
    """

    own: Tensor

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        self.scale = attention.scale
        self.query = attention.query
        self.key = attention.key
        self.value = attention.value
        self.query_norm = attention.query_norm
        self.key_norm = attention.key_norm
        self.output = attention.output
        hidden = attention.query.out_features
        # [heads, hidden]: 1 where a column belongs to the head.
        own = torch.eye(attention.heads).repeat_interleave(hidden // attention.heads, dim=1)
        self.register_buffer("own", own, persistent=False)

    def forward(self, query: Tensor, sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attend; see ``CrossAttention.forward``, whose results these are."""
        q = self.query_norm(self.query(query)).unsqueeze(1) * self.scale * self.own
        k = self.key_norm(self.key(sequence))
        scores = (q @ k.transpose(1, 2)).masked_fill(~mask[:, None, :], float("-inf"))
        weights = scores.softmax(-1)
        mean = weights @ sequence
        values = (torch.nn.functional.linear(mean, self.value.weight) * self.own).sum(1) + self.value.bias
        vector: Tensor = self.output(values)
        return vector, weights


def rewritten(model: Taemi) -> Taemi:
    """Return a network for export that shares a model's parameters and computes the same with less work.

    Args:
        model: The network in evaluation mode; it is left alone.
    """
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin.cross = nn.ModuleDict(
        {
            name: PooledValueAttention(layer) if isinstance(layer, CrossAttention) else layer
            for name, layer in model.cross.items()
        }
    )
    return twin
