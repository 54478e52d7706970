"""From settings to what a run trains: data, model, plan and branches; trains and writes nothing.

prepared = prepare(load("digits.yaml"))
prepared.net, prepared.plan, prepared.data
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from deepsup import datasets, doctor, methods, networks
from deepsup.doctor.batch_checks import NO_OVERLAP, ONE_CROP
from deepsup.doctor.findings import Diagnosis, Finding, diagnosis, from_error
from deepsup.errors import ConfigError, DeepsupError, EmbeddingError, HeadError
from deepsup.evaluation import devices
from deepsup.evaluation.loaders import SplitLoader
from deepsup.plans.plan import Plan
from deepsup.plans.planning import plan as make_plan
from deepsup.probes import Probe, probe
from deepsup.settings import configs, training
from deepsup.settings.section import check
from deepsup.settings.training import TrainConfig
from deepsup.supervision.attaching import attach
from deepsup.supervision.objectives import Objective
from deepsup.tasks import TASKS
from deepsup.training import lookahead, preflight
from deepsup.training.class_weights import with_class_weight
from deepsup.training.journal import Record
from deepsup.training.starting import Begun, start_from

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Prepared(NamedTuple):
    """What a run will train: `net` is supervised, or the plain model; `placement` is what the probe saw, if asked."""

    net: nn.Module
    plan: Plan
    data: datasets.Dataset
    placement: Record | None
    epochs: int
    begun: Record | None = None


def prepare(
    config: TrainConfig, *, plan: dict[str, Any] | None = None, fabric: Fabric | None = None, resumes: bool = False
) -> Prepared:
    """Load the data, build the model and attach its branches, on the CPU; writes nothing.

    `plan` is that of a checkpoint, which may name what the settings name; without one it is made here, by the probe if
    `supervise.at` is `auto`. The model's weights depend on the seed alone, not on the branches, or are those of `config.start`,
    unless the run `resumes` with those of its checkpoint. Raises
    `ClassCountError` when model and data disagree.
    """
    data = load_data(config)
    config = with_class_weight(config, data)
    devices.seed_everything(config.seed)
    model = build(config, classes=classes_of(config, data), channels=data.train.channels, size=data.train.size)
    begins = config.start is not None and not resumes
    if begins:
        _begin(model, config, warn=False)  # what the probe sees are the weights that train
    placement = None
    if plan is not None and config.supervise is not None:
        chosen = Plan.from_dict(plan, trust=configs.asked_names(config))
    else:
        chosen, placement = _plan(config, model, data)
        if fabric is not None and fabric.world_size > 1 and chosen.outputs:
            chosen = Plan.from_dict(devices.gathered(fabric, chosen.to_dict())[0], trust=True)
    epochs = _equal_epochs(config, model, data) if is_equal_compute(config) else config.epochs
    net = attach(model, chosen) if chosen.outputs else model
    return Prepared(net, chosen, data, placement, epochs, _begin(net, config).record() if begins else None)


def _begin(net: nn.Module, config: TrainConfig, *, warn: bool = True) -> Begun:
    assert config.start is not None
    return start_from(net, config.start, warn=warn)


def check_run(config: TrainConfig, data: datasets.Dataset | None = None) -> datasets.Dataset:
    """Raise what `prepare` would raise up to the plan; trains, attaches and writes nothing, and does not probe.

    `data` are the images of these settings, if they are loaded already; returns them. Where the probe would choose the
    layers, batches are checked and branches are not: what it finds is known when the run starts.
    """
    data = load_data(config) if data is None else data
    config = with_class_weight(config, data)
    devices.seed_everything(config.seed)
    model = build(config, classes=classes_of(config, data), channels=data.train.channels, size=data.train.size)
    for each in (config, _followed(config)) if is_equal_compute(config) else (config,):
        settings = each.supervise
        if settings is None or methods.get(settings.method).bare or _places(settings) != "auto":
            _plan(each, model, data)
        else:
            _check_batches(each, methods.get(settings.method))
    return data


def is_equal_compute(config: TrainConfig) -> bool:
    """Whether a run is the control whose length follows from another method's cost."""
    return config.supervise is not None and methods.get(config.supervise.method).name == "equal-compute"


