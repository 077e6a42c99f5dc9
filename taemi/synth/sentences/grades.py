"""How the sentences of an emotion are kept."""

from __future__ import annotations

Sentences = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Sentences that express an emotion faintly, clearly and strongly, as someone would say them."""
