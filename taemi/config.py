"""The model's configuration: presets, and every switch of the paper's ablations.

Sources: [P] is arXiv 2603.14976; [R] the settings of its authors' published training code, whose
facts are used and whose code is not; [D] our own choice where neither says. docs/model.md tells
where [P] and [R] disagree, which is why there are two presets of one class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import SpecError
from taemi_runtime.strict import from_plain, to_plain

Projection = Literal["none", "linear", "ln_linear_gelu"]
Anchor = Literal["text", "vision", "audio"]
Pooling = Literal["cross_attention", "mean", "flatten"]
Positions = Literal["none", "sinusoidal"]


@dataclass(frozen=True)
class ModelConfig:
    """What the fusion network is made of; defaults are the preset ``paper``.

    Args:
        audio_dim: Width of an audio frame: hidden size of wav2vec2 plus arousal, dominance and
            valence; 1027 for the published encoder [R].
        vision_dim: Width D_v of a vision frame: 768 for ViT-B, 384 for the official features, 1280 for ViT-H.
        text_dim: Width of the text vector, 768 for GTE-base [R].
        hidden: Width of the latent space and of every cross-attention, 512 [P].
        heads: Heads of each attention, 4 [R].
        projection: Per-modality projection into the latent space: ``linear`` [P], ``none`` [R], or
            ``ln_linear_gelu``, the optional projector of [R].
        self_attention: Whether each sequence passes one Transformer encoder layer first [P].
        self_attention_text: Whether a single text vector does, too; degenerate, so off [D].
        feed_forward: Inner width of that layer, 1024 [D].
        anchor: The modality whose vector queries the other two; ``text`` [P].
        pooling: How sequences become vectors: ``cross_attention`` [P]; ``mean`` or ``flatten`` are the
            rows of the paper's Table 3 that have no cross-attention.
        learnable_tokens: Whether missing modalities have learned tokens [P]; zero vectors otherwise.
        modality_dropout: Chance per sample and modality of being dropped in training, 0.1 [P].
        keep_at_least_one: Whether a sample that would lose every modality keeps one; off [R].
        dropout: Dropout on attention weights, in the encoder layer and in the head, 0.1 [R].
        positions: Positional encoding before self-attention; ``none`` [R].
        head_hidden: Inner width of the head, 512 [R].
        sigmoid: Whether scores pass a sigmoid; off [R].
        max_audio: Longest audio sequence in frames: 599 for 12 s.
        max_vision: Longest vision sequence in frames, 400 [P].
        max_text: Longest token sequence, 128 [P].
        outputs: Names of the scores in order [P].

    Raises:
        SpecError: Values contradict each other.
    """

    audio_dim: int = 1027
    vision_dim: int = 768
    text_dim: int = 768
    hidden: int = 512
    heads: int = 4
    projection: Projection = "linear"
    self_attention: bool = True
    self_attention_text: bool = False
    feed_forward: int = 1024
    anchor: Anchor = "text"
    pooling: Pooling = "cross_attention"
    learnable_tokens: bool = True
    modality_dropout: float = 0.1
    keep_at_least_one: bool = False
    dropout: float = 0.1
    positions: Positions = "none"
    head_hidden: int = 512
    sigmoid: bool = False
    max_audio: int = 599
    max_vision: int = 400
    max_text: int = 128
    outputs: tuple[str, ...] = EMOTIONS

    def __post_init__(self) -> None:
        asked = "the model config is inconsistent"
        widths = ("audio_dim", "vision_dim", "text_dim", "hidden", "heads", "feed_forward", "head_hidden")
        for name in (*widths, "max_audio", "max_vision", "max_text"):
            if getattr(self, name) < 1:
                raise SpecError(asked, f"{name} is {getattr(self, name)}", "Give a positive number")
        for name in ("modality_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(asked, f"{name} is {getattr(self, name)}", "Give a number from 0 to below 1")
        if self.hidden % self.heads:
            raise SpecError(asked, f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if not self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise SpecError(asked, f"outputs {self.outputs} are empty or repeat a name")
        if self.projection == "none" and (self.self_attention or self.positions != "none"):
            raise SpecError(
                asked,
                f"projection none with self_attention {self.self_attention}, positions {self.positions}",
                "Self-attention and positions live in the latent space: choose projection linear",
            )
        if self.pooling != "cross_attention" and self.anchor != "text":
            raise SpecError(
                asked,
                f"anchor {self.anchor} with pooling {self.pooling}",
                "Without cross-attention nothing is anchored: leave anchor at text",
            )
        if self.pooling == "flatten" and self.projection == "none":
            raise SpecError(
                asked, "pooling flatten with projection none", "Flatten takes projected sequences"
            )

    @property
    def text_is_sequence(self) -> bool:
        """Whether text enters as tokens (it is attended to) and not as one vector (it queries)."""
        return self.pooling == "cross_attention" and self.anchor != "text"

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for checkpoints and manifests."""
        plain: dict[str, Any] = to_plain(self)
        return plain


# Rows of the paper's Tables 3 and 4 and the two presets, as changes to the defaults; the table calls the
# preset ``paper`` full. Where the paper leaves a detail open ([D]): the concatenation row pools by a masked
# mean and, as its ticks are all blank, has neither learned tokens nor modality dropout.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "full": {},
    "released": {"projection": "none", "self_attention": False},
    "concat": {
        "pooling": "mean",
        "self_attention": False,
        "learnable_tokens": False,
        "modality_dropout": 0.0,
    },
    "concat-flatten": {
        "pooling": "flatten",
        "self_attention": False,
        "learnable_tokens": False,
        "modality_dropout": 0.0,
    },
    "self-attention": {"pooling": "mean"},
    "no-missing-tokens": {"learnable_tokens": False},
    "no-modality-dropout": {"modality_dropout": 0.0},
    "vision-anchored": {"anchor": "vision"},
    "audio-anchored": {"anchor": "audio"},
}


def variant(name: str, **changes: Any) -> ModelConfig:
    """Return the config of a preset or ablation row.

    Args:
        name: A key of ``VARIANTS``.
        changes: Further fields, e.g. the encoders' widths.

    Raises:
        SpecError: No such variant, or the changes contradict it.
    """
    if name not in VARIANTS:
        raise SpecError(f"there is no variant {name!r}", "", f"Choose from: {', '.join(VARIANTS)}")
    return replace(ModelConfig(), **{**VARIANTS[name], **changes})


def config_from_plain(data: dict[str, Any]) -> ModelConfig:
    """Read a config from a checkpoint's plain values.

    Raises:
        ValueError: A field is missing, unknown or of the wrong type.
    """
    return from_plain(data, ModelConfig)
