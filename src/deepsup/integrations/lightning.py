"""Lightning, with branches: a callback that has the criterion, its progress, its parts, and keeps the plain model's weights.

>>> branches = DeepSupervision(ds.attach(model, plan))
>>> class Module(lightning.LightningModule):              # with self.net = branches.net
...     def training_step(self, batch, _): return branches.criterion(self.net(batch[0]), batch[1])
>>> lightning.Trainer(callbacks=[branches]).fit(Module(), loader)
"""

from __future__ import annotations

from typing import Any

from torch import nn

from deepsup.errors import ConfigError
from deepsup.layers.wrappers import bare
from deepsup.specs import require
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.criterion import Criterion

_MODEL, _HEADS, _STATE = "model.", "heads.", "_extra_state"


class DeepSupervision:
    """A `lightning.pytorch.Callback` for a net that `deepsup.attach` returned, which is a module of the LightningModule.

    - `criterion` is the loss for `training_step`, `Criterion(net.plan)` with the trainer's progress unless given. In
      `validation_step` it is main's loss, of what the plain model returns.
    - Every term of a training step is logged, unweighted, as `train/NAME`.
    - Checkpoints hold the weights under the names that they have in the module with the plain model in the net's place: it
      loads them, without deepsup. Heads and the rest are in the callback's state, so that `fit(ckpt_path=...)` goes on exactly.
      (`save_weights_only` leaves the heads out.)

    Raises `ConfigError` for a model without branches, and for a module that the net is not in.
    """

    def __new__(cls, *args: Any, **options: Any) -> Any:
        callback = require("lightning.pytorch", purpose="this callback", install="deepsup[lightning]").Callback
        return object.__new__(cls if issubclass(cls, callback) else type(cls.__name__, (cls, callback), {}))

    def __init__(self, net: nn.Module, *, criterion: Criterion | None = None) -> None:
        found = bare(net) if isinstance(net, nn.Module) else net
        if not isinstance(found, Supervised):
            raise ConfigError(f"DeepSupervision trains what attach returned; found {type(net).__name__}.")
        self.net = found
        self.criterion = criterion or Criterion(found.plan, progress=self._progress)
        self._trainer: Any = None
        self._hooks: list[Any] = []

    def _progress(self) -> float:
        trainer = self._trainer
        return 0.0 if trainer is None else min(1.0, trainer.global_step / max(1, trainer.estimated_stepping_batches))

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Name the weights as the plain module would, in what is saved and read from now on."""
        if all(module is not self.net for module in pl_module.modules()):
            raise ConfigError(
                f"{type(pl_module).__name__} does not hold the net of this callback. Assign it, self.net = callback.net, where "
                "the model was."
            )
        self._trainer = trainer
        if not self._hooks:
            for module, before, after in ((self.net, _supervised_names, _plain_names), (self.criterion, _put, _take)):
                own: Any = module
                self._hooks += [own.register_load_state_dict_pre_hook(before), own.register_state_dict_post_hook(after)]

    def teardown(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Leave the net's state dict as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._trainer = [], None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Log the terms."""
        if self.criterion.terms is not None:
            pl_module.log_dict({f"train/{name}": part for name, part in self.criterion.terms.parts.items()})

    def state_dict(self) -> dict[str, Any]:
        """The heads, how far their random stream is, and what the criterion remembers."""
        return {
            "heads": self.net.heads.state_dict(),
            "calls": self.net.calls,
            "criterion": self.criterion.get_extra_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.net.heads.load_state_dict(state_dict["heads"])
        self.net.calls = int(state_dict["calls"])
        self.criterion.set_extra_state(state_dict["criterion"])


def _plain_names(net: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """`net.model.conv1.weight` becomes `net.conv1.weight`; heads are not there."""
    for key in [key for key in state if key.startswith(prefix)]:
        own, value = key.removeprefix(prefix), state.pop(key)
        if own.startswith(_MODEL):
            state[prefix + own.removeprefix(_MODEL)] = value


def _supervised_names(net: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The other way round, with the heads as they are."""
    own = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
    state |= {f"{prefix}{_MODEL}{key}": value for key, value in own.items()}
    heads = net.heads.state_dict()
    state |= {f"{prefix}{_HEADS}{key}": value for key, value in heads.items()}
    state[prefix + _STATE] = net.get_extra_state()


def _take(criterion: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    state.pop(prefix + _STATE, None)


def _put(criterion: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state[prefix + _STATE] = criterion.get_extra_state()
