"""Exact rewrites of a traced graph: less work for the same numbers, whatever the architecture.

What each was measured to save stands in docs/exact-rewrites.md, which also says what was left out. Whether it
is right is not taken on trust: the graph is compared with the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taemi_export.attention_keys import transpose_keys_once
from taemi_export.attention_masks import drop_idle_masks, guard_results
from taemi_export.first_row import narrow_to_first_row

if TYPE_CHECKING:
    import onnx


def rewrite_exactly(model: onnx.ModelProto) -> None:
    """Apply every exact rewrite to a freshly traced graph, in place; its ``value_info`` must be there."""
    narrow_to_first_row(model)  # before shapes that are on record change
    drop_idle_masks(model)
    guard_results(model)
    transpose_keys_once(model)
