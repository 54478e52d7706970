"""Losses on features, of main and of every branch that scores: `plan(..., embedding_loss="triplet(margin=0.3)")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from deepsup import losses, schedules
from deepsup.errors import BranchNameError, ConfigError
from deepsup.features import WHOLE, Feature, main_prediction
from deepsup.heads.cost import looked_at
from deepsup.heads.lent_layers import tried
from deepsup.layers.dry_run import Trace, as_call
from deepsup.layers.last_linear import last_linear, reading
from deepsup.layers.snapshot import untouched
from deepsup.plans.embedding_layers import FEATURE, EmbeddingLayer
from deepsup.plans.plan import Branch, Plan
from deepsup.plans.shared_heads import first_of
from deepsup.specs import closest
from deepsup.terms import MAIN, TARGET, Edge

LossLike: TypeAlias = "str | losses.Loss"
EmbeddingLoss: TypeAlias = "LossLike | Mapping[str, LossLike | None] | None"


@dataclass(frozen=True)
class EmbeddingTerms:
    """What `plan` was told: a loss and a weight for all outputs or by name, and by output the layer that makes its scores."""

    loss: EmbeddingLoss = None
    weight: schedules.Weight | Mapping[str, schedules.Weight] = 1.0
    layer: str | Mapping[str, str] | None = None

    @property
    def asked(self) -> bool:
        """Whether there is anything to find or to add."""
        return self.loss is not None or self.layer is not None

    def loss_of(self, output: str) -> LossLike | None:
        return self.loss.get(output) if isinstance(self.loss, Mapping) else self.loss

    def weight_of(self, output: str) -> schedules.Weight:
        return self.weight.get(output, 1.0) if isinstance(self.weight, Mapping) else self.weight

    def layer_of(self, output: str) -> str | None:
        if isinstance(self.layer, Mapping):
            return self.layer.get(output)
        return self.layer if output == MAIN else None

    def check(self, made: Plan, scoring: Sequence[str]) -> None:
        """Raise `ConfigError` for an output that is no class a sample, or a loss that reads no features; `BranchNameError`
        for an output that is not there or does not score."""
        main = made.prediction
        if main is None or made.main == WHOLE or main.kind != "class" or main.places:
            raise ConfigError(
                f"embedding_loss= and embedding= are for one class a sample, an identity, and the main output gives {main}. "
                "Leave them out."
            )
        for option, given in (("loss", self.loss), ("weight", self.weight), ("", self.layer)):
            for name in given if isinstance(given, Mapping) else ():
                if name not in scoring:
                    raise BranchNameError(
                        f"embedding{'_' if option else ''}{option}= names the output {name!r}, which is not there or gives no "
                        f"scores.{closest(name, scoring)} Outputs: {', '.join(scoring)}."
                    )
        for name in scoring:
            if (loss := self.loss_of(name)) is not None:
                _check_loss(loss, made.views)


def _check_loss(loss: LossLike, views: int) -> None:
    reads = losses.describe(loss)
    if losses.reads_first_axis(loss) and (reads.scores or reads.teacher or reads.views > views):
        able = [n for n in losses.LOSSES if not (k := losses.describe(n)).scores and not k.teacher and k.views <= views]
        raise ConfigError(
            f"embedding_loss={losses.show(loss)!r} does not compare features with identities. These do: {', '.join(able)}; or a "
            "function of (features, labels)."
        )


def with_embeddings(made: Plan, wanted: EmbeddingTerms, model: nn.Module, sample: Any, seen: Trace) -> Plan:
    """The plan with terms on features, and where these are. Raises what `EmbeddingTerms.check` does, and `EmbeddingError`."""
    scoring = {b.name: b for b in made.branches if b.predicts}
    wanted.check(made, (MAIN, *scoring))
    found: list[EmbeddingLayer] = []
    edges: list[Edge] = []
    for name in (MAIN, *scoring):
        loss, said = wanted.loss_of(name), wanted.layer_of(name)
        if loss is None and said is None:
            continue
        e = _of_main(model, sample, seen, said) if name == MAIN else _of_head(scoring[name], made, model, said)
        if loss is not None:
            edges.append(Edge(f"{name}/{e.adds or FEATURE}", TARGET, loss, wanted.weight_of(name)))  # type: ignore[arg-type]
        found.append(e if loss is not None else replace(e, adds=""))
    added = {e.output: (e.adds,) for e in found if e.adds}
    branches = tuple(replace(b, extras=(*b.extras, *added.get(b.name, ()))) for b in made.branches)
    return replace(made, branches=branches, edges=(*made.edges, *edges), embeddings=tuple(found))


def _of_main(model: nn.Module, sample: Any, seen: Trace, said: str | None) -> EmbeddingLayer:
    args, kwargs = as_call(sample, batch=2)
    found = last_linear(model, lambda: main_prediction(model(*args, **kwargs), seen.main), said=said)
    return EmbeddingLayer(MAIN, *found, adds=FEATURE)


def _of_head(b: Branch, made: Plan, model: nn.Module, said: str | None) -> EmbeddingLayer:
    first = first_of(made.branches, b.head) or b

    def look(module: nn.Module, device: str) -> EmbeddingLayer:
        return _in_head(b.name, tried(module, model), b.feature, device, said)

    return looked_at(b.head, first.feature, made.classes, look, model=model, layer=first.layer, main=made.main)


def _in_head(name: str, head: nn.Module, feature: Feature, device: str, said: str | None) -> EmbeddingLayer:
    p = next(head.parameters(), torch.zeros((), device=device))
    x = torch.zeros(2, *feature.shape, dtype=p.dtype, device=p.device)

    def scores() -> Tensor:
        output = head(x)
        return output["scores"] if isinstance(output, dict) else output  # type: ignore[no-any-return]

    found = last_linear(head, scores, output=name, said=said)
    entering: list[Tensor] = []
    with untouched(head), torch.no_grad(), reading(head, found.first, entering.append):
        output = head.eval()(x)
    own = output.get(FEATURE) if isinstance(output, dict) else None
    same = own is not None and own.untyped_storage()._cdata == entering[-1].untyped_storage()._cdata
    return EmbeddingLayer(name, *found, adds="" if same else FEATURE if own is None else "embedding")
