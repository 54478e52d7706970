"""Use branches after training: stop at one of them, or let all outputs vote.

>>> fast = ds.early_exit(net, "layer2").eval()
>>> fast(x)                                       # the scores of branch layer2; what lies behind layer2 does not run
>>> ds.ensemble(net).eval()(x)                    # the mean of the probabilities of main and every branch
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepsup import losses
from deepsup.errors import AttachError, BranchNameError, HeadError, TapError
from deepsup.features import main_prediction, picked, split_call
from deepsup.layers.taps import Reached, taps_on
from deepsup.losses.full_size import alike
from deepsup.plans.plan import Branch
from deepsup.supervision import cut_parts
from deepsup.supervision.attaching import Outputs, Supervised, input_of, supervising, unwrap
from deepsup.supervision.idle_branches import is_absent
from deepsup.supervision.masks import mask_in
from deepsup.supervision.stripping import sample_for
from deepsup.terms import INPUT


class EarlyExit(nn.Module):
    """The trunk up to the layer of one branch, and its head. Made by `early_exit`; holds the net, changes nothing on it."""

    def __init__(self, net: Supervised, branch: Branch) -> None:
        super().__init__()
        self.net = net
        self.branch = branch
        self.training = net.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The scores, exactly those that the whole net gives for the branch, their classes where the model has them."""
        _check_scoring(self.net, "an early exit")
        mask = mask_in(self.net.mask_argument, args, kwargs)
        found = self.net.predict(self.branch, activation_of(self.net, self.branch, args, kwargs), mask)
        scores: Tensor = found["scores"] if isinstance(found, dict) else found
        own, main = self.branch.prediction, self.net.plan.prediction
        return main.back(own.first(scores)) if own is not None and main is not None else scores

    def extra_repr(self) -> str:
        """Which branch it is."""
        return f"branch={self.branch.name!r}, layer={self.branch.layer!r}"


class Ensemble(nn.Module):
    """All outputs that predict classes as one. Made by `ensemble`; holds the net, changes nothing on it."""

    def __init__(self, net: Supervised) -> None:
        super().__init__()
        self.net = net
        self.training = net.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Probabilities `(N, classes)`: the mean of those of the main output and of every branch that predicts."""
        _check_scoring(self.net, "an ensemble")
        with supervising(self.net):
            outputs = self.net(*args, **kwargs)
        assert isinstance(outputs, Outputs)
        plan = self.net.plan
        given = {"main": main_prediction(outputs.main, plan.main), **outputs.aux}
        voting = [b for b in plan.branches if b.predicts and not is_absent(outputs.aux[b.name])]
        known = {"main": plan.prediction, **{b.name: b.prediction for b in voting}}
        members = [p.first(given[name]) if p else given[name] for name, p in known.items()]
        mean = average(members, [p.kind if p else "class" for p in known.values()], loss=plan.main_loss)
        return plan.prediction.back(mean) if plan.prediction else mean


def early_exit(net: nn.Module, branch: str, *, cut: bool = False, sample: Any = None) -> nn.Module:
    """A module that runs the trunk only up to a branch's layer, then its head: less arithmetic for a less sure answer.

    Works on a stripped net, too, as its heads stay. In eval mode only. With `cut` it is a module of its own with copies of only
    those weights that it needs, and no Python of the model, which `torch.export`, ONNX and `torch.jit.trace` take; `sample` is an
    input to follow, one of the planned shape if not given (`cut_parts.cut`).
    Raises `AttachError` for a model that was never supervised, `BranchNameError` for a branch that is not there, `HeadError` for
    one that does not predict classes, and `ExportError` where nothing can be cut.
    """
    target = unwrap(net)
    predicting = [b for b in target.plan.branches if b.predicts]
    found = next((b for b in target.plan.branches if b.name == branch), None)
    listed = ", ".join(b.name for b in predicting) or "none"
    if found is None:
        raise BranchNameError(f"no branch is called {branch!r}, so there is no exit. Branches that predict: {listed}.")
    if not found.predicts:
        raise HeadError(
            f"the head of branch '{branch}' gives no class scores, so it is no exit. Branches that predict: {listed}."
        )
    made = EarlyExit(target, found)
    return cut_parts.cut(made, sample_for(target, sample)) if cut else made


def ensemble(net: nn.Module) -> Ensemble:
    """A module that gives the mean of the probabilities of the main output and of every branch that predicts classes.

    It costs what training's forward costs. In eval mode only, and before stripping. Raises `AttachError` for a model that
    was never supervised, `HeadError` where no branch predicts classes.
    """
    target = unwrap(net)
    if not any(b.predicts for b in target.plan.branches):
        raise HeadError(f"no branch of this {target.plan.model} predicts classes, so there is nothing to average with.")
    return Ensemble(target)


def average(
    scores: Iterable[Tensor], kinds: Sequence[str] | None = None, *, loss: str | losses.Loss = "cross_entropy"
) -> Tensor:
    """The mean over outputs of what they say: probabilities, by softmax or by sigmoid as the kind of each is, or values.

    Scores are `(N, C)`, or maps `(N, C, *places)`, which are brought to the size of the largest as `loss` does it. Raises
    `HeadError` for outputs of which nobody knows what they are.
    """
    found = list(scores)
    each = ["class"] * len(found) if kinds is None else list(kinds)
    if "other" in each:
        raise HeadError(
            "nobody knows what these outputs are, so there is no mean of them: their loss is your own. Say it when planning: "
            "plan(..., task='classification'), 'labels' or 'values'."
        )
    if "values" in each and len(set(each)) > 1:
        raise HeadError("some of these outputs give values and some classes or labels, so there is no mean of them.")
    return torch.stack(losses.votes(alike(found, loss), each)).mean(0)


def activation_of(net: Supervised, branch: Branch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a branch reads, of a forward that ends behind its layer. Raises `TapError` where the forward does not come by it."""
    if branch.layer == INPUT:
        return input_of(args, kwargs)
    if followed() or split_call(branch.layer)[1] < 0:  # nobody knows of a call that it is the last before the end
        return _whole_forward(net, branch, args, kwargs)
    try:
        with _stop_behind(net, branch):
            net.model(*args, **kwargs)
    except Reached as reached:
        return reached.feature
    raise _not_reached(branch)