def _followed(config: TrainConfig) -> TrainConfig:
    """The run whose compute the control matches: the settings in `supervise.like`, with batches as its method needs them."""
    like = config.supervise.like if config.supervise else None
    if not isinstance(like, dict):
        raise ConfigError(
            "method 'equal-compute' needs supervise.like: the supervise settings whose compute is to be matched, or in a "
            f"comparison the name of the arm; found {like!r}."
        )
    supervise = check(training.SuperviseConfig, like, where="supervise.like")
    method = methods.get(supervise.method)
    batches = config.data.model_copy(update={"views": method.views, "overlap": method.overlap})
    return config.model_copy(update={"supervise": supervise, "data": batches})


def _equal_epochs(config: TrainConfig, model: nn.Module, data: datasets.Dataset) -> int:
    """As many epochs of the plain model as cost what the method in `supervise.like` costs; at least as many as set."""
    plan = _plan(_followed(config), model, data)[0]
    each = 1 + plan.cost["head_flops"] / plan.cost["trunk_flops"]
    passes = plan.views * (2 if plan.overlap else 1)  # how often an epoch shows each image
    own = config.data.views * (2 if config.data.overlap else 1)
    return max(config.epochs, round(config.epochs * passes * each / own))


def measure(config: TrainConfig, *, at: list[str] | dict[str, str] | None = None) -> Probe:
    """Probe the gradients of the configured model on its training batches; trains and writes nothing.

    With `at` the model is supervised there, from the same weights and on the same batches, and measured under the whole
    objective as it is at the start of training.
    """
    data = load_data(config)
    devices.seed_everything(config.seed)
    model = build(config, classes=classes_of(config, data), channels=data.train.channels, size=data.train.size)
    if at is None:
        return _probe(config, model, data)
    settings = config.supervise or training.SuperviseConfig()
    method = "aux" if methods.get(settings.method).bare else settings.method
    supervise = settings.model_copy(update={"at": at, "method": method})
    plan, _ = _plan(config.model_copy(update={"supervise": supervise}), model, data)
    net = attach(model, plan)
    net.set_progress(0.0)
    return _probe(config, net, data, objective=Objective(plan))


def diagnose(config: configs.Config) -> dict[str, Diagnosis]:
    """Look for traps in model, branches and data as configured, on the first training batch; trains and writes nothing.

    Of a comparison, in every arm but the baseline of every group, by the name GROUP/ARM; a single run has no name. What `prepare`
    would refuse is a finding here. Raises only what leaves nothing to look at (`DatasetError`, `ConfigError`).
    """
    if isinstance(config, TrainConfig):
        return {"": _diagnose(config)}
    cells = {(c.group, c.arm): c.config for c in reversed(config.expand())}
    return {f"{g}/{arm}": _diagnose(cells[g, arm]) for g in config.groups for arm in config.candidates}


def _diagnose(config: TrainConfig) -> Diagnosis:
    data = load_data(config)
    devices.seed_everything(config.seed)
    model = build(config, classes=classes_of(config, data), channels=data.train.channels, size=data.train.size)
    sample, target = next(_batches(config, data))
    found = _of_model(config, data, model, sample, target)
    compared = config.embedding.loss is not None
    more = preflight.of_identities(
        data, config.data.batch_size, compared=compared, model=model, sample=sample, layer=config.embedding.of_main
    )
    return diagnosis([*found, *more], found.checked)


