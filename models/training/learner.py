"""Networks that learn: one step of AdamW after another, and beside them the running mean of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...tiling.errors import InputError
from ..adm_blocks import Stage
from ..checkpoint import shapes_of
from ..contract import Precision
from ..shapes import mismatch
from .objective import LOSS, Batch, Contest, Draws, Objective, Rival, rivals_of
from .peers import Alone, Peers
from .recipe import Learning

_AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ALONE = Alone()
Tensors = dict[str, Tensor]

GRADIENT = "gradient"
"""The name of the scalar that tells the length of all gradients."""


@dataclass(frozen=True, eq=False)
class _Player:
    """Weights that learn from one scalar, how much faster than others, and what their optimiser remembers."""

    scalar: str
    pace: float
    weights: Mapping[str, nn.Parameter]
    optimizer: torch.optim.AdamW


class Learner:
    """An objective's networks, their running mean and all that AdamW remembers; plain tensors when saved."""

    def __init__(self, objective: Objective, learning: Learning, *, device: str, peers: Peers = _ALONE) -> None:
        """Networks as they are, which is step 0; peers must begin with the same."""
        self.objective, self.learning, self.device, self.peers = objective, learning, device, peers
        for network in objective.networks.values():
            network.to(device).train().requires_grad_(True)
            # In reduced precision convolutions are faster so, and in float32 they are not.
            network.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's own types leave it out
            if learning.recompute:
                _recompute_stages(network)
        self._weights = {
            f"{name}.{key}": parameter
            for name, network in objective.networks.items()
            for key, parameter in network.named_parameters()
        }
        self._mean = {key: parameter.detach().clone() for key, parameter in self._weights.items()}
        self._players = self._opponents()
        self._scaler = torch.amp.GradScaler(device, enabled=learning.precision == "fp16")

    def _opponents(self) -> list[_Player]:
        """Whoever learns from :data:`LOSS`, and each rival."""
        learning, rivals = self.learning, rivals_of(self.objective)
        by_rival: dict[Rival, dict[str, nn.Parameter]] = {}
        for key, parameter in self._weights.items():
            by_rival.setdefault(rivals.get(key.partition(".")[0], Rival(LOSS)), {})[key] = parameter
        how: dict[str, Any] = {"lr": learning.rate, "betas": learning.betas, "weight_decay": learning.weight_decay}
        return [
            _Player(rival.scalar, rival.pace, weights, torch.optim.AdamW(weights.values(), foreach=True, **how))
            for rival, weights in by_rival.items()
        ]

    @property
    def parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.numel() for parameter in self._weights.values())

    @property
    def published(self) -> int:
        """How many of them are published."""
        return sum(tensor.numel() for tensor in self.mean_weights().values())

    def learn(self, batch: Batch, draws: Draws, step: int) -> Mapping[str, float]:
        """Learn from a batch; returns the scalars of its loss, and ``gradient``, the length of all gradients.

        From a loss or a gradient that is no number nothing is learned. In fp16 gradients may be too large for that
        once in a while, which the scaler heeds: they then count as 0.
        """
        learning = self.learning
        for player in self._players:
            for group in player.optimizer.param_groups:
                group["lr"] = learning.rate_at(step) * player.pace
        batch = replace(batch, x_BCHW=batch.x_BCHW.contiguous(memory_format=self._layout))
        with self._autocast():
            scalars = self.objective.loss(batch, draws, step)
        values = torch.stack([value.detach().float() for value in scalars.values()])
        self.peers.average([values])
        told = dict(zip(scalars, values.tolist(), strict=True))
        # A rival that is told nothing yet learns nothing yet.
        players = [player for player in self._players if player.scalar in scalars]
        if not all(math.isfinite(told[player.scalar]) for player in players):
            return told | {GRADIENT: math.nan}
        self._differentiate(players, scalars)
        length = math.hypot(*(self._shortened(player) for player in players))
        if not math.isfinite(length):
            if not self._scaler.is_enabled():
                return told | {GRADIENT: length}
            length = 0.0
        for player in players:
            self._scaler.step(player.optimizer)
        self._scaler.update()
        if isinstance(self.objective, Contest):
            self.objective.learned(told, len(batch.x_BCHW) * self.peers.count)
        keep = min(learning.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._mean.values()), list(self._weights.values()), 1 - keep)
        return told | {GRADIENT: length}

    def _differentiate(self, players: Sequence[_Player], scalars: Mapping[str, Tensor]) -> None:
        """Every player's gradients, each of its own scalar alone; those of all peers."""
        for player in players:
            player.optimizer.zero_grad(set_to_none=True)
        for player in players:
            # What one network made of another's work is the same for both of their losses.
            again, weights = player is not players[-1], list(player.weights.values())
            scaled = self._scaler.scale(scalars[player.scalar])
            scaled.backward(retain_graph=again, inputs=weights)  # type: ignore[no-untyped-call]  # torch leaves it out
        self.peers.average([weight.grad for weight in self._weights.values() if weight.grad is not None])

    def _shortened(self, player: _Player) -> float:
        """The length of a player's gradients, before they were shortened."""
        self._scaler.unscale_(player.optimizer)
        return float(nn.utils.clip_grad_norm_(player.weights.values(), self.learning.clip))

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the networks have their mean weights, and nothing is learned."""
        return _Averaged(self)

    @property
    def _names(self) -> Mapping[str, str]:
        """The names under which weights are published: the networks' own where there is one, else after its name."""
        rivals = rivals_of(self.objective)
        own = [key for key in self._weights if key.partition(".")[0] not in rivals]
        alone = len(self.objective.networks) == 1 + len(rivals)
        return {key.partition(".")[2] if alone else key: key for key in own}

    def begin_with(self, weights: Tensors, *, file: str) -> None:
        """Begin with published weights, exactly those that this learner would publish itself."""
        expected = shapes_of({name: self._weights[key] for name, key in self._names.items()})
        if wrong := mismatch(expected, shapes_of(weights)):
            raise InputError(f"{file} holds another network than the one to be trained: {wrong}")
        with torch.no_grad():
            for name, key in self._names.items():
                self._weights[key].copy_(weights[name])
                self._mean[key].copy_(weights[name])

    def mean_weights(self) -> Tensors:
        """The running mean of what is published, by its names."""
        return {name: self._mean[key] for name, key in self._names.items()}

    def saved(self) -> dict[str, Tensors]:
        """All that goes on, by what it is for."""
        moments: Tensors = {}
        for player in self._players:
            for key, parameter in player.weights.items():
                for name, value in player.optimizer.state[parameter].items():
                    moments[f"{key}.{name}"] = value
        scale = {name: torch.tensor(float(value)) for name, value in self._scaler.state_dict().items()}
        weights = {key: parameter.detach() for key, parameter in self._weights.items()}
        memory = {"memory": dict(self.objective.memory)} if isinstance(self.objective, Contest) else {}
        return {"weights": weights, "mean": dict(self._mean), "optimizer": moments | scale, **memory}

    def restore(self, saved: Mapping[str, Tensors]) -> None:
        """Go on from what :meth:`saved` gave to a learner of the same networks."""
        if wrong := mismatch(shapes_of(self._weights), shapes_of(saved["weights"])):
            raise InputError(
                f"the output's checkpoint holds other networks than are trained now: {wrong}: choose another output"
            )
        with torch.no_grad():
            for player in self._players:
                for key, parameter in player.weights.items():
                    parameter.copy_(saved["weights"][key])
                    self._mean[key].copy_(saved["mean"][key])
                    prefix = f"{key}."
                    if f"{prefix}step" not in saved["optimizer"]:
                        continue
                    moments = {
                        name: torch.empty_like(parameter).copy_(saved["optimizer"][prefix + name])
                        for name in ("exp_avg", "exp_avg_sq")
                    }
                    player.optimizer.state[parameter] = {"step": saved["optimizer"][f"{prefix}step"], **moments}
        if isinstance(self.objective, Contest):
            for name, kept in self.objective.memory.items():
                kept.copy_(saved["memory"][name])
        if self._scaler.is_enabled():
            state = self._scaler.state_dict()
            self._scaler.load_state_dict({name: type(value)(saved["optimizer"][name]) for name, value in state.items()})

    @property
    def _layout(self) -> torch.memory_format:
        return torch.contiguous_format if self.learning.precision == "fp32" else torch.channels_last

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = _AUTOCAST.get(self.learning.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device, dtype=dtype)

    def swap(self) -> None:
        """Give the networks the mean's tensors and the mean the networks'."""
        for key, parameter in self._weights.items():
            parameter.data, self._mean[key] = self._mean[key], parameter.data


class _Averaged(AbstractContextManager[None]):
    """Swaps a learner's weights and their mean, and back."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._quiet = torch.no_grad()

    def __enter__(self) -> None:
        self._learner.swap()
        self._quiet.__enter__()

    def __exit__(self, *_: object) -> None:
        self._quiet.__exit__(None, None, None)
        self._learner.swap()


def _recompute_stages(network: nn.Module) -> None:
    """Let stages keep their input alone."""
    for stage in network.modules():
        if isinstance(stage, Stage):
            vars(stage)["forward"] = partial(checkpoint, partial(type(stage).forward, stage), use_reentrant=False)
