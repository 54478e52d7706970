"""Find the traps before training does: `diagnose` looks at model, branches, data, losses and optimiser at once.

    >>> print(ds.diagnose(net, images, labels, optimizer=optimizer, batches=loader))
    error: main output: it gives log-probabilities ..., and its loss is cross_entropy. ... Fix: Give out raw scores ...

Two or three forwards on the real batch, no backward; the model and the random state are left exactly as they were.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from deepsup import losses
from deepsup.doctor.batch_checks import batching, doubled, length, no_batch, sizes_of
from deepsup.doctor.branch_checks import naming, passing, pricing, weighing
from deepsup.doctor.findings import ERROR, Diagnosis, Finding, branch, diagnosis, from_error
from deepsup.doctor.forward_checks import Normalisation, failed, further_predictions, rehearse
from deepsup.doctor.layer_checks import readable, refusal, tapping
from deepsup.doctor.output_checks import CLASS_COUNT, LOSS_WITHOUT_GRADIENT, scoring
from deepsup.doctor.parameter_checks import learning, optimising, precision
from deepsup.doctor.patient import Setup, copied, opened, twin
from deepsup.doctor.plan_checks import BAD_SETTING, FOREIGN_PLAN, cleaned, one_by_one, places_itself, selectors
from deepsup.doctor.wrapper_checks import compiled, distributed, wrapping
from deepsup.errors import ConfigError, DeepsupError
from deepsup.features import read_pick
from deepsup.layers.dry_run import Trace, trace_of_all
from deepsup.layers.taps import remove_taps
from deepsup.layers.wrappers import clean
from deepsup.plans.branch_layers import single_calls
from deepsup.plans.plan import Plan, fingerprint
from deepsup.plans.planning import plan as make_plan
from deepsup.specs import POSITIVE, closest, hold
from deepsup.supervision.attaching import Supervised, attach
from deepsup.supervision.objectives import Objective


def diagnose(
    model: nn.Module,
    sample: Any,
    target: Any = None,
    *,
    at: str | Iterable[str] | Mapping[str, str] | None = None,
    plan: Plan | None = None,
    objective: Objective | None = None,
    optimizer: Optimizer | None = None,
    loss: str | losses.Loss | None = None,
    batches: Any = None,
    batch_sizes: Iterable[int] | None = None,
    **options: Any,
) -> Diagnosis:
    """Everything that would stop this training or make it wrong, as far as one real batch can show it.

        >>> ds.diagnose(net, images, labels, optimizer=optimizer)              # attached, wrapped or compiled as you train it
        >>> ds.diagnose(model, images, labels, at=["layer1", "50%"], head="linear")  # before anything is attached

    `model` is what is to be trained: the net from `attach`, in its wrappers, or a plain model with the branches that it
    should get, as a `plan` or as `at` with the options of `deepsup.plan` (`method`, `head`, `weight`, `gradient`,
    `branch_loss`, `classes`, `main`, `layout`). `sample` and `target` are a real batch on the model's
    device; without a target labels and losses are not looked at. `loss` is that of the main output, as in `plan`, or
    give the `objective`. The sizes of batches come from `batch_sizes`, `batches` (a `DataLoader`, or a list), or the sample; of a
    list, the first two also show whether they overlap, where the method needs that.

    A set-up that `plan` or `attach` would refuse gets findings, never an exception. In several processes call it in all
    of them where normalisation is synchronised. Models that are sharded by FSDP are not run.
    """
    if (mistaken := no_batch(sample)) is not None:
        return diagnosis([mistaken], "")
    given = list(batch_sizes or ())
    for size in given:
        hold("diagnose", POSITIVE, batch_sizes=size)
    found = list(_unknown(options))
    loss = _main_loss(loss, found)
    setup = Setup.of(model)
    wanted = at is not None or (plan is not None and (setup.net is None or plan != setup.net.plan))
    found += wrapping(setup, wanted=wanted)
    try:
        own = objective or (Objective(setup.net.plan, loss=loss) if setup.net else None)
    except DeepsupError as error:
        return diagnosis([*found, from_error(error, "option loss=")], "")
    whole = twin(own) if own is not None else None
    sizes = given or sizes_of(batches) or [length(sample)]
    case = _Case(setup, sample, target, found, whole, loss, sizes)
    chosen = (setup.net.plan if setup.net else plan) if setup.sharded else case.run(plan, at, options, batches)
    found += compiled(setup, chosen, wanted=wanted)
    found += _of_parts(setup, chosen, whole, optimizer)
    trained = whole.plan if whole is not None and whole.plan is not None else chosen
    if trained is not None:
        found += batching(trained, sample, target, batches)
    names = ", ".join(chosen.names) if chosen and chosen.branches else "the plain model"
    ran = not setup.sharded
    parts = {
        "model": True,
        "layers": True,
        "heads": ran and bool(chosen and chosen.branches),
        "outputs": ran,
        "labels": ran and target is not None,
        "losses": ran and target is not None,
        "weights": True,
        "optimiser": optimizer is not None,
    }
    return diagnosis(found, _looked_at(parts, names, length(sample)))


def _looked_at(parts: Mapping[str, bool], branches: str, samples: int) -> str:
    """What a diagnosis says where it found nothing: what it has looked at, and what nobody has."""
    seen = ", ".join(part for part, looked in parts.items() if looked)
    rest = [part for part, looked in parts.items() if not looked]
    unseen = ", ".join([*rest, "other batches", "evaluation", "how training goes"])
    return f"looked at {seen} of {branches}, with one batch of {samples}; not looked at: {unseen}"


def _of_parts(
    setup: Setup, plan: Plan | None, objective: Objective | None, optimizer: Optimizer | None
) -> Iterator[Finding]:
    """What shows without running anything: in parameters, optimiser, and branches."""
    yield from precision(setup)
    yield from learning(setup, plan)
    yield from optimising(setup, plan, optimizer)
    if plan is not None:
        yield from pricing(plan)
        yield from passing(setup, plan)
        yield from naming(plan, objective or Objective(plan))
        yield from weighing(objective or Objective(plan))


def _main_loss(loss: str | losses.Loss | None, found: list[Finding]) -> str | losses.Loss | None:
    """A copy of the main output's loss; None, and a finding, for a text that names none."""
    try:
        if loss is not None:
            losses.check(loss)
    except ConfigError as error:
        found.append(from_error(error, "option loss="))
        return None
    copy_of: str | losses.Loss | None = copied(loss)
    return copy_of