def _of_model(config: TrainConfig, data: datasets.Dataset, model: nn.Module, sample: Any, target: Any) -> Diagnosis:
    settings = config.supervise
    sizes = training_loader(config, data).batch_sizes
    common: dict[str, Any] = {
        "loss": config.main_loss,
        "classes": classes_of(config, data),
        **config.embedding.of_plan,
    }
    look = partial(doctor.diagnose, model, sample, target, batch_sizes=sizes, **common)
    if settings is None:
        return look()
    refused = _refusals(config, model, data)
    method = methods.get(settings.method)
    if method.places is not None and settings.at == "auto":  # refused; what the method does by itself is looked at
        settings = settings.model_copy(update={"at": None})
    if method.bare:
        name = "none" if is_equal_compute(config) else settings.method
        seen = look(at=settings.at, method=name)
    elif _places(settings) != "auto":
        options = _branch_options(config, settings)
        seen = look(at=settings.at, branch_loss=settings.loss, **options)
    else:
        try:
            seen = look() if refused else look(plan=_plan(config, model, data)[0])
        except DeepsupError as error:
            refused.append(from_error(error, _key_of(error)))
            seen = look()
    said = {f.code for f in refused} & {
        ONE_CROP.code,
        NO_OVERLAP.code,
    }  # by the key to set, which helps more than the batch
    return diagnosis([*refused, *(f for f in seen if f.code not in said)], seen.checked)


def _refusals(config: TrainConfig, model: nn.Module, data: datasets.Dataset) -> list[Finding]:
    """What `prepare` would refuse besides the branches, by the key of the setting: batches, and compute to be matched."""
    assert config.supervise is not None
    method = methods.get(config.supervise.method)
    found = []
    try:
        _check_batches(config, method)
    except ConfigError as error:
        key, trap = ("views", ONE_CROP) if method.views > config.data.views else ("overlap", NO_OVERLAP)
        found.append(from_error(error, f"data.{key}", trap=trap))
    try:
        method.check_at(config.supervise.at)
    except ConfigError as error:
        found.append(from_error(error, "supervise.at"))
    if is_equal_compute(config):
        try:
            _equal_epochs(config, model, data)
        except DeepsupError as error:
            found.append(from_error(error, "supervise.like"))
    return found


def _key_of(error: DeepsupError) -> str:
    """The key of the settings that a refusal of `plan` is about."""
    embedding = re.match("embedding(?:_(loss|weight))?=", str(error))
    if embedding or isinstance(error, EmbeddingError):
        return f"embedding.{(embedding and embedding[1]) or 'layer'}"
    parts = {"head": "head", "branch_loss": "loss", "weight": "weight", "gradient": "gradient"}
    named = next((key for part, key in parts.items() if str(error).startswith(f"{part}=")), "at")
    return f"supervise.{'head' if isinstance(error, HeadError) else named}"


def load_data(config: TrainConfig) -> datasets.Dataset:
    """The images of these settings; raises `ConfigError` for a score that their classes do not have."""
    settings = config.data.model_dump(exclude={"batch_size", "overlap", "balanced", "tile", "stride"})
    data = datasets.load(**settings, seed=0)  # the same images for every seed
    TASKS[data.task].check_metric(config.score_name, data.classes)
    lookahead.check_shift(config, data)
    return data


def classes_of(config: TrainConfig, data: datasets.Dataset) -> int:
    """How many classes the model scores: of two classes a pixel, 1 where the loss takes each score through a sigmoid."""
    method = methods.get(config.supervise.method if config.supervise else "none").under(config.main_loss)
    return TASKS[data.task].channels(data.classes, method.main_loss)


def training_loader(config: TrainConfig, data: datasets.Dataset, **share: Any) -> SplitLoader:
    """The batches that a run trains on; `share` says which process reads them, and on what device."""
    settings = config.data
    drawn: dict[str, Any] = {"overlap": settings.overlap, "balanced": settings.balanced}
    return SplitLoader(data.train, settings.batch_size, seed=config.seed, **drawn, **share)


def build(config: TrainConfig, *, classes: int, channels: int, size: int) -> nn.Module:
    return networks.build(config.model, classes=classes, in_channels=channels, size=size, options=config.model_options)


def _plan(config: TrainConfig, model: nn.Module, data: datasets.Dataset) -> tuple[Plan, Record | None]:
    sample = next(_batches(config, data))[0][:2]
    made, placement = _planned(config, model, data, sample)
    if lookahead.follows(data):
        lookahead.check_unseen(model, sample, made, name=config.model, symbols=data.channels)
    return made, placement


