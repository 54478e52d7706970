"""Find the traps before training does: `diagnose` looks at model, branches, data, losses and optimiser at once.

    >>> print(ds.diagnose(net, images, labels, optimizer=optimizer, batches=loader))
    error: main output: it gives log-probabilities ..., and its loss is cross_entropy. ... Fix: Give out raw scores ...

Two or three forwards on the real batch, no backward; the model and the random state are left exactly as they were.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from deepsup import losses, methods
from deepsup.doctor import forward_checks, output_checks, setup_checks
from deepsup.doctor.findings import ERROR, Diagnosis, Finding, diagnosis, finding, from_error
from deepsup.doctor.setup_checks import Setup, branch
from deepsup.errors import ConfigError, DeepsupError, LayerError, UnknownLayerError
from deepsup.features import read_pick
from deepsup.layers.dry_run import Trace, trace
from deepsup.layers.selectors import check_readable
from deepsup.layers.taps import remove_taps
from deepsup.plans.plan import Plan, fingerprint
from deepsup.plans.planning import plan as make_plan
from deepsup.supervision.attaching import Supervised, attach
from deepsup.supervision.objectives import Objective
from deepsup.terms import INPUT

PER_BRANCH = ("head", "loss", "weight", "gradient", "zero_heads")  # options of plan that may be mappings by branch name
CHECKED = "model, layers, heads, outputs, {labels}losses, weights{optimizer} look right for {branches}"


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
    branch_loss: Any = None,
    **options: Any,
) -> Diagnosis:
    """Everything that would stop this training or make it wrong, as far as one real batch can show it.

        >>> ds.diagnose(net, images, labels, optimizer=optimizer)              # attached, wrapped or compiled as you train it
        >>> ds.diagnose(model, images, labels, at=["layer1", "50%"], head="linear")  # before anything is attached

    `model` is what is to be trained: the net from `attach`, in its wrappers, or a plain model with the branches that it
    should get, as a `plan` or as `at` with the options of `deepsup.plan` (`method`, `head`, `weight`, `gradient`,
    `main_loss`, `classes`, `main`, `layout`; `branch_loss` is its `loss`). `sample` and `target` are a real batch on the model's
    device; without a target labels and losses are not looked at. `loss` is that of the main output, or give the
    `objective`. The sizes of batches come from `batch_sizes`, `batches` (a `DataLoader`, or a list), or the sample; of a
    list, the first two also show whether they overlap, where the method needs that.

    A set-up that `plan` or `attach` would refuse gets findings, never an exception. In several processes call it in all
    of them where normalisation is synchronised. Models that are sharded by FSDP are not run.
    """
    if (mistaken := forward_checks.no_batch(sample)) is not None:
        return diagnosis([mistaken], "")
    found = list(_unknown(options))
    loss = _main_loss(loss, found)
    setup = Setup.of(model)
    wanted = at is not None or (plan is not None and (setup.net is None or plan != setup.net.plan))
    found += setup_checks.wrapping(setup, wanted=wanted)
    given = objective or (Objective(setup.net.plan, loss=loss) if setup.net else None)
    whole = setup_checks.twin(given) if given is not None else None
    case = _Case(setup, sample, target, found, whole, loss, batch_sizes or forward_checks.sizes_of(batches))
    if branch_loss is not None:
        options["loss"] = branch_loss
    chosen = (setup.net.plan if setup.net else plan) if setup.sharded else case.run(plan, at, options, batches)
    found += setup_checks.compiled(setup, chosen, wanted=wanted)
    found += setup_checks.precision(setup)
    found += setup_checks.learning(setup, chosen)
    found += setup_checks.optimising(setup, chosen, optimizer)
    if chosen is not None:
        found += setup_checks.pricing(chosen)
        found += setup_checks.passing(setup, chosen)
        found += setup_checks.naming(chosen, whole or Objective(chosen))
        found += setup_checks.weighing(whole or Objective(chosen))
    trained = whole.plan if whole is not None and whole.plan is not None else chosen
    if trained is not None:
        found += forward_checks.batching(trained, sample, target, batches)
    names = ", ".join(chosen.names) if chosen and chosen.branches else "the plain model"
    seen = {"labels": "labels, " if target is not None else "", "optimizer": " and optimiser" if optimizer else ""}
    return diagnosis(found, CHECKED.format(branches=names, **seen))


def _main_loss(loss: str | losses.Loss | None, found: list[Finding]) -> str | losses.Loss | None:
    """A copy of the main output's loss; None, and a finding, for a text that names none."""
    try:
        if loss is not None:
            losses.check(loss)
    except ConfigError as error:
        found.append(from_error(error, "option loss="))
        return None
    copy_of: str | losses.Loss | None = setup_checks.copied(loss)
    return copy_of


