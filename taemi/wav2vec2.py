"""wav2vec2 with the regression head of audEERING's emotion models, applied to every frame.

``audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim`` (Wagner et al. 2023, arXiv 2203.07378) predicts
arousal, dominance and valence of a clip from the mean of its hidden states. Here the head reads each
hidden state, so that every frame has three logits beside it. No Auto class of transformers has this
head; the names of the submodules are those of the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2PreTrainedModel


class RegressionHead(nn.Module):
    """Dropout, dense, tanh, dropout, projection (the head on the model's card).

    Args:
        config: Gives ``hidden_size``, ``num_labels`` and ``final_dropout``.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.final_dropout)
        self.out_proj = nn.Linear(config.hidden_size, int(config.num_labels or 0))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states [..., hidden_size] to logits [..., num_labels]."""
        logits: Tensor = self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(hidden)))))
        return logits


class Wav2Vec2ForFrameRegression(Wav2Vec2PreTrainedModel):
    """Hidden states of every frame and, beside them, the head's logits for that frame.

    Args:
        config: An ordinary wav2vec2 config; ``num_labels`` is 3 for arousal, dominance, valence.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.classifier = RegressionHead(config)
        # The model's card calls init_weights() here; transformers 5 then fails in from_pretrained.
        self.post_init()

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode waveforms.

        Args:
            input_values: [batch, samples] float32, zero mean and unit variance over valid samples.
            attention_mask: [batch, samples] int64, 1 = valid; ``None`` leaves padding unmasked.

        Returns:
            [batch, frames, hidden_size + num_labels] float32; frames that the mask leaves out hold
            numbers without meaning.
        """
        hidden = self.wav2vec2(input_values, attention_mask=attention_mask).last_hidden_state
        return torch.cat([hidden, self.classifier(hidden)], dim=-1)