def _planned(
    config: TrainConfig, model: nn.Module, data: datasets.Dataset, sample: Tensor
) -> tuple[Plan, Record | None]:
    settings = config.supervise
    common: dict[str, Any] = {
        "loss": config.main_loss,
        "classes": classes_of(config, data),
        **config.embedding.of_plan,
    }
    if settings is None:
        return make_plan(model, sample, method="none", **common), None
    _check_batches(config, methods.get(settings.method))
    if methods.get(settings.method).bare:
        method = "none" if is_equal_compute(config) else settings.method
        return make_plan(model, sample, settings.at, method=method, **common), None
    at, placement = _places(settings), None
    if at == "auto":
        at, placement = _probed(config, settings, model, data)
    options = _branch_options(config, settings)
    return make_plan(model, sample, at, branch_loss=settings.loss, **common, **options), placement


def _places(settings: training.SuperviseConfig) -> Any:
    """Where the branches go: as set, else where the method puts them itself (None), else where the probe says."""
    methods.get(settings.method).check_at(settings.at)
    if settings.at is not None or methods.get(settings.method).places is not None:
        return settings.at
    return "auto"


def _check_batches(config: TrainConfig, method: methods.Method) -> None:
    """Methods that compare crops, or batches, need batches that hold them."""
    if method.views > config.data.views:
        raise ConfigError(
            f"method '{method.name}' compares {method.views} crops of each image, and data.views is {config.data.views}. Set "
            f"data.views={method.views} and an augmentation that tells the crops apart (data.augment=standard), or neither."
        )
    if method.overlap and not config.data.overlap:
        raise ConfigError(
            f"method '{method.name}' learns from the batch before, and data.overlap is off: no batch holds samples of the "
            "last one. Set data.overlap=true, or leave it out."
        )


def _probed(
    config: TrainConfig, settings: training.SuperviseConfig, model: nn.Module, data: datasets.Dataset
) -> tuple[list[str], Record]:
    """Where the probe puts the branches, and the journal's record of why."""
    rule = settings.probe.rule or methods.get(settings.method).rule
    seen = _probe(config, model, data)
    advice = seen.recommendation(rule, factor=settings.probe.factor, count=settings.probe.count)
    if not advice.at:
        raise ConfigError(
            f"supervise.at is auto, but by the rule '{rule}' no gradient vanishes in {config.model}:\n{seen}\n"
            "Choose layers by name or depth (supervise.at=[50%]), or train the plain model (supervise=null)."
        )
    found = {"kind": "placement", "rule": rule, "layers": advice.at, "gradients": seen.means()}
    return advice.at, found | {"reason": advice.reason, "probe": seen.to_dict()}


def _branch_options(config: TrainConfig, settings: training.SuperviseConfig) -> dict[str, Any]:
    """What `plan` and the doctor are told alike about the branches."""
    names = ("method", "head", "weight", "gradient", "zero_heads", "optional")
    return {name: getattr(settings, name) for name in names} | {"epochs": config.epochs}


def heads_of(settings: training.SuperviseConfig, layers: Iterable[str]) -> dict[str, str]:
    """The head that a branch would have, by layer."""
    places = settings.at if isinstance(settings.at, dict) else {}
    given = settings.head
    named = {places.get(branch, branch): head for branch, head in given.items()} if isinstance(given, dict) else {}
    default = given if isinstance(given, str) else methods.get(settings.method).head
    return {layer: named.get(layer, default) for layer in layers}


def _batches(config: TrainConfig, data: datasets.Dataset, *, epoch: int = 0) -> Iterator[Any]:
    return training_loader(config, data).epoch(epoch)


def _probe(
    config: TrainConfig, model: nn.Module, data: datasets.Dataset, *, objective: Objective | None = None
) -> Probe:
    """Over as many epochs as it takes, because a small data set has fewer batches than the probe has iterations."""
    settings = config.supervise.probe if config.supervise else training.ProbeConfig()
    epochs = chain.from_iterable(_batches(config, data, epoch=epoch) for epoch in count())
    goal = None if objective is None else lambda output, y: objective(output, y, progress=0).total
    limits: dict[str, Any] = {"iterations": settings.iterations, "threshold": settings.threshold}
    limits |= {"loss": config.main_loss} if config.main_loss else {}
    return probe(model, islice(epochs, settings.iterations), objective=goal, **limits)