def _unknown(options: dict[str, Any]) -> Iterator[Finding]:
    """Options that there are not; they are taken out."""
    known = {*inspect.signature(diagnose).parameters, *inspect.signature(make_plan).parameters} - {"options"}
    for name in [o for o in options if o not in known]:
        del options[name]
        closest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        fix = f"Closest: {closest[0]}=" if closest else f"Options: {', '.join(sorted(known))}"
        yield finding("bad-setting", f"option {name}=", "there is no such option", fix=fix)


class _Case:
    """One patient: what was given, and the findings so far."""

    def __init__(
        self,
        setup: Setup,
        sample: Any,
        target: Any,
        found: list[Finding],
        objective: Objective | None,
        loss: str | losses.Loss | None,
        sizes: Iterable[int] | None,
    ) -> None:
        self.setup, self.sample, self.target, self.found = setup, sample, target, found
        self.objective, self.loss = objective, loss
        self.sizes = [forward_checks.length(sample)] if sizes is None else list(sizes)

    def run(self, plan: Plan | None, at: Any, options: dict[str, Any], batches: Any) -> Plan | None:
        """Plan if that was asked, run model and branches once each, and note what shows; returns the plan."""
        setup, net = self.setup, self.setup.net
        original = "" if net else fingerprint(setup.core)
        normalisation = forward_checks.Normalisation()
        with setup_checks.opened(setup), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with normalisation.watching({"": setup.core}):
                seen = self._trace(net.plan if net else plan, options, normalisation)
            if seen is None:
                return net.plan if net else plan
            self.found += forward_checks.further_predictions(seen, setup.core)
            if net is not None:
                chosen: Plan | None = net.plan
            elif plan is not None:
                chosen = self._checked(plan, original)
            else:
                chosen = self._planned(seen, at, options, batches)
            if chosen is not None and (net is not None or plan is not None):
                self.found += _readable(setup, seen, chosen, self.sample)
            self._rehearse(seen, chosen)
            return chosen if net or plan is None else plan

    def _trace(
        self, plan: Plan | None, options: Mapping[str, Any], normalisation: forward_checks.Normalisation
    ) -> Trace | None:
        """The dry run; the model's own normalisation is watched, with the two samples that it is given."""
        main = options.get("main")
        pick = plan.main or None if plan else None if main is None else read_pick(str(main))
        try:
            return trace(self.setup.core, self.sample, layouts=options.get("layout"), main=pick)
        except Exception as error:
            self.found.append(forward_checks.failed(error, normalisation))
            return None

    def _checked(self, plan: Plan, original: str) -> Plan | None:
        """A plan that was made before, for the model as it is opened; None if it is another model's."""
        core = self.setup.core
        if plan.fingerprint != original:
            what = f"it was made for {plan.model} {plan.fingerprint}; this is {type(core).__name__} {original}"
            self.found.append(finding("foreign-plan", "plan", what))
            return None
        branches = tuple(replace(b, layer=setup_checks.clean(b.layer)) for b in plan.branches)
        return replace(plan, fingerprint=fingerprint(core), branches=branches)

    def _planned(self, seen: Trace, at: Any, options: dict[str, Any], batches: Any) -> Plan | None:
        """The plan for `at`, or for as many of its layers as can be planned."""
        rest = dict(options)
        classes = rest.pop("classes", None)
        if classes is not None and len(seen.output[seen.main]) >= 2 and classes != seen.classes:
            what = f"the model predicts {seen.classes} classes, the data have {classes}"
            self.found.append(finding("class-count", "main output", what))
        if at is None and not _places_itself(rest):
            rest = {k: v for k, v in rest.items() if k in ("main", "layout")} | {"method": "none"}
        elif at == "auto":
            rest["batches"] = batches
        at = _cleaned(at)
        try:
            return make_plan(self.setup.core, self.sample, at, **rest)
        except Exception as error:
            selectors = _selectors(at)
            if not selectors:
                self.found.append(_refusal(error, "plan"))
                return None
            return _one_by_one(self.setup.core, self.sample, selectors, rest, error, self.found)

    def _rehearse(self, seen: Trace, plan: Plan | None) -> None:
        """One forward with the heads on the real batch, then the losses."""
        setup = self.setup
        made = self._attached(plan) if setup.net is None and plan is not None and plan.branches else None
        net = setup.net or made
        heads = dict(net.heads.items()) if net else {}
        whole = net is not None or (plan is not None and not plan.branches)
        objective = self.objective or setup_checks.twin(Objective(plan if whole else None, loss=self.loss))
        sample, target = forward_checks.doubled(self.sample, self.target)
        normalisation = forward_checks.Normalisation()
        try:
            with normalisation.watching({"": setup.core} | {f"head of {branch(n)}": h for n, h in heads.items()}):
                played = forward_checks.rehearse(net or setup.core, sample, seen.main)
        finally:
            if made is not None:
                remove_taps(setup.core)
        if plan is not None:
            self.found += forward_checks.tapping(seen, plan, net)
        self.found += normalisation.findings(forward_checks.length(sample), self.sizes)
        if isinstance(played, Exception):
            if not any(f.severity == ERROR and f.where != "model" for f in self.found):  # else it is said already
                self.found.append(forward_checks.failed(played, normalisation))
            return
        found, values = output_checks.scoring(played, target, objective, batch=forward_checks.length(sample))
        self.found += found
        learns = any(p.requires_grad for p in (net or setup.core).parameters())
        if learns and not any(v.requires_grad for v in values) and not any(f.severity == ERROR for f in found):
            self.found.append(finding("loss-without-gradient", "main output", "it has no graph"))
        self.found += forward_checks.distributed(setup, values)

    def _attached(self, plan: Plan) -> Supervised | None:
        """The net with copies of the user's heads, which attaching would move and run."""
        own = [replace(b, head=copy.deepcopy(b.head)) if isinstance(b.head, nn.Module) else b for b in plan.branches]
        try:
            return attach(self.setup.core, replace(plan, branches=tuple(own)))
        except Exception as error:
            self.found.append(_refusal(error, "model"))
            return None


