"""Train the middle of a network, not only its end.

Attach auxiliary supervision to any PyTorch layer by name, train, then remove everything without a trace:

    plan = deepsup.plan(model, sample, at=["layer1", "layer2"], method="cnds")
    net = deepsup.attach(model, plan)
    terms = deepsup.Objective(plan)(net(x), y, progress=step / total)
    terms.total.backward()
    model = deepsup.strip(net)
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from deepsup import specs

if TYPE_CHECKING:
    from deepsup import errors, features, gradients, heads, losses, methods, schedules
    from deepsup.doctor.diagnose import diagnose
    from deepsup.doctor.findings import Diagnosis, Finding
    from deepsup.features import Feature, main_prediction
    from deepsup.files import load_weights, save_weights
    from deepsup.layers.dry_run import trace
    from deepsup.plans.plan import Branch, Plan
    from deepsup.plans.planning import plan
    from deepsup.probes.measurements import Probe
    from deepsup.probes.probe import probe
    from deepsup.supervision.attaching import Outputs, Supervised, attach, is_supervised, supervising
    from deepsup.supervision.conflict_meter import Conflict, ConflictMeter, jacobian_backward, parameter_conflicts
    from deepsup.supervision.criterion import Criterion
    from deepsup.supervision.embedding import embedder, embeddings
    from deepsup.supervision.exits import early_exit, ensemble
    from deepsup.supervision.loss_terms import Terms
    from deepsup.supervision.objectives import Objective
    from deepsup.supervision.parameter_groups import parameter_groups
    from deepsup.supervision.stripping import strip, verify
    from deepsup.terms import Edge
    from deepsup.training.fit import fit

__version__ = "0.1.0"

__all__ = [
    "Branch",
    "Conflict",
    "ConflictMeter",
    "Criterion",
    "Diagnosis",
    "Edge",
    "Feature",
    "Finding",
    "Objective",
    "Outputs",
    "Plan",
    "Probe",
    "Supervised",
    "Terms",
    "attach",
    "diagnose",
    "early_exit",
    "embedder",
    "embeddings",
    "ensemble",
    "errors",
    "features",
    "fit",
    "gradients",
    "heads",
    "is_supervised",
    "jacobian_backward",
    "load_weights",
    "losses",
    "main_prediction",
    "methods",
    "parameter_conflicts",
    "parameter_groups",
    "plan",
    "probe",
    "save_weights",
    "schedules",
    "strip",
    "supervising",
    "trace",
    "verify",
]


_NAMES = {  # by where they live, as above; imported when they are asked for, since torch takes seconds and `--help` needs none
    "doctor.diagnose": ("diagnose",),
    "doctor.findings": ("Diagnosis", "Finding"),
    "features": ("Feature", "main_prediction"),
    "files": ("load_weights", "save_weights"),
    "layers.dry_run": ("trace",),
    "plans.plan": ("Branch", "Plan"),
    "plans.planning": ("plan",),
    "probes.measurements": ("Probe",),
    "probes.probe": ("probe",),
    "supervision.attaching": ("Outputs", "Supervised", "attach", "is_supervised", "supervising"),
    "supervision.conflict_meter": ("Conflict", "ConflictMeter", "jacobian_backward", "parameter_conflicts"),
    "supervision.criterion": ("Criterion",),
    "supervision.embedding": ("embedder", "embeddings"),
    "supervision.exits": ("early_exit", "ensemble"),
    "supervision.loss_terms": ("Terms",),
    "supervision.objectives": ("Objective",),
    "supervision.parameter_groups": ("parameter_groups",),
    "supervision.stripping": ("strip", "verify"),
    "terms": ("Edge",),
    "training.fit": ("fit",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


for _room in ("tasks", "networks"):  # they register words of tasks, and networks that are heads
    specs.LATER[_room] = partial(import_module, f"deepsup.{_room}")


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in __all__ and (name.startswith("_") or find_spec(f"deepsup.{name}") is None):
        raise AttributeError(f"module 'deepsup' has no attribute {name!r}")
    try:
        home = import_module(f"deepsup.{_HOMES.get(name, name)}")
    except ModuleNotFoundError as error:  # the trainer needs more than torch
        if name != "fit" or (error.name or "").startswith("deepsup"):
            raise
        raise import_module("deepsup.errors").MissingPackageError(
            f'deepsup.fit needs the package {error.name!r}, which is not installed: pip install "deepsup[train]".'
        ) from error
    globals()[name] = found = getattr(home, name) if name in _HOMES else home
    return found
