"""MONAI's trainers, and every other engine of ignite, with branches: a criterion, and a handler for progress and parts.

>>> branches = DeepSupervision(ds.attach(model, plan))
>>> SupervisedTrainer(network=branches.net, loss_function=branches.criterion, train_handlers=[branches], ...).run()
>>> engine = ignite.engine.create_supervised_trainer(branches.net, optimizer, branches.criterion)
>>> branches.attach(engine)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from deepsup.errors import ConfigError
from deepsup.layers.wrappers import bare
from deepsup.specs import require
from deepsup.supervision.attaching import Outputs, Supervised
from deepsup.supervision.criterion import Criterion


class DeepSupervision:
    """A handler for a net that `deepsup.attach` returned.

    - `criterion` is the loss function, `Criterion(net.plan)` with the engine's progress unless given; in evaluation, where the
      net returns what the plain model returns, main's loss. Sliding windows run over the net in eval mode as over any model.
    - The engine's `output["pred"]` is main's prediction alone, once the loss has been taken: what postprocessing, metrics and
      image loggers expect.
    - At the end of an epoch `engine.state.metrics` has the mean of every term, unweighted, as `loss/NAME`.

    Raises `ConfigError` for a model without branches.
    """

    def __init__(self, net: nn.Module, *, criterion: Criterion | None = None) -> None:
        found = bare(net) if isinstance(net, nn.Module) else net
        if not isinstance(found, Supervised):
            raise ConfigError(f"DeepSupervision trains what attach returned; found {type(net).__name__}.")
        self.net = found
        self.criterion = criterion or Criterion(found.plan, progress=self._progress)
        self._engine: Any = None
        self._parts: dict[str, Tensor] = {}
        self._batches = 0

    def _progress(self) -> float:
        if self._engine is None:
            return 0.0
        state = self._engine.state
        done: float = (state.iteration - 1) / max(1, (state.max_epochs or 1) * (state.epoch_length or 1))
        return min(1.0, done)

    def attach(self, engine: Any) -> None:
        """Add the handlers to a trainer; MONAI calls this itself for its `train_handlers`."""
        events = require("ignite.engine", purpose="this handler", install="deepsup[monai]").Events
        self._engine = engine
        engine.add_event_handler(events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(events.EPOCH_COMPLETED, self._tell)
        engine.add_event_handler(events.STARTED, self._start)

    def _start(self, engine: Any) -> None:
        if hasattr(engine, "loss_function"):  # MONAI's, which has it after its handlers
            lost = require("monai.engines.utils", purpose="this handler", install="deepsup[monai]").IterationEvents
            if not engine.has_event_handler(_main_alone, lost.LOSS_COMPLETED):
                engine.add_event_handler(lost.LOSS_COMPLETED, _main_alone)

    def _begin(self, engine: Any) -> None:
        self._parts, self._batches = {}, 0

    def _count(self, engine: Any) -> None:
        if self.criterion.terms is not None:
            for name, part in self.criterion.terms.parts.items():
                self._parts[name] = self._parts[name] + part if name in self._parts else part
            self._batches += 1

    def _tell(self, engine: Any) -> None:
        for name, part in self._parts.items():
            engine.state.metrics[f"loss/{name}"] = float(part) / self._batches


def _main_alone(engine: Any) -> None:
    said = engine.state.output["pred"]
    if isinstance(said, Outputs):
        engine.state.output["pred"] = said.main
