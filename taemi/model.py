"""TAEMI's fusion network: one class for the paper's model, the released one and every ablation.

Sequences of audio and vision features and a text vector (or tokens) go in, six intensities come out.
What a missing modality or padding holds never matters: it is replaced by ``where`` before any
arithmetic, so that NaN and Inf there change nothing, in the forward or the backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taemi.attention import CrossAttention, EncoderLayer, sinusoidal_positions
from taemi.config import ModelConfig

# The order of the columns of ``present``, fixed by the exported graph's contract.
MODALITIES: tuple[str, str, str] = ("audio", "vision", "text")
TOKEN_STD = 0.02


class Scores(NamedTuple):
    """What the network returns.

    Args:
        intensities: [batch, outputs] float.
        attention: For each modality that is attended to: weights [batch, heads, length].
    """

    intensities: Tensor
    attention: dict[str, Tensor]


class Taemi(nn.Module):
    """The fusion network.

    Args:
        config: Preset and switches.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        raw = {"audio": config.audio_dim, "vision": config.vision_dim, "text": config.text_dim}
        projected = config.projection != "none"
        width = {name: config.hidden if projected else raw[name] for name in MODALITIES}
        self.tokens = nn.ParameterDict() if config.learnable_tokens else None
        for name in MODALITIES:
            if self.tokens is not None:
                self.tokens[name] = nn.Parameter(torch.randn(raw[name]) * TOKEN_STD)
            else:
                # Fixed zeros take the tokens' place: one valid zero key instead of a row without keys.
                self.register_buffer(f"zero_{name}", torch.zeros(raw[name]), persistent=False)
        self.project = nn.ModuleDict({name: _projection(config, raw[name]) for name in MODALITIES})
        self.temporal = nn.ModuleDict(
            {
                name: EncoderLayer(config.hidden, config.heads, config.feed_forward, config.dropout)
                for name in MODALITIES
                if config.self_attention
                and (name != "text" or config.self_attention_text or config.text_is_sequence)
            }
        )
        self.cross = nn.ModuleDict()
        if config.pooling == "cross_attention":
            for name in MODALITIES:
                if name != config.anchor:
                    self.cross[name] = CrossAttention(
                        width[config.anchor], width[name], config.hidden, config.heads, config.dropout
                    )
        self.head = nn.Sequential(
            nn.Linear(self._fused_width(width), config.head_hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.head_hidden, len(config.outputs)),
        )

    def _fused_width(self, width: dict[str, int]) -> int:
        config = self.config
        if config.pooling == "mean":
            return sum(width.values())
        if config.pooling == "flatten":
            return (config.max_audio + config.max_vision + 1) * config.hidden
        return width[config.anchor] + 2 * config.hidden

    def forward(
        self,
        audio: Tensor,
        audio_mask: Tensor,
        vision: Tensor,
        vision_mask: Tensor,
        text: Tensor,
        present: Tensor,
        text_mask: Tensor | None = None,
    ) -> Scores:
        """Score a batch.

        Args:
            audio: [batch, audio_len, audio_dim] float.
            audio_mask: [batch, audio_len] bool, true = valid.
            vision: [batch, vision_len, vision_dim] float.
            vision_mask: [batch, vision_len] bool.
            text: [batch, text_dim] float; [batch, text_len, text_dim] when ``config.text_is_sequence``.
            present: [batch, 3] bool in the order of ``MODALITIES``. A row with no valid position
                counts as missing whatever is said here.
            text_mask: [batch, text_len] bool, for token sequences only.

        Returns:
            Intensities [batch, outputs], not clipped, and the attention weights.
        """
        if self.training and self.config.modality_dropout > 0:
            present = self.drop_modalities(present)
        if text.ndim == 2:
            text, text_mask = text.unsqueeze(1), torch.ones_like(present[:, :1])
        if text_mask is None:
            raise ValueError("text tokens need a text_mask")
        sequences = {"audio": (audio, audio_mask), "vision": (vision, vision_mask), "text": (text, text_mask)}
        latent: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for column, name in enumerate(MODALITIES):
            latent[name], masks[name] = self._encode(name, *sequences[name], present[:, column])
        fused, attention = self._fuse(latent, masks)
        scores = self.head(fused)
        return Scores(scores.sigmoid() if self.config.sigmoid else scores, attention)

    def drop_modalities(self, present: Tensor) -> Tensor:
        """Drop each modality of each sample independently with the configured probability.

        Args:
            present: [batch, 3] bool.

        Returns:
            [batch, 3] bool: a subset. With ``keep_at_least_one``, a sample that would lose everything
            keeps one of what it had, chosen uniformly.
        """
        keep = torch.rand(present.shape, device=present.device) >= self.config.modality_dropout
        kept = present & keep
        if self.config.keep_at_least_one:
            lottery = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)
            winner = F.one_hot(lottery.argmax(1), present.shape[1]).bool()
            kept = torch.where(kept.any(1, keepdim=True), kept, winner & present)
        return kept

    def token(self, name: str) -> Tensor:
        """Return the vector [raw width] that stands in for a missing modality, zeros if not learned."""
        if self.tokens is not None:
            learned: Tensor = self.tokens[name]
            return learned
        return self.get_buffer(f"zero_{name}")

    def _encode(self, name: str, x: Tensor, mask: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Replace what is missing, project, add positions, attend within the sequence."""
        x, mask = self._fill(x, mask, present, self.token(name))
        x = self.project[name](x)
        if name in self.temporal:
            if self.config.positions == "sinusoidal":
                x = x + sinusoidal_positions(x.shape[1], x)
            x = self.temporal[name](x, mask)
        return x, mask

    @staticmethod
    def _fill(x: Tensor, mask: Tensor, present: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Put the token wherever nothing valid stands; a missing row gets it as its one valid key.

        Attention over a constant sequence depends on neither query nor length, so one key says all.
        """
        mask = mask & present[:, None]
        x = torch.where(mask[:, :, None], x, token.to(x.dtype))
        missing = ~mask.any(1, keepdim=True)
        first = torch.arange(x.shape[1], device=x.device)[None, :] == 0
        return x, mask | (missing & first)

    def _fuse(self, latent: dict[str, Tensor], masks: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        if config.pooling == "flatten":
            lengths = {"text": 1, "audio": config.max_audio, "vision": config.max_vision}
            parts = [_flatten(latent[name], masks[name], length) for name, length in lengths.items()]
            return torch.cat(parts, 1), {}
        if config.pooling == "mean":
            return torch.cat(
                [_masked_mean(latent[name], masks[name]) for name in ("text", "audio", "vision")], 1
            ), {}
        anchor = config.anchor
        query = _masked_mean(latent[anchor], masks[anchor]) if anchor != "text" else latent["text"][:, 0]
        parts, attention = [query], {}
        for name in MODALITIES:
            if name != anchor:
                vector, attention[name] = self.cross[name](query, latent[name], masks[name])
                parts.append(vector)
        return torch.cat(parts, 1), attention


def _projection(config: ModelConfig, width: int) -> nn.Module:
    if config.projection == "none":
        return nn.Identity()
    linear = nn.Linear(width, config.hidden)
    if config.projection == "linear":
        return linear
    return nn.Sequential(nn.LayerNorm(width), linear, nn.GELU())


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid positions: [batch, length, width] and [batch, length] to [batch, width]."""
    weight = mask.to(x.dtype)[:, :, None]
    return (x * weight).sum(1) / weight.sum(1)


def _flatten(x: Tensor, mask: Tensor, length: int) -> Tensor:
    """Zero what is invalid, pad to ``length`` positions, and lay the sequence out as one vector."""
    x = torch.where(mask[:, :, None], x, torch.zeros((), dtype=x.dtype, device=x.device))
    return F.pad(x, (0, 0, 0, length - x.shape[1])).flatten(1)