def _not_reached(branch: Branch) -> TapError:
    return TapError(
        f"the forward did not come by layer '{branch.layer}', so branch '{branch.name}' has nothing to read. "
        "The layer was replaced, or is skipped for this input."
    )


def followed() -> bool:
    """Whether a compiler or exporter follows this forward: nothing may be thrown through it, and what is too much is dropped."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore


def _whole_forward(net: Supervised, branch: Branch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a branch reads, of a forward that goes on to its end."""
    if taps_on(net.model, net.recorder):
        seen = net.activations(args, kwargs)[1]
        if branch.name not in seen:
            raise _not_reached(branch)
        return seen[branch.name]
    kept: list[Tensor] = []
    layer, call = split_call(branch.layer)
    handle = net.model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: kept.append(picked(output, branch.pick).clone())  # before anything writes into it
    )
    try:
        net.model(*args, **kwargs)
    finally:
        handle.remove()
    if len(kept) < max(call, 1):
        raise _not_reached(branch)
    return kept[-1 if call < 0 else max(call, 1) - 1]


@contextmanager
def _stop_behind(net: Supervised, branch: Branch) -> Iterator[None]:
    """Inside, and in this thread, a forward ends with `Reached` at the place of the branch's tap, or where it was."""
    if any(tap.name == branch.name for _, _, tap in taps_on(net.model, net.recorder)):
        net.recorder.stop = branch.name
        try:
            yield
        finally:
            net.recorder.stop = None
            net.recorder.end()
        return
    thread, ran = threading.get_ident(), 0
    layer, call = split_call(branch.layer)

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal ran
        ran += threading.get_ident() == thread
        if threading.get_ident() == thread and ran == max(call, 1):
            raise Reached(picked(output, branch.pick))

    handle = net.model.get_submodule(layer).register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def _check_scoring(net: Supervised, what: str) -> None:
    if net.training or net.model.training:
        raise AttachError(f"{what} is for scoring, and this net is in training mode. Call .eval() first.")
