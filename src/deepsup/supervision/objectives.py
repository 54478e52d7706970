"""From outputs and target to one loss, with every part and weight labelled by name.

>>> objective = ds.Objective(plan)
>>> terms = objective(net(x), y, progress=step / total)
>>> terms.total.backward()
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deepsup import losses, schedules
from deepsup.errors import BranchNameError, ConfigError, HeadError, OutputError
from deepsup.features import WHOLE, main_prediction, tensors_in
from deepsup.losses.full_size import alike
from deepsup.losses.labels import free_to_look
from deepsup.plans.plan import Plan
from deepsup.predictions import Prediction
from deepsup.supervision.attaching import Outputs
from deepsup.supervision.first_batch_checks import check_crops, check_targets, uncounted, warn_of_lost
from deepsup.supervision.idle_branches import aside, is_absent
from deepsup.supervision.loss_terms import Terms
from deepsup.supervision.planned_terms import axis_without_plan, check_known, edges_of, name_mismatch, predictions_of
from deepsup.supervision.targets import Targets, read
from deepsup.terms import ENSEMBLE, GATE, PREVIOUS, TARGET, Edge

_FIXED = (schedules.constant, schedules.adaptive)


class Objective:
    """The weighted sum of the main loss, every branch's, and the terms between outputs. Prints as its formula.

    `loss` replaces the main output's loss, and that of the branches that have the same one by the plan; `plan=None` is the
    plain model, of which `classes_axis` (1 or -1) says where its channels are where the first target does not tell.

    Some methods remember: `previous` scores (DLB), running means of losses (`adaptive` weights), and how many steps
    there were (the random dropping of DHM). That state goes forward in calls with gradients on, and `state_dict` has it.
    """

    def __init__(
        self, plan: Plan | None = None, *, loss: str | losses.Loss | None = None, classes_axis: int | None = None
    ) -> None:
        self.plan, self._said_axis = plan, axis_without_plan(plan, classes_axis)
        main = loss if loss is not None else plan.main_loss if plan else "cross_entropy"
        self._main_weight = plan.main_weight if plan else 1.0
        weight = schedules.constant(self._main_weight)
        self.edges = (Edge("main", loss=main, weight=weight), *edges_of(plan, main))
        self.predictions = predictions_of(plan, main, said=loss is not None)
        known = {"main", ENSEMBLE, PREVIOUS, TARGET, *(plan.outputs if plan else ())}
        for edge in self.edges:
            losses.check(edge.loss)  # texts are read here, not inside a compiled step
            check_known(edge, known)
        # Found once, and not in every step; a compiled graph does not know our own functions again.
        self._asks = {edge.name: losses.asks(edge.loss) for edge in self.edges}
        self._first_axis = {edge.name: losses.is_given_first_axis(edge.loss) for edge in self.edges}
        self._of_crops = {edge.name for edge in self.edges if losses.describe(edge.loss).views != 1}
        self.memory: dict[str, Tensor] = {}
        self.restarted = False  # the last batch repeated nothing
        self.uncounted: frozenset[str] | None = (
            None  # terms none of whose labels has counted yet; None before the first batch
        )
        self._length = 0
        self.calls = 0
        # Only where it matters: a number that changes with each call would make a compiled objective compile again.
        self._counts = bool(plan and (plan.dynamic or plan.overlap))
        self.class_names: tuple[str, ...] = ()  # for messages
        self._labels_checked = self._loss_of_classes_checked = False
        self._crops_checked = self._settled = False

    def __call__(self, outputs: Any, target: Any, *, progress: float | None = None) -> Terms:
        """`outputs` is what the supervised or plain model returned; `progress` the share of training done, in [0, 1].

        `progress` may be left out where every weight is constant.

        A term of weight 0 is not in the sum, whatever its value: the head gets a gradient of zeros (DistributedDataParallel
        needs one), and the trunk none. Raises `BranchNameError` when outputs and plan name different branches, `HeadError`
        or `ClassCountError` when the target does not fit, `OutputError` for a plain output where branches should have been
        trained.
        """
        progress = self._checked(progress)
        given = self._predictions(outputs)
        skipped = [t for t in given.values() if isinstance(t, Tensor) and is_absent(t)]
        as_given = self.targets(target, as_given=True)
        targets = self.settle(given, target)
        found = self.complete(self.first(given))
        training = torch.is_grad_enabled() and any(_has_graph(output) for output in found.values())
        self._check_target(found, targets)
        found |= self._recalled(found["main"], targets.main) if training else {}
        edges = [e for e in self.edges if self._applies(e, found, training=training)]
        dropped = self._dropped(edges) if training else frozenset()
        scheduled = {e.name: float(e.weight(progress)) for e in edges}
        idle = [e for e in edges if scheduled[e.name] == 0]
        parts: dict[str, Tensor] = {}
        for edge in edges:
            without = edge in idle or edge.name in dropped
            held = self.held(edge, targets, as_given)
            part = self._part(edge, _without_graph(found) if edge in idle else found, held)
            parts[edge.name] = part.detach() if without else part
        if training and self.uncounted != frozenset() and not torch.compiler.is_compiling():
            self.uncounted = uncounted([e for e in edges if e not in idle], found, targets, self.uncounted)
        weights = self._weights(edges, parts, scheduled, training=training)
        total = parts["main"] if weights["main"] == 1.0 else parts["main"].new_zeros(())
        for edge in edges[weights["main"] == 1.0 :]:
            if edge not in idle:
                total = total + weights[edge.name] * parts[edge.name]
        if training:
            for nothing in skipped:  # zeros for the heads of layers that the model skipped
                total = total + nothing.sum().to(total)
            total = aside(total, found, edges, idle)
        if self._counts and training:
            self.calls += 1
        return Terms(total, parts, weights)

    def _checked(self, progress: float | None) -> float:
        if progress is None:
            if not self.is_constant:
                moving = next(e for e in self.edges if not isinstance(e.weight, _FIXED))
                raise ConfigError(
                    f"the weight of '{moving.name}' changes over training ({moving.weight!r}): pass progress=, the "
                    "share of training that is done, for example step / steps."
                )
            return 0.0
        if isinstance(progress, (bool, str, list)) or not 0 <= progress <= 1:
            raise ConfigError(f"progress is the share of training that is done, in [0, 1]; found {progress!r}.")
        return progress

    @property
    def is_constant(self) -> bool:
        """Whether no weight depends on progress."""
        return all(isinstance(e.weight, _FIXED) for e in self.edges)

    def complete(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name, with the one that edges ask for and no model returns: the ensemble."""
        if len(found) == 1 or not any(ENSEMBLE in (e.source, e.target) for e in self.edges):
            return found
        assert self.plan is not None  # without a plan there are no branches
        predicting = [b.name for b in self.plan.branches if b.predicts]
        gated = any(b.name == GATE for b in self.plan.branches)
        if gated and not {GATE, *predicting} <= found.keys():  # it weighs all of them or none
            return found
        members = [found["main"], *(found[name] for name in predicting if name in found)]
        return {**found, ENSEMBLE: _mixed(alike(members, self.edges[0].loss), found.get(GATE))}

    def _predictions(self, outputs: Any) -> dict[str, Tensor]:
        pick = self.plan.main if self.plan else ()
        names = self.plan.outputs if self.plan else ()
        if not isinstance(outputs, Outputs):
            main = main_prediction(outputs, pick)
            if names and _has_graph(main):
                raise OutputError(
                    f"the plan has branches ({', '.join(names)}), but the output is the plain model's: it was run in eval "
                    "mode or is not attached. Call net.train() to train; in eval mode `with deepsup.supervising(net):` runs the "
                    "branches too, and torch.no_grad() scores the main output alone."
                )
            return {"main": main}
        if set(outputs.aux) != set(names):
            raise BranchNameError(name_mismatch(outputs.aux, names))
        return {"main": main_prediction(outputs.main, pick), **outputs.aux}

    def scores(self, outputs: Any) -> dict[str, Tensor]:
        """What every output says, by name, as losses read it: classes, labels or values on axis 1, (N, C, *places)."""
        return self.complete(self.first(self._predictions(outputs)))

    def kind(self, output: str) -> str:
        """What an output is, see `predictions.KINDS`; the ensemble and such are what main is."""
        known = self.predictions.get(output) or self.predictions.get("main")
        return known.kind if known else "class"

    def targets(self, target: Any, *, as_given: bool = False) -> Targets:
        """What every output is held against, its channels on axis 1 unless `as_given`; see `targets.read`."""
        found = read(target, ("main", *(self.plan.names if self.plan else ())))
        main = self.predictions.get("main")
        return found if as_given or main is None else found.mapped(main.first_target)

    def option(self, name: str, default: Any) -> Any:
        """The value that an option has in the main output's loss."""
        return losses.option(self.edges[0].loss, name, default)

    def first(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs with their channels on axis 1, those of skipped layers left out.

        Raises `OutputError` for one of another shape than planned.
        """
        known = self.predictions
        return {
            name: known[name].first(output) if name in known and isinstance(output, Tensor) else output
            for name, output in given.items()
            if not (isinstance(output, Tensor) and is_absent(output))
        }

    def settle(self, given: Mapping[str, Tensor], target: Any) -> Targets:
        """The targets, once the plan's word on the main output has been held against the first batch; without a plan, that
        says what it is. `given` are the outputs by name as the model has them. Raises `OutputError` for labels that fit another
        axis alone.
        """
        if not self._settled and not torch.compiler.is_compiling():
            if isinstance(given["main"], Tensor):
                self._find(given["main"], self.targets(target, as_given=True))
            self._settled = True  # not before: what was refused once is refused again
        return self.targets(target)

    def _find(self, main: Tensor, targets: Targets) -> None:
        loss = self.edges[0].loss
        if "main" in self.predictions:
            if losses.reads_first_axis(loss):
                losses.check_axis(self.predictions["main"], main, targets.main)
        elif main.ndim > 1 and (self.plan is None or self.plan.main != WHOLE):
            kinds = losses.describe(loss).kinds
            kind, places, axis = kinds[0] if kinds else "class", main.ndim - 2, self._said_axis
            if axis is None:
                axis = losses.guessed_axis(main, targets.main, kind) if losses.reads_first_axis(loss) else 1
            self.predictions["main"] = Prediction(kind, axis, main.shape[axis], places, "the first batch")

    def _check_target(self, found: Mapping[str, Tensor], targets: Targets) -> None:
        """Once, because looking at labels makes the device wait."""
        target = targets.main
        if not self._labels_checked and not torch.compiler.is_compiling():
            check_targets(self.edges, found, targets)
            self._labels_checked = True
        if torch.compiler.is_compiling() or not isinstance(target, Tensor) or not isinstance(found["main"], Tensor):
            return
        if not self._loss_of_classes_checked:
            self._loss_of_classes_checked = True
            warn_of_lost(self.edges, found, target, self.class_names)
        plan = self.plan
        pairs = plan is not None and plan.views == 2 and torch.is_grad_enabled()
        if plan is not None and pairs and not self._crops_checked:
            check_crops(target, plan.method)
            self._crops_checked = True

    def _part(self, edge: Edge, found: Mapping[str, Tensor], targets: Targets) -> Tensor:
        prediction = found[edge.source]
        goals: Sequence[tuple[Any, Any]] = targets.of(edge.source)
        if edge.target != TARGET:
            goal = found[edge.target].detach() if edge.detach else found[edge.target]
            goals = ((goal, None),)
            if edge.target == PREVIOUS:
                prediction = prediction[: len(goal)]
                if not len(goal):  # the first batch of all
                    return prediction.new_zeros(())
        prediction, asked = self.given(edge, prediction, targets)
        loss = losses.get(edge.loss)
        values = [(loss(prediction, goal, **asked), share) for goal, share in goals]
        value = values[0][0] if values[0][1] is None else sum(share * one for one, share in values)
        if value.ndim:
            raise HeadError(
                f"the loss of '{edge.source}' ({losses.show(edge.loss)}) returned a tensor of shape {tuple(value.shape)}; it "
                "must return one number. Average over the batch."
            )
        if edge.bracket is not None:
            value = losses.gated(value, edge.bracket.norm * found[f"{edge.source}/norm"], edge.bracket.gamma)
        return value

    def held(self, edge: Edge, targets: Targets, as_given: Targets) -> Targets:
        """The targets, channels on axis 1 or `as_given`, as the loss of a term is given them."""
        first, main = self._first_axis[edge.name], self.predictions.get("main")
        if first or main is None or not losses.reads_first_axis(edge.loss):
            return targets if first else as_given
        return targets.mapped(lambda y: main.back(y) if isinstance(y, Tensor) else y)

    def given(self, edge: Edge, prediction: Any, targets: Targets) -> tuple[Any, dict[str, Any]]:
        """An output (N, C, *places) as the loss of a term is given it, the user's as the model has it, and what it asks for."""
        own = not self._first_axis[edge.name] and "main" in self.predictions
        if own and isinstance(prediction, Tensor):  # the user's knows its model and data
            prediction = self.predictions["main"].back(prediction)
        context = {"kind": self.kind(edge.source), "name": edge.source, "mask": targets.mask, "batch": targets.batch}
        return prediction, {key: context[key] for key in self._asks[edge.name]}

    def _applies(self, edge: Edge, found: Mapping[str, Tensor], *, training: bool) -> bool:
        """Plain outputs have no branches, and scoring has no second crop and no batch before."""
        if edge.source not in found or (edge.target != TARGET and edge.target not in found):
            return False
        return training or edge.name not in self._of_crops

    def _recalled(self, main: Tensor, target: Any) -> dict[str, Tensor]:
        """`previous`: what `main` said one batch ago of the samples that this batch begins with."""
        if not any(PREVIOUS in (e.source, e.target) for e in self.edges):
            return {}
        if not isinstance(target, Tensor):
            raise ConfigError(
                "repeated samples are told by their labels in this method, and this target is a "
                f"{type(target).__name__}. Give a tensor of labels."
            )
        before = self.memory.get(PREVIOUS)
        repeated = self.repeated(target)
        self._length = len(target)
        if before is not None and not repeated:
            if self.restarted:  # twice running: not an epoch that begins anew, but batches that never overlap
                raise ConfigError(
                    "this method learns from the batch before, so each batch must begin with the new samples of the last "
                    "one; these do not. Set data.overlap=true, or wrap your batches: "
                    "deepsup.evaluation.loaders.overlapping(batches)."
                )
            before = None
        self.restarted = before is None
        rows = repeated
        self.memory = {**self.memory, PREVIOUS: main[rows:].detach().clone(), "labels": target[rows:]}
        return {PREVIOUS: main[:0] if before is None else before.to(main.device)}

    def repeated(self, target: Any) -> int:
        """How many samples a batch begins with that were new in the last one; 0 where it does not.

        On a GPU labels are looked at, which makes it wait, only where the length of batches changes, as it does where a
        loader begins anew.
        """
        before = self.memory.get("labels")
        if before is None or not isinstance(target, Tensor) or len(target) <= len(before):
            return 0
        usual = self._length == len(target)
        trusted = usual and self.calls > 3 and not free_to_look(target)
        return len(before) if trusted or torch.equal(before.to(target.device), target[: len(before)]) else 0

    def _dropped(self, edges: list[Edge]) -> frozenset[str]:
        """A random part of the terms between outputs, as many as chance says: the "dynamic" of DHM."""
        if self.plan is None or not self.plan.dynamic:
            return frozenset()
        names = [e.name for e in edges if e.target != TARGET]
        draw = random.Random(f"{torch.initial_seed()} {self.calls}")
        return frozenset(draw.choices(names, k=int(draw.random() * len(names)))) if names else frozenset()

    def _weights(
        self, edges: list[Edge], parts: dict[str, Tensor], scheduled: Mapping[str, float], *, training: bool
    ) -> dict[str, float | Tensor]:
        followed = {
            _mean_of(e, name): (name, e.weight.decay)
            for e in edges
            if isinstance(e.weight, schedules.adaptive)
            for name in ("main", e.name)
        }
        if training and followed:
            means = {k: _mean(self.memory.get(k), parts[name], decay) for k, (name, decay) in followed.items()}
            self.memory = {**self.memory, **means}
        weights: dict[str, float | Tensor] = {}
        for e in edges:
            if _mean_of(e, e.name) in self.memory:
                ratio = self.memory[_mean_of(e, "main")] / self.memory[_mean_of(e, e.name)]
                weights[e.name] = ratio.to(parts["main"])
            else:
                weights[e.name] = scheduled[e.name]
        return weights

    def state_dict(self) -> dict[str, Any]:
        """What a method remembers from step to step; empty for most."""
        return {"calls": self.calls, "restarted": self.restarted, "memory": dict(self.memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.calls, self.memory = int(state["calls"]), dict(state["memory"])
        self.restarted = bool(state.get("restarted", False))

    def __repr__(self) -> str:
        first = self.edges[0]
        terms = [str(first) if self._main_weight == 1 else f"{self._main_weight:.4g} * {first}"]
        for e in self.edges[1:]:
            weight = f"{e.weight.value:g}" if isinstance(e.weight, schedules.constant) else repr(e.weight)
            terms.append(f"{weight} * {e}")
        formula = "total = " + " + ".join(terms)
        if self.plan is not None and self.plan.dynamic:
            formula += "; each step drops a random part of the terms between outputs"
        return formula


def _mean_of(edge: Edge, name: str) -> str:
    """Under which key an objective remembers the running mean that an adaptive weight follows."""
    return f"mean/{edge.weight.decay}/{name}" if isinstance(edge.weight, schedules.adaptive) else ""


def _mean(before: Tensor | None, part: Tensor, decay: float) -> Tensor:
    """The running mean with this step's loss; one that is not finite leaves it as it was."""
    now = part.detach().float()
    old = now if before is None else before.to(now.device)
    mean = (decay * old + (1 - decay) * now).clamp_min(1e-6)
    return torch.where(now.isfinite(), mean, torch.ones_like(now) if before is None else old)


def _mixed(members: list[Tensor], gate: Tensor | None) -> Tensor:
    """The mean of the members' scores (N, C, ...), or their sum weighted sample by sample by `gate`, (N, members)."""
    scores = torch.stack(members, dim=1)
    if gate is None:
        return scores.mean(1)
    return (gate.to(scores.dtype).reshape(*gate.shape, *[1] * (scores.ndim - 2)) * scores).sum(1)


def _without_graph(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: output.detach() if isinstance(output, Tensor) else output for name, output in found.items()}


def _has_graph(output: Any) -> bool:
    return any(tensor.requires_grad for tensor in tensors_in(output).values())
