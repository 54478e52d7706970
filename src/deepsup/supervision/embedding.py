"""The vectors that identities are searched with: what enters the last linear layer of an output, scaled to length 1.

>>> find = ds.embedder(net).eval()
>>> find(x)                                       # (N, D); the classifier does not run
>>> ds.embedder(net, "late")(x)                   # of a branch; what lies behind its layer does not run
>>> ds.embedder(net, "ensemble")(x)               # of main and every branch that scores, side by side
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import AttachError, BranchNameError, ExportError, TapError
from deepsup.features import main_prediction
from deepsup.layers.last_linear import LastLinear, last_linear, reading, two_of
from deepsup.layers.taps import Reached, taps_on
from deepsup.layers.wrappers import bare
from deepsup.plans.plan import Branch
from deepsup.specs import closest
from deepsup.supervision import cut_parts
from deepsup.supervision.attaching import Supervised, supervised_in
from deepsup.supervision.exits import activation_of, followed
from deepsup.supervision.masks import mask_in
from deepsup.supervision.stripping import sample_for
from deepsup.terms import ENSEMBLE, MAIN


class Embeddings(nn.Module):
    """Every embedding of a net from one forward: a dict by output, `main`, the branches that score, and `ensemble`.

    Each is (N, D) in float32, its rows of length 1. A plain model has `main` alone. Works in eval mode, on a stripped
    net, too. Which layers make the scores is found in the first call, on two of its samples, unless `embedding` names them.
    """

    def __init__(self, net: nn.Module, *, embedding: str | Mapping[str, str] | None = None) -> None:
        super().__init__()
        inside = supervised_in(net)
        self.net: nn.Module = bare(net) if inside is None else inside
        self.supervised = inside is not None
        scoring = inside.plan.branches if inside is not None else ()
        self.branches: dict[str, Branch] = {b.name: b for b in scoring if b.predicts}
        self.said = {MAIN: embedding} if isinstance(embedding, str) else dict(embedding or {})
        _check_names(self.said, (MAIN, *self.branches), "embedding=")
        planned = inside.plan.embeddings if inside is not None else ()
        self.found = {e.output: LastLinear(e.layer, e.neck) for e in planned if e.output not in self.said}
        self.training = self.net.training

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it has an embedding of."""
        return (MAIN, *self.branches, *([ENSEMBLE] if self.branches else ()))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """By output, (N, D), rows of length 1."""
        _check_scoring(self.net)
        found = self._together(args, kwargs)
        return {**found, ENSEMBLE: side_by_side(found)} if self.branches else found

    def of(self, output: str, *args: Any, **kwargs: Any) -> Tensor:
        """One output's, (N, D): no more of the net runs than it needs."""
        _check_scoring(self.net)
        if output == ENSEMBLE:
            return self(*args, **kwargs)[ENSEMBLE]  # type: ignore[no-any-return]
        if output == MAIN:
            return _unit(self._stopped(MAIN, self._model, self._scores, (args, kwargs)))
        feature = activation_of(self._net, self.branches[output], args, kwargs)
        return self._of_branch(output, feature, mask_in(self._net.mask_argument, args, kwargs))

    @property
    def _net(self) -> Supervised:
        assert isinstance(self.net, Supervised)
        return self.net

    @property
    def _model(self) -> nn.Module:
        return self._net.model if self.supervised else self.net

    def _together(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """All of them from one forward of the model; of a stripped net, which has no taps, from one each."""
        if not self.branches:
            return {MAIN: self.of(MAIN, *args, **kwargs)}
        if not taps_on(self._model, self._net.recorder):
            return {name: self.of(name, *args, **kwargs) for name in (MAIN, *self.branches)}
        kept: list[Tensor] = []
        layer = self._last_linear(MAIN, self._model, self._scores, (args, kwargs)).layer
        with reading(self._model, layer, _here(kept.append)):
            seen = self._net.activations(args, kwargs)[1]
        found = {MAIN: _unit(kept[-1])}
        mask = mask_in(self._net.mask_argument, args, kwargs)
        for name, branch in self.branches.items():
            if name in seen or not branch.optional:
                found[name] = self._of_branch(name, seen[name], mask)
        return found

    def _scores(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        pick = self._net.plan.main if self.supervised else ()
        return main_prediction(self._model(*args, **kwargs), pick)  # type: ignore[no-any-return]

    def _of_branch(self, name: str, feature: Tensor, mask: Tensor | None) -> Tensor:
        head = self._net.heads[name]

        def scores(feature: Tensor, mask: Tensor | None) -> Tensor:
            found = self._net.predict(self.branches[name], feature, mask)
            return found["scores"] if isinstance(found, dict) else found  # type: ignore[no-any-return]

        return _unit(self._stopped(name, head, scores, (feature, mask)))

    def _stopped(self, name: str, module: nn.Module, run: Callable[..., Tensor], call: tuple[Any, ...]) -> Tensor:
        """What enters the layer of `module` that makes the scores, in a forward that ends there."""
        layer = self._last_linear(name, module, run, call).layer
        if followed():
            kept: list[Tensor] = []
            with reading(module, layer, _here(lambda x: kept.append(x.clone()))):  # before anything writes into it
                run(*call)
            return kept[-1]

        def stop(x: Tensor) -> None:
            raise Reached(x)

        try:
            with reading(module, layer, _here(stop)):
                run(*call)
        except Reached as reached:
            return reached.feature
        raise TapError(
            f"the forward did not come by layer '{layer}', which makes the scores of '{name}'. It was replaced."
        )

    def _last_linear(
        self, name: str, module: nn.Module, run: Callable[..., Tensor], call: tuple[Any, ...]
    ) -> LastLinear:
        if name not in self.found:
            few = partial(run, *two_of(call))
            self.found[name] = last_linear(module, few, output=name, said=self.said.get(name))
        return self.found[name]


class Embedder(nn.Module):
    """The embedding of one output as a module. Made by `embedder`; holds the net, changes nothing on it."""

    def __init__(self, every: Embeddings, output: str) -> None:
        super().__init__()
        self.every = every
        self.output = output
        self.training = every.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """(N, D) in float32, rows of length 1."""
        return self.every.of(self.output, *args, **kwargs)

    def extra_repr(self) -> str:
        """Which output it is of."""
        return f"output={self.output!r}"


def embedder(
    net: nn.Module,
    name: str = MAIN,
    *,
    embedding: str | Mapping[str, str] | None = None,
    cut: bool = False,
    sample: Any = None,
) -> nn.Module:
    """A module from a model's input to the embedding of `main`, of a branch, or of the `ensemble`: (N, D), rows of length 1.

    The embedding of an output is what enters the last linear layer on the way to its scores; that layer, and for a branch
    all that lies behind its own, does not run. `ensemble` is all embeddings side by side over the root of their number, so
    that its cosine is the mean of theirs. Takes a plain model, a supervised or stripped net, also in wrappers; in eval mode
    only. `embedding` names the layer that scores (a text: main's; of a branch, by name, its path in the head). With `cut` it is a
    module of its own that holds only those weights that it needs and that exporters take, as `early_exit(cut=True)`; a plain
    model needs a `sample` for it, an input.
    Raises `BranchNameError` for an output that is not there or does not score; in the first call `EmbeddingError` where several
    layers or none make the scores.
    """
    every = Embeddings(net, embedding=embedding)
    _check_names((name,), every.outputs, "an embedder")
    made = Embedder(every, name)
    if not cut:
        return made
    if sample is None and not every.supervised:
        raise ExportError("a plain model knows no input shape, so cut=True needs sample=, an input of the model.")
    args, kwargs = cut_parts.two_samples(sample_for(every.net, sample) if isinstance(every.net, Supervised) else sample)
    with torch.no_grad():
        made(*args, **kwargs)  # finds the layers that score, which a forward that is only followed cannot
    return cut_parts.cut(made, kwargs or args)


def embeddings(net: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """Every embedding of a net for this input, by output, from one forward.

    Looks for the layers that score in each call: for many batches make `Embeddings(net)` once and call that.
    """
    found: dict[str, Tensor] = Embeddings(net)(*args, **kwargs)
    return found


def side_by_side(
    embeddings: Mapping[str, Tensor],  # (N, D) each, rows of length 1
) -> Tensor:
    """All in one, (N, sum of D), rows of length 1: the cosine of two is the mean of the cosines of their parts."""
    return torch.cat(list(embeddings.values()), 1) / math.sqrt(len(embeddings))


def _unit(x: Tensor) -> Tensor:
    if followed():  # outside autocast, and exporters know no region without it
        return F.normalize(x.float(), dim=1)
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.float(), dim=1)


def _here(then: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """`then`, called in this thread alone."""
    thread = threading.get_ident()

    def see(x: Tensor) -> None:
        if threading.get_ident() == thread:
            then(x)

    return see


def _check_names(asked: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in asked:
        if name not in known:
            raise BranchNameError(
                f"{where} is asked for the output {name!r}, which is not there or gives no scores."
                f"{closest(name, known)} Outputs: {', '.join(known)}."
            )


def _check_scoring(net: nn.Module) -> None:
    if any(m.training for m in (net, getattr(net, "model", net)) if isinstance(m, nn.Module)):
        raise AttachError("an embedder is for scoring, and this net is in training mode. Call .eval() first.")
