"""Systems whose weights and optimiser are written and stepped in no time."""

from __future__ import annotations

from dataclasses import replace

import torch

from taemi.assemble import assemble
from taemi.choice import EncoderChoice
from taemi.system import TaemiSystem


def small(name="paper", *, hidden=32, seed=1, **options) -> TaemiSystem:
    """Assemble a variant with tiny encoders and a fusion network far below the published size.

    Args:
        name: The variant.
        hidden: Width of its latent space.
        seed: Seed of all weights.
        options: As ``assemble`` takes them.
    """
    made = assemble(name, EncoderChoice("tiny"), seed=seed, **options)
    config = replace(made.config, hidden=hidden, feed_forward=32, head_hidden=16)
    torch.manual_seed(seed)
    return TaemiSystem(config, made.audio_encoder, made.text_encoder, made.vision_encoder, made.preprocessing)