def _places_itself(options: Mapping[str, Any]) -> bool:
    """Whether the method says where its branches go, or has none."""
    try:
        method = methods.get(options.get("method", "aux"))
    except ConfigError:
        return True  # plan says best what is wrong with it
    return method.places is not None or method.bare


def _cleaned(at: Any) -> Any:
    """The selectors without the parts that compiling adds to names."""
    if isinstance(at, Mapping):
        return {k: setup_checks.clean(str(v)) for k, v in at.items()}
    if isinstance(at, str) or not isinstance(at, Iterable):
        return setup_checks.clean(at) if isinstance(at, str) else at
    return [setup_checks.clean(str(s)) for s in at]


def _selectors(at: Any) -> dict[str, Any]:
    """Branch name or selector -> what to plan for it alone; empty where `at` cannot be taken apart."""
    if isinstance(at, Mapping):
        return {str(k): {str(k): v} for k, v in at.items()}
    if at is None or at == "auto" or not isinstance(at, (str, int, Iterable)):
        return {}
    return {str(s): [s] for s in ([at] if isinstance(at, (str, int)) else list(at))}


def _one_by_one(
    core: nn.Module,
    sample: Any,
    selectors: dict[str, Any],
    options: dict[str, Any],
    whole: Exception,
    found: list[Finding],
) -> Plan | None:
    """What can be planned, selector by selector, when all together are refused with `whole`."""
    plain = {k: v for k, v in options.items() if k not in PER_BRANCH}
    parts: list[Plan] = []
    said = len(found)
    names: set[str] = set()
    for name, at in selectors.items():
        try:
            alone = make_plan(core, sample, at, head="pool", loss=_any_loss, **plain)
        except Exception as error:
            names.add(name)
            found.append(_layer_refusal(error, name, core, sample))
            continue
        names |= set(alone.names)
        own = {k: _filtered(v, alone.names) for k, v in options.items() if k in PER_BRANCH}
        try:
            parts.append(make_plan(core, sample, at, **plain, **own))
        except Exception as error:
            where = branch(", ".join(alone.names))
            refused = _refusal(error, where)
            if isinstance(error, LayerError):  # the layer itself can be tapped, only not with this gradient rule
                refused = replace(from_error(error, where, code="layer-read-inside"), severity=ERROR)
            found.append(refused)
    for part in PER_BRANCH:
        unknown = (
            [k for k in options.get(part) or {} if k not in names] if isinstance(options.get(part), Mapping) else []
        )
        for name in unknown:
            fix = f"Use the names of the branches: {', '.join(sorted(names))}"
            found.append(
                finding("unknown-branch", branch(name), f"{part}= names it, and there is no such branch", fix=fix)
            )
    if len(found) == said:
        found.append(_refusal(whole, "plan"))
    if not parts:
        return None
    merged = {b.name: b for p in parts for b in p.branches}
    return replace(parts[0], branches=tuple(sorted(merged.values(), key=lambda b: b.depth)))


