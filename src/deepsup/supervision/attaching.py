"""Attach branches to a model, run both as one module, and take them off again.

>>> net = ds.attach(model, plan)
>>> net(x)                       # training: Outputs(main=..., aux={"layer1": ...}); eval: what the model returns
>>> model = ds.strip(net)        # the very object that came in
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup.errors import AttachError, ConfigError, DataParallelError, HeadError, PlanError, TapError
from deepsup.features import split_call
from deepsup.heads import build, squared_norm, zero
from deepsup.heads.lent_layers import lent, place
from deepsup.heads.modules import Pooling
from deepsup.layers.taps import FeatureTap, HeadTap, InputTap, Recorder, Tap, refuse_compiled, refuse_wrapped, taps_on
from deepsup.layers.wrappers import chain
from deepsup.plans.plan import Branch, Plan, fingerprint
from deepsup.plans.shared_heads import check_alike, first_of
from deepsup.specs import closest
from deepsup.supervision.branch_heads import Heads
from deepsup.supervision.idle_branches import absent, grounded, idle
from deepsup.supervision.masks import argument_of, mask_in
from deepsup.supervision.recomputation import call_repeated, note, running_again
from deepsup.supervision.transparency import Transparent
from deepsup.terms import INPUT, MAIN

_STREAM = threading.RLock()


class Outputs(NamedTuple):
    """What a supervised model returns in training: the model's own output, and every branch's by name.

    Heads that give out more than scores add it under names such as `layer1/feature`.
    """

    main: Any
    aux: dict[str, Tensor]


class Supervised(Transparent):
    """The user's model with branches. Made by `attach`; `model` is the user's object, `heads` ours, `plan` the plan.

    In training mode (or inside `supervising(net)`) a call returns `Outputs`. Otherwise it returns exactly what the
    model returns, and no head runs. What only the model has is reached through the net (`net.num_classes`; `transparency`).
    Heads draw from a random stream of their own, seeded from `torch.initial_seed()` and counted in the state dict, so a branch's
    dropout does not move the user's random numbers; under `torch.compile` they draw from the common stream.
    """

    def __init__(self, model: nn.Module, heads: dict[str, nn.Module], plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.heads = Heads(heads, model)
        self.plan = plan
        self.mask_argument = argument_of(model)
        self.reads_input = any(branch.layer == INPUT for branch in plan.branches)
        self.learning = {b.name for b in plan.branches if b.loss != "none"}
        self.idle = idle(plan, None)
        self.inner = {e.output: e for e in plan.embeddings if e.adds}
        self.taps: dict[str, Tap] = {}
        self.progress_known = False
        self.recorder = Recorder()
        self.calls = 0
        self.training = model.training
        self.heads.train(model.training)
        self.show_model()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        asked = self.recorder.supervise
        if not (self.training if asked is None else asked):
            return self.model(*args, **kwargs)
        if not self.progress_known and torch.is_grad_enabled() and any(tap.rule.moves for tap in self.taps.values()):
            raise ConfigError(_no_progress(self.taps))
        main, seen = self.activations(args, kwargs)
        mask = mask_in(self.mask_argument, args, kwargs)
        features = self._features(seen)
        if torch.compiler.is_compiling():
            return Outputs(main, features | self._predictions(seen, mask))
        with self._own_random_stream():
            return Outputs(main, features | self._predictions(seen, mask))

    def activations(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        """What the model returns, and by branch name what its taps saw in that forward."""
        recorder = self.recorder
        recorder.begin()
        try:
            main = self.model(*args, **kwargs)
            seen, versions = dict(recorder.seen), dict(recorder.versions)
        finally:
            recorder.end()
        for name, version in versions.items():
            _check_untouched(name, seen[name], version)
        if self.reads_input:
            whole = input_of(args, kwargs)
            seen |= {b.name: whole for b in self.plan.branches if b.layer == INPUT}
        return main, seen

    def _features(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """What enters the main output's neck, where a term reads it."""
        if MAIN not in self.inner:
            return {}
        if MAIN not in seen:
            raise TapError(
                f"the tap on '{self.inner[MAIN].first}', whose input is the main output's feature, did not fire: the layer was "
                "replaced, or the model was stripped or compiled before attach. Plan and attach again."
            )
        return {f"{MAIN}/{self.inner[MAIN].adds}": seen[MAIN]}

    def _predictions(self, seen: dict[str, Tensor], mask: Tensor | None) -> dict[str, Tensor]:
        """The scores of every branch by its name, and further outputs of a head by names such as `layer1/feature`."""
        found: dict[str, Tensor] = {}
        statistics = [(buffer, buffer.clone()) for buffer in self.heads.lent_buffers()]
        for branch in self.plan.branches:
            if branch.optional and branch.name not in seen:
                found |= dict.fromkeys(branch.outputs, self._nothing(branch))
                continue
            output = self._ground(branch, self._predict(branch, seen, mask))
            if isinstance(output, dict) and {"scores", *branch.extras} <= output.keys():
                found[branch.name] = output["scores"]
                found |= {f"{branch.name}/{extra}": output[extra] for extra in branch.extras}
            elif isinstance(output, dict) or branch.extras:
                raise HeadError(_other_outputs(branch, output))
            else:
                found[branch.name] = output
            if branch.bracket is not None:  # here and not in the objective: DistributedDataParallel must see it happen
                but = self.heads.lent_keys.get(branch.name, ())
                found[f"{branch.name}/norm"] = squared_norm(self.heads[branch.name], but=but)
        for buffer, value in statistics:  # of what the model itself has seen, and nothing else
            buffer.data.copy_(value)
        return found

    def _nothing(self, branch: Branch) -> Tensor:
        """What stands for the outputs of a branch whose layer was skipped: its head still gets zeros."""
        anchor = next(iter(self.heads[branch.name].parameters()), torch.zeros(()))
        return absent([p for _, p in self.heads.own(branch.name) if p.requires_grad], anchor.detach())

    def _ground(self, branch: Branch, output: Any) -> Any:
        """What a head gave out, so that it gets zeros and the trunk nothing where no loss reads it."""
        parameters = [p for _, p in self.heads.own(branch.name)]
        if isinstance(output, Tensor):
            return grounded({"scores": output}, parameters, idle=branch.name in self.idle)["scores"]
        tensors = {key: t for key, t in output.items() if isinstance(t, Tensor)} if isinstance(output, dict) else {}
        return {**output, **grounded(tensors, parameters, idle=branch.name in self.idle)} if tensors else output

    def _predict(self, branch: Branch, seen: dict[str, Tensor], mask: Tensor | None) -> Any:
        if branch.name not in seen:
            raise TapError(
                f"the tap of branch '{branch.name}' on layer '{branch.layer}' did not fire: the forward skipped the layer or "
                "ran it less often, the layer was replaced, or the model was stripped or compiled before attach. Plan and attach "
                f"again; where the model drops layers by chance, plan(..., optional={{'{branch.name}': True}}), or "
                "supervise.optional=true in settings, leaves the branch out then."
            )
        feature = seen[branch.name]
        head = self.heads[branch.name]
        for parameter in head.parameters():  # the first; next() with a default does not compile on torch 2.8
            if not torch.is_autocast_enabled(feature.device.type):
                feature = feature.to(parameter.dtype)  # the model's own autocast region ends before the head's
            break
        masked = (mask,) if mask is not None and isinstance(head, Pooling) else ()
        if branch.name not in self.inner:
            return head(feature, *masked)
        self.recorder.head = branch.name
        try:
            output, inside = head(feature, *masked), self.recorder.inside
        finally:
            self.recorder.head = self.recorder.inside = None
        if inside is None:  # a stripped net
            return output
        return {**(output if isinstance(output, dict) else {"scores": output}), self.inner[branch.name].adds: inside}

    def predict(self, branch: Branch, feature: Tensor, mask: Tensor | None = None) -> Any:
        """What the head of a branch makes of an activation of its layer, of which `mask` (N, L) says what is there."""
        with nullcontext() if torch.compiler.is_compiling() else self._own_random_stream():
            return self._predict(branch, {branch.name: feature}, mask)

    @contextmanager
    def _own_random_stream(self) -> Iterator[None]:
        generators = [torch.default_generator, *_cuda_generators(self.heads.children())]
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if several else 0
        with _STREAM:  # the common generators are seeded for a moment: one thread at a time
            seed = (torch.initial_seed() * 1_000_003 + self._call() * 1009 + rank) % 2**63
            states = [g.get_state() for g in generators]
            try:
                for g in generators:
                    g.manual_seed(seed)
                yield
            finally:
                for g, state in zip(generators, states, strict=True):
                    g.set_state(state)

    def _call(self) -> int:
        """The number of this forward in the heads' random stream: of a repetition that of the forward which is repeated."""
        if not self.training:  # scoring heads in between must not change what training draws
            return self.calls
        if running_again() is not None:
            repeated = call_repeated(self)
            return self.calls - 1 if repeated is None else repeated
        note(self, self.calls)
        self.calls += 1
        return self.calls - 1

    def set_progress(self, progress: float) -> None:
        """Tell gradient rules that change over training how much of it is done, in [0, 1]; before each step's forward.

        `deepsup.fit` and `deepsup train` do it; a loop of your own needs it for `warmup` and scheduled `scale`, and where it
        compiles the net and a weight becomes 0, so that the trunk gets nothing from that branch instead of zeros.
        """
        if isinstance(progress, (bool, str, list)) or not 0 <= progress <= 1:
            raise ConfigError(f"progress is the share of training that is done, in [0, 1]; found {progress!r}.")
        self.progress_known = True
        self.idle = idle(self.plan, progress)
        self.set_factors(progress)

    def set_factors(self, progress: float, *, first: bool = False) -> None:
        """Give gradient rules that move their factor (at `first`, all that have one).

        A new tensor each, so that the factor of a forward before stays what it was.
        """
        above = 1  # the outputs higher up: main, and branches that are held against something themselves
        for name, tap in reversed(self.taps.items()):
            if tap.rule.moves or (first and tap.rule.scales):
                tap.factor = torch.tensor(tap.rule.factor(progress, above))
            if name in self.learning:
                above += 1

    def get_extra_state(self) -> Tensor:
        """The position in the heads' random stream, so that a resumed run draws what the undisturbed one draws."""
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)

    def _replicate_for_data_parallel(self) -> Any:
        raise DataParallelError(
            "nn.DataParallel copies the model for every device on every call, and all copies would share one tap. "
            "Use torch.nn.parallel.DistributedDataParallel, also for several GPUs in one machine."
        )


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What branches on the layer `input` read: the one tensor that the model is called with."""
    given = [*args, *kwargs.values()]
    if len(given) != 1 or not isinstance(given[0], Tensor):
        raise TapError(
            f"a branch on 'input' reads the one tensor that a model is called with; this call has {len(given)} arguments "
            f"({', '.join(type(value).__name__ for value in given)}). Let the model take one tensor."
        )
    return given[0]


def _other_outputs(branch: Branch, output: Any) -> str:
    found = ", ".join(output) if isinstance(output, dict) else "one tensor"
    return (
        f"the plan has the outputs {', '.join(('scores', *branch.extras))} of the head of branch '{branch.name}', and the head "
        f"gives {found}. Plan again."
    )


def _no_progress(taps: dict[str, Tap]) -> str:
    name, rule = next((name, tap.rule) for name, tap in taps.items() if tap.rule.moves)
    return (
        f"the gradient rule of branch '{name}' changes over training ({rule!r}): say before each step how much of it is "
        "done, net.set_progress(step / steps)."
    )


def _check_untouched(name: str, feature: Tensor, version: int) -> None:
    if feature._version != version:
        raise TapError(
            f"the activation that branch '{name}' reads was overwritten in place by a later operation, which it was not when "
            "this was planned. Plan again: its tap will keep a copy."
        )


def _cuda_generators(heads: Iterable[nn.Module]) -> list[torch.Generator]:
    indices = {p.device.index for head in heads for p in head.parameters() if p.is_cuda}
    return [torch.cuda.default_generators[i] for i in sorted(i for i in indices if i is not None)]


def attach(model: nn.Module, plan: Plan) -> Supervised:
    """Supervise `model` as planned; its class, parameters and code stay as they are.

    Attach before `torch.compile`, DistributedDataParallel and `fully_shard`, and before making the optimiser. Heads
    are initialised under a forked random state, on the model's device. What the model lends a head stays as it is. A failed
    attach changes nothing.
    Raises `AttachError` (already attached, compiled, wrapped) or `PlanError` (a plan of another model).
    """
    _check_attachable(model, plan)
    anchor = next((p for p in model.parameters() if p.is_floating_point()), None)
    built: dict[str, nn.Module] = {}
    cuda = [anchor.device.index] if anchor is not None and anchor.is_cuda else []
    with torch.random.fork_rng(devices=cuda):
        for branch in plan.branches:
            head = _head(branch, built, plan, model)
            built[branch.name] = zero(head, branch.feature, model=model) if branch.zero else head
    if anchor is not None:
        for head in built.values():
            place(head, lent(head, model), anchor)
    net = Supervised(model, built, plan)
    for branch in plan.branches:
        if branch.layer == INPUT:
            model.register_forward_hook(InputTap(branch.name, net.recorder))
            continue
        layer, call = split_call(branch.layer)
        how: dict[str, Any] = {"pick": branch.pick, "clone": branch.clone, "requires_grad": branch.requires_grad}
        tap = Tap(branch.name, net.recorder, rule=branch.gradient, call=call, **how)
        model.get_submodule(layer).register_forward_hook(tap)
        net.taps[branch.name] = tap
    for e in net.inner.values():
        kind, root = (FeatureTap, model) if e.output == MAIN else (HeadTap, built[e.output])
        root.get_submodule(e.first).register_forward_hook(kind(e.output, net.recorder))
    net.set_factors(0.0, first=True)
    return net


def _head(branch: Branch, built: dict[str, nn.Module], plan: Plan, model: nn.Module) -> nn.Module:
    """The head of a branch; one that branches share is the one that was built for the first of them."""
    first = first_of(plan.branches, branch.head)
    if first is not None and first.name in built:
        check_alike(first, branch.name, branch.feature)
        return built[first.name]
    return build(branch.head, branch.feature, plan.classes, model=model, layer=branch.layer, main=plan.main)


def _check_attachable(model: nn.Module, plan: Plan) -> None:
    refuse_wrapped(model)
    found = fingerprint(model)
    if found != plan.fingerprint:
        raise PlanError(
            f"this plan was made for another model: {plan.model} with fingerprint {plan.fingerprint}; this is "
            f"{type(model).__name__} with fingerprint {found} (layer names and types, parameter shapes). Plan again for "
            "this model."
        )
    layers = dict(model.named_modules(remove_duplicate=False))
    for e in plan.embeddings:
        if e.output == MAIN and e.adds:
            _check_there(e.first, layers, f"the feature of '{MAIN}' is what enters")
            refuse_compiled(model, e.first)
    for branch in plan.branches:
        if branch.layer == INPUT:
            continue
        layer = split_call(branch.layer)[0]
        _check_there(layer, layers, f"branch '{branch.name}' reads")
        refuse_compiled(model, layer)


def _check_there(layer: str, layers: dict[str, nn.Module], reads: str) -> None:
    if layer not in layers:
        raise PlanError(
            f"{reads} the layer '{layer}', which {type(layers['']).__name__} does not have.{closest(layer, layers)} Plan again "
            "for this model."
        )


def unwrap(net: nn.Module) -> Supervised:
    """The `Supervised` inside compile, DistributedDataParallel and Fabric wrappers. Raises `AttachError` if there is none."""
    target = supervised_in(net)
    if target is not None:
        return target
    raise AttachError(
        f"this {type(net).__name__} is not supervised: it was never attached or is stripped already. "
        "Pass what deepsup.attach returned."
    )


def supervised_in(net: nn.Module) -> Supervised | None:
    """The `Supervised` that `unwrap` finds, or None."""
    return next((module for module in chain(net, any_module=True) if isinstance(module, Supervised)), None)


def is_supervised(net: nn.Module) -> bool:
    """Whether branches are on this net: what `attach` returned, a wrapper around it, or the model inside it."""
    inside = supervised_in(net)
    return bool(taps_on(inside.model, inside.recorder) if inside else taps_on(net))


@contextmanager
def supervising(net: nn.Module, on: bool = True) -> Iterator[None]:
    """Inside, and in this thread, `net(x)` returns `Outputs` whatever the train flag says (or, with `on=False`, never does)."""
    recorder = unwrap(net).recorder
    before = recorder.supervise
    recorder.supervise = on
    try:
        yield
    finally:
        recorder.supervise = before
