"""From a loss to new weights: backward, over one batch or several, clipping, the optimiser, the mean of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import AveragedModel

from deepsup.errors import ConfigError
from deepsup.training.job import Job

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Stepper:
    """The steps of one run; `optimizer` and `wrapped` are what Fabric made of the job's.

    Over several batches the gradient is the mean over all their samples: each batch's own mean counts by its samples, so that
    the step is that of one large batch, where nothing but the loss's mean looks at the others of a batch.
    """

    def __init__(self, job: Job, fabric: Fabric, wrapped: Any, optimizer: Any) -> None:
        self._job, self._fabric, self._wrapped, self._optimizer = job, fabric, wrapped, optimizer
        self.settings, self._precision = job.step, fabric.strategy.precision
        self._first, self._weight = 1, 0.0
        for group in job.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.norm: Tensor | None = None
        self.averaged = averaged(job.net, job.step.ema) if job.step.ema is not None else None
        if job.step.accumulate > 1 and fabric.world_size > 1 and job.train.length is None:
            raise ConfigError(
                "step.accumulate in several processes needs to know the last batch of an epoch, and this source has no length. "
                "Give one with __len__, or accumulate=1."
            )

    def set_rate(self, progress: float) -> None:
        """Give every group its rate at this progress."""
        if self._job.schedule is not None:
            factor = self._job.schedule(progress)
            for group in self._job.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    @property
    def net(self) -> nn.Module:
        """What is scored and kept: the mean of the weights where there is one."""
        return self._job.net if self.averaged is None else self.averaged.module

    @property
    def pending(self) -> bool:
        """Whether there are gradients of which no step was made yet."""
        return self._weight > 0

    def collecting(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a batch; processes exchange gradients after the last of a step."""
        if not self.pending:
            self._job.optimizer.zero_grad()
        return nullcontext() if last else self._fabric.no_backward_sync(self._wrapped)

    def backward(self, total: Tensor, samples: int) -> None:
        """Add the gradient of a batch's loss to those that are pending."""
        if not self.pending:
            self._first = max(1, samples)
        share = max(1, samples) / self._first
        self._fabric.backward(total if share == 1 else total * share)
        self._weight += share

    def gather(self) -> None:
        """Make the pending gradients those of a step: in their own scale, and the mean over their batches."""
        self._precision.unscale_gradients(self._job.optimizer)
        if self._weight != 1:
            gradients = [p.grad for p in self._parameters() if p.grad is not None]
            torch._foreach_div_(gradients, self._weight)
        self._weight = 0.0

    def step(self) -> None:
        """Clip them, let the optimiser take its step, and follow the weights."""
        if self.settings.clip_norm is not None:
            self.norm = clip_grad_norm_(list(self._parameters()), self.settings.clip_norm)
        elif self.settings.clip_value is not None:
            clip_grad_value_(list(self._parameters()), self.settings.clip_value)
        self._optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self._job.net)

    def _parameters(self) -> Iterable[nn.Parameter]:
        return chain.from_iterable(group["params"] for group in self._job.optimizer.param_groups)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        mean = None if self.averaged is None else self.averaged.module.state_dict()
        return {"averaged": mean, "scaler": self._precision.state_dict() or None}

    def load(self, *, averaged: dict[str, Any] | None, scaler: dict[str, Any] | None, step: int) -> None:
        """Go on from a checkpoint's state, after `step` steps."""
        if self.averaged is not None and averaged is not None:
            self.averaged.module.load_state_dict(averaged)
            self.averaged.n_averaged.fill_(step)
        if scaler is not None:
            self._precision.load_state_dict(scaler)

    def leave(self) -> None:
        """Put into the net what was scored and is kept."""
        if self.averaged is not None:
            with torch.no_grad():
                mean, net = (chain(m.parameters(), m.buffers()) for m in (self.averaged.module, self._job.net))
                for value, own in zip(mean, net, strict=True):
                    own.copy_(value)


def averaged(net: nn.Module, decay: float) -> AveragedModel:
    """A copy of the net that follows it in every update: `decay * copy + (1 - decay) * net`, the first of which is `net`.

    Buffers are averaged as weights are; counters, which are no floats, are copied.
    """

    @torch.no_grad()
    def follow(mean: Any, now: Any, _: Any) -> None:
        if mean[0].is_floating_point() or mean[0].is_complex():
            torch._foreach_lerp_(mean, now, 1 - decay)
        else:
            torch._foreach_copy_(mean, now)

    return AveragedModel(net, multi_avg_fn=follow, use_buffers=True)