def _any_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return prediction.sum()


def _filtered(value: Any, names: tuple[str, ...]) -> Any:
    return {k: v for k, v in value.items() if k in names} if isinstance(value, Mapping) else value


def _refusal(error: Exception, where: str) -> Finding:
    """What `plan` or `attach` raised; an error that is not ours comes from a head of the user's."""
    return from_error(error, where, code="" if isinstance(error, DeepsupError) else "head-unfit")


def _layer_refusal(error: Exception, layer: str, core: nn.Module, sample: Any) -> Finding:
    """A layer that cannot be tapped."""
    where = f"layer '{layer}'"
    if not isinstance(error, LayerError) or "no gradient can flow" not in str(error):
        return _refusal(error, where)
    if not _checkpoints_reentrantly(core, sample):
        return from_error(error, where)
    return finding("reentrant-checkpoint", where, "it runs inside reentrant checkpointing")


def _readable(setup: Setup, seen: Trace, plan: Plan, sample: Any) -> Iterator[Finding]:
    """Layers of a plan that was made before, which the model no longer has or which cannot be read any more."""
    for b in plan.branches:
        if b.layer == INPUT:
            continue
        try:
            if b.layer not in seen.layers:
                raise UnknownLayerError(
                    f"no layer matches '{b.layer}' in {seen.model}, though it was planned. Plan again"
                )
            check_readable(seen, b.layer)
        except DeepsupError as error:
            yield _layer_refusal(error, b.layer, setup.core, sample)


def _checkpoints_reentrantly(core: nn.Module, sample: Any) -> bool:
    """Whether a node of reentrant checkpointing is in the graph of the output."""
    played = forward_checks.rehearse(core, forward_checks.doubled(sample, None)[0], ())
    return not isinstance(played, Exception) and forward_checks.is_reentrant(played.values())