def _unknown(options: dict[str, Any]) -> Iterator[Finding]:
    """Options that there are not; they are taken out."""
    known = {*inspect.signature(diagnose).parameters, *inspect.signature(make_plan).parameters} - {"options"}
    for name in [o for o in options if o not in known]:
        del options[name]
        fix = closest(f"{name}=", [f"{one}=" for one in known]).strip() or f"Options: {', '.join(sorted(known))}"
        yield BAD_SETTING.found(f"option {name}=", "there is no such option", fix=fix)


@dataclass
class _Case:
    """One patient: what was given, and the findings so far."""

    setup: Setup
    sample: Any
    target: Any
    found: list[Finding]
    objective: Objective | None
    loss: str | losses.Loss | None
    sizes: Iterable[int]

    def run(self, plan: Plan | None, at: Any, options: dict[str, Any], batches: Any) -> Plan | None:
        """Plan if that was asked, run model and branches once each, and note what shows; returns the plan."""
        setup, net = self.setup, self.setup.net
        original = "" if net else fingerprint(setup.core)
        normalisation = Normalisation()
        with opened(setup), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with normalisation.watching({"": setup.core}):
                seen = self._trace(net.plan if net else plan, options, normalisation)
            if seen is None:
                return net.plan if net else plan
            self.found += further_predictions(seen, setup.core)
            if net is not None:
                chosen: Plan | None = net.plan
            elif plan is not None:
                chosen = self._checked(plan, original)
            else:
                chosen = self._planned(seen, at, options, batches)
            if chosen is not None and (net is not None or plan is not None):
                self.found += readable(setup, seen, chosen, self.sample)
            self._rehearse(seen, chosen)
            return chosen if net or plan is None else plan

    def _trace(self, plan: Plan | None, options: Mapping[str, Any], normalisation: Normalisation) -> Trace | None:
        """The dry run; the model's own normalisation is watched, with the two samples that it is given."""
        main = options.get("main")
        pick = plan.main or None if plan else None if main is None else read_pick(str(main))
        calls = single_calls(clean(b.layer) for b in plan.branches) if plan else ()
        try:
            return trace_of_all(self.setup.core, self.sample, layouts=options.get("layout"), calls=calls, main=pick)
        except Exception as error:
            self.found.append(failed(error, normalisation))
            return None

    def _checked(self, plan: Plan, original: str) -> Plan | None:
        """A plan that was made before, for the model as it is opened; None if it is another model's."""
        core = self.setup.core
        if plan.fingerprint != original:
            what = f"it was made for {plan.model} {plan.fingerprint}; this is {type(core).__name__} {original}"
            self.found.append(FOREIGN_PLAN.found("plan", what))
            return None
        branches = tuple(replace(b, layer=clean(b.layer)) for b in plan.branches)
        embeddings = tuple(replace(e, layer=clean(e.layer), neck=clean(e.neck)) for e in plan.embeddings)
        return replace(plan, fingerprint=fingerprint(core), branches=branches, embeddings=embeddings)

    def _planned(self, seen: Trace, at: Any, options: dict[str, Any], batches: Any) -> Plan | None:
        """The plan for `at`, or for as many of its layers as can be planned."""
        rest = dict(options)
        classes = rest.pop("classes", None)
        if classes is not None and len(seen.output[seen.main]) >= 2 and classes != seen.classes:
            what = f"the model predicts {seen.classes} classes, the data have {classes}"
            self.found.append(CLASS_COUNT.found("main output", what))
        if at is None and not places_itself(rest):
            kept = {k: v for k, v in rest.items() if k in ("main", "layout") or k.startswith("embedding")}
            rest = kept | {"method": "none"}
        elif at == "auto":
            rest["batches"] = batches
        if self.loss is not None:
            rest["loss"] = self.loss
        at = cleaned(at)
        try:
            return make_plan(self.setup.core, self.sample, at, **rest)
        except Exception as error:
            alone = selectors(at)
            if not alone:
                self.found.append(refusal(error, "plan"))
                return None
            return one_by_one(self.setup.core, self.sample, alone, rest, error, self.found)

    def _rehearse(self, seen: Trace, plan: Plan | None) -> None:
        """One forward with the heads on the real batch, then the losses."""
        setup = self.setup
        made = self._attached(plan) if setup.net is None and plan is not None and plan.outputs else None
        net = setup.net or made
        heads = dict(net.heads.items()) if net else {}
        whole = net is not None or (plan is not None and not plan.outputs)
        objective = self.objective or twin(Objective(plan if whole else None, loss=self.loss))
        sample, target = doubled(self.sample, self.target)
        normalisation = Normalisation()
        try:
            with normalisation.watching({"": setup.core} | {f"head of {branch(n)}": h for n, h in heads.items()}):
                played = rehearse(net or setup.core, sample, seen.main)
        finally:
            if made is not None:
                remove_taps(setup.core)
        if plan is not None:
            self.found += tapping(seen, plan, net)
        self.found += normalisation.findings(length(sample), self.sizes)
        if isinstance(played, Exception):
            if not any(f.severity == ERROR and f.where != "model" for f in self.found):  # else it is said already
                self.found.append(failed(played, normalisation))
            return
        found, values = scoring(played, target, objective, batch=length(sample))
        self.found += found
        learns = any(p.requires_grad for p in (net or setup.core).parameters())
        if learns and not any(v.requires_grad for v in values) and not any(f.severity == ERROR for f in found):
            self.found.append(LOSS_WITHOUT_GRADIENT.found("main output", "it has no graph"))
        self.found += distributed(setup, values)

    def _attached(self, plan: Plan) -> Supervised | None:
        """The net with copies of the user's heads, which attaching would move and run; the model's layers stay in them."""
        core = {id(t): t for t in (*self.setup.core.modules(), *self.setup.core.parameters())}
        own = [
            replace(b, head=copy.deepcopy(b.head, dict(core))) if isinstance(b.head, nn.Module) else b
            for b in plan.branches
        ]
        try:
            return attach(self.setup.core, replace(plan, branches=tuple(own)))
        except Exception as error:
            self.found.append(refusal(error, "model"))
            return None
