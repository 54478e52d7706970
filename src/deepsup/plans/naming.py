"""What branches may be called, and whether the terms of a plan name outputs that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from deepsup import losses
from deepsup.errors import BranchNameError, HeadError
from deepsup.specs import closest
from deepsup.terms import ENSEMBLE, PREVIOUS, TARGET, Edge

RESERVED = {
    "main": "that is the model's own output",
    ENSEMBLE: "that is the mean of all outputs",
    PREVIOUS: "that is the main output of the batch before",
    TARGET: "that is the target",
}


def check_name(name: str, layer: str) -> None:
    """Raise `BranchNameError` for a name that stands for something else, or that keys and texts cannot hold."""
    if not name or "/" in name or "<-" in name or not name.isprintable():  # "/" is the dot in the keys of the heads
        raise BranchNameError(
            f"a branch needs a name in one line, without '/' and '<-'; found {name!r}. Name it: at={{'NAME': 'LAYER'}}."
        )
    if name in RESERVED:
        raise BranchNameError(f"no branch may be called '{name}': {RESERVED[name]}. Name it: at={{'NAME': '{layer}'}}.")


def check_outputs(outputs: Sequence[str]) -> None:
    """Raise `BranchNameError` where two outputs of the branches have one name."""
    twice = [name for name in outputs if outputs.count(name) > 1]
    if twice:
        raise BranchNameError(f"two outputs are called '{twice[0]}'. Give every branch a name of its own.")


def check_terms(edges: Iterable[Edge], *, own: Mapping[str, str | losses.Loss], outputs: Sequence[str]) -> None:
    """Raise where a term names an output that is not there, or has a loss that cannot compare what it holds together.

    `own` are the losses that outputs have on the labels themselves, by name. `BranchNameError` or `HeadError`.
    """
    known = {*outputs, *RESERVED}
    terms = [Edge(name, loss=loss) for name, loss in own.items()]
    names = {term.name for term in terms}
    for edge in edges:
        for output in (edge.source, edge.target):
            if output not in known:
                raise BranchNameError(
                    f"the term {edge} names the output '{output}', which is not there.{closest(output, sorted(known))} "
                    f"Outputs: {', '.join(sorted(known - {TARGET}))}."
                )
        if edge.source in (TARGET, PREVIOUS, edge.target):
            raise BranchNameError(
                f"the term {edge} has nothing that could learn. Hold another output against its target."
            )
        if edge.name in names:
            raise BranchNameError(
                f"two terms are called '{edge.name}'. Leave one of them out, or add their losses up in one."
            )
        names.add(edge.name)
        terms.append(edge)
    for term in terms:
        _check_loss(term)


def _check_loss(term: Edge) -> None:
    """A named loss that compares outputs needs another output, and one of labels needs the labels."""
    if not isinstance(term.loss, str) or losses.describe(term.loss).teacher == (term.target != TARGET):
        return
    needs, has = ("another output", "the labels") if term.target == TARGET else ("the labels", "another output")
    raise HeadError(
        f"the term {term} holds an output against {has}, and its loss compares with {needs}. Choose another loss."
    )
