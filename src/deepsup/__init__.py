"""Train the middle of a network, not only its end.

Attach auxiliary supervision to any PyTorch layer by name, train, then remove everything without a trace:

    plan = deepsup.plan(model, sample, at=["layer1", "layer2"], method="cnds")
    net = deepsup.attach(model, plan)
    terms = deepsup.Objective(plan)(net(x), y, progress=step / total)
    terms.total.backward()
    model = deepsup.strip(net)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepsup import errors, features, gradients, heads, losses, methods, schedules
from deepsup.doctor import Diagnosis, Finding, diagnose
from deepsup.features import Feature, main_prediction
from deepsup.files import load_weights, save_weights
from deepsup.layers.dry_run import trace
from deepsup.plans.plan import Branch, Plan
from deepsup.plans.planning import plan
from deepsup.probes import Probe, probe
from deepsup.supervision.attaching import Outputs, Supervised, attach, is_supervised, supervising
from deepsup.supervision.conflict_meter import Conflict, ConflictMeter, jacobian_backward, parameter_conflicts
from deepsup.supervision.embedding import embedder, embeddings
from deepsup.supervision.exits import early_exit, ensemble
from deepsup.supervision.objectives import Objective, Terms
from deepsup.supervision.parameter_groups import parameter_groups
from deepsup.supervision.stripping import strip, verify
from deepsup.terms import Edge

if TYPE_CHECKING:
    from deepsup.training.fit import fit

__version__ = "0.1.0"

__all__ = [
    "Branch",
    "Conflict",
    "ConflictMeter",
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


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # The trainer needs more than torch, so it is only imported when it is asked for.
    if name == "fit":
        try:
            from deepsup.training.fit import fit
        except ModuleNotFoundError as error:
            raise errors.MissingPackageError(
                f'deepsup.fit needs the package {error.name!r}, which is not installed: pip install "deepsup[train]".'
            ) from error
        return fit
    raise AttributeError(f"module 'deepsup' has no attribute {name!r}")
