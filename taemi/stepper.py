"""Optimiser steps: loss, precision, accumulation, clipping and learning rate, in one process or several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from taemi.processes import Processes
from taemi.recipe import Recipe
from taemi.schedule import WarmupCosine
from taemi.step_plan import Share
from taemi.system import Batch, FeatureBatch, TaemiSystem
from taemi_runtime.errors import UsageError

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Stepper:
    """Takes a system's optimiser steps.

    Args:
        system: On the processes' device; trained in place.
        recipe: How.
        schedule: The learning rate of each step.
        processes: This process among those that share each step.

    Attributes:
        precision: What ``auto`` came to: ``fp32``, ``fp16`` or ``bf16``.
        step: Steps taken.
        optimiser: AdamW over the weights that are trained, all in one group.
        scaler: Scales the loss with fp16, and does nothing otherwise.

    Raises:
        UsageError: The device cannot compute in the precision that is asked for.
    """

    def __init__(
        self, system: TaemiSystem, recipe: Recipe, schedule: WarmupCosine, processes: Processes
    ) -> None:
        self.system = system
        self.recipe = recipe
        self.schedule = schedule
        self.step = 0
        self._processes = processes
        self.precision = _precision(recipe, processes.device)
        for name in recipe.kept:
            getattr(system, f"{name}_encoder").requires_grad_(False)
        if recipe.checkpointing:
            for name in ("audio", "text"):
                if name not in recipe.kept:
                    _checkpoint_activations(getattr(system, f"{name}_encoder").model)
        if recipe.compile:
            _compile(system)
        self._weights = [weight for weight in system.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self._weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.scaler = torch.amp.GradScaler(
            processes.device.type, init_scale=recipe.loss_scale, enabled=self.precision == "fp16"
        )
        self.network: nn.Module = system
        if processes.count > 1:
            # Which weights a batch needs is up to chance: layers are dropped and spans masked at random.
            self.network = DistributedDataParallel(system, find_unused_parameters=True)

    @property
    def learning_rate(self) -> float:
        """The rate of the step that comes next."""
        return self.schedule.rate(self.step)

    def train_mode(self) -> None:
        """Set training mode everywhere but in what is kept as it is."""
        self.system.train()
        for name in self.recipe.kept:
            getattr(self.system, f"{name}_encoder").eval()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return what the network runs under."""
        dtype = _AUTOCAST.get(self.precision)
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._processes.device.type, dtype)

    def add(self, batch: Batch | FeatureBatch, share: Share) -> Tensor:
        """Add a batch's gradients, and step where it is the last of its step.

        The loss is the mean squared error over the step's clips and the outputs, whoever computes them: each
        share is weighed by its clips, and what processes average is multiplied by their number first.

        Args:
            batch: The share's clips, on the device.
            share: What they are of their step.

        Returns:
            [] float32: the sum over the counted clips of their mean squared error.
        """
        with self._apart(share.last):
            with self.autocast():
                scores = self.network(batch).intensities
            errors = F.mse_loss(scores.float(), batch.labels, reduction="none").mean(1)
            total = errors[: share.counted].sum()
            self.scaler.scale(total * (self._processes.count / share.of)).backward()
        if share.last:
            self._update()
        return total.detach()

    @contextlib.contextmanager
    def _apart(self, last: bool) -> Iterator[None]:
        """Let processes exchange gradients once a step."""
        if isinstance(self.network, DistributedDataParallel) and not last:
            with self.network.no_sync():
                yield
        else:
            yield

    def _update(self) -> None:
        self.scaler.unscale_(self.optimiser)
        if self.recipe.clip_mode == "value":
            nn.utils.clip_grad_value_(self._weights, self.recipe.clip)
        else:
            nn.utils.clip_grad_norm_(self._weights, self.recipe.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on but the weights, as tensors and plain values."""
        return {
            "step": self.step,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave.

        Raises:
            ValueError: It is of other weights.
        """
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


def _compile(system: TaemiSystem) -> None:
    # A layer at a time: the layers of a stack share one compilation, and what wav2vec2 draws at random
    # between them stays outside. In place, so that the weights keep their names.
    for encoder in (system.audio_encoder, system.text_encoder):
        for stack in encoder.modules():
            # Convolutions come in stacks, too, each with a length of its own: a compilation for each of
            # them would reach PyTorch's limit.
            if isinstance(stack, nn.ModuleList) and len(stack) == encoder.model.config.num_hidden_layers:
                for layer in stack:
                    layer.compile()
    system.fusion.compile()


def _checkpoint_activations(model: Any) -> None:
    # transformers renames it: the new name where there is one.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _precision(recipe: Recipe, device: torch.device) -> str:
    if recipe.precision == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if recipe.precision == "fp16" and device.type == "cpu":
        raise UsageError(
            "cannot train in fp16 on a CPU",
            "the recipe's precision is fp16",
            "Choose --precision fp32 or bf16",
        )
    return recipe.precision
