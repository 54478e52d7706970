"""What the doctor says: one `Finding` a trap, gathered in a `Diagnosis` that prints one line each.

Every trap has a code, by which `docs/doctor.md` explains it and tests name it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from deepsup.errors import (
    AlreadyAttachedError,
    AttachError,
    BranchNameError,
    ClassCountError,
    CompiledModelError,
    ConfigError,
    DataParallelError,
    DeepsupError,
    HeadError,
    LayerError,
    LayerNotCalledError,
    LayerReusedError,
    OutputError,
    PlanError,
    UnknownLayerError,
)

ERROR, WARNING = "error", "warning"


class Trap(NamedTuple):
    """What is known of a trap wherever it lies: how bad it is, why it hurts, and the usual remedy."""

    severity: str
    why: str
    fix: str


TRAPS: dict[str, Trap] = {
    # how the model is wrapped
    "data-parallel": Trap(
        ERROR,
        "It copies the model for every device on every call, and all copies would share one tap",
        "Use DistributedDataParallel, also on one machine: DistributedDataParallel(deepsup.attach(model, plan))",
    ),
    "compiled-before-attach": Trap(
        ERROR,
        "PyTorch ignores hooks that come after compiling, so its branches would see nothing and train nothing",
        "Attach to the plain model first, then compile: torch.compile(deepsup.attach(model, plan))",
    ),
    "wrapped-before-attach": Trap(
        ERROR,
        "Heads added now are not kept in step between the processes: they would drift apart without an error",
        "Attach first, then wrap: DistributedDataParallel(deepsup.attach(model, plan))",
    ),
    "head-outside-ddp": Trap(
        ERROR,
        "DistributedDataParallel averages only the parameters it was made with: these differ more between the processes "
        "with every step, and nothing says so",
        "Wrap what attach returned, once everything is in it: DistributedDataParallel(deepsup.attach(model, plan))",
    ),
    "unused-parameter-search": Trap(
        WARNING,
        "Every parameter takes part in every step, also those of branches with weight 0, so walking the whole graph for "
        "unused ones costs time in each step and finds none",
        "Leave it out: DistributedDataParallel(net)",
    ),
    "unused-parameters": Trap(
        ERROR,
        "DistributedDataParallel waits for their gradients and stops with an error in the second step",
        "Freeze them (requires_grad_(False)) before wrapping, or pass find_unused_parameters=True",
    ),
    "bare-model": Trap(
        ERROR,
        "The taps record only inside the net that attach returned: called by itself this model trains no branch",
        "Train the net that deepsup.attach returned (and compile or wrap that one), or take the taps off with deepsup.strip",
    ),
    "already-attached": Trap(
        ERROR,
        "A model takes one set of branches: attaching a second is refused",
        "Strip it first, model = deepsup.strip(net), then plan and attach again",
    ),
    # layers
    "unknown-layer": Trap(
        ERROR, "Planning stops at a name that means no layer", "List the layers with: deepsup layers MODEL"
    ),
    "layer-not-called": Trap(
        ERROR, "A tap on it never fires, and every training step would raise", "Choose another layer"
    ),
    "reused-layer": Trap(
        ERROR,
        "It gives several outputs in one forward, and nothing says which one a branch should read",
        "Choose the block around it, or give each call a module of its own",
    ),
    "reentrant-checkpoint": Trap(
        ERROR,
        "Inside the checkpoint there is no graph: a branch there trains its head alone, and the trunk gets nothing from it",
        "Checkpoint with use_reentrant=False, or tap the checkpointed block as a whole",
    ),
    "unreadable-layer": Trap(ERROR, "A head has nothing it could read there", "Choose the block around it"),
    "inplace-successor": Trap(
        WARNING,
        "Without a copy the branch would read what the next layer made of it; the tap therefore keeps one, in memory and "
        "time of every step",
        "Tap the layer that follows, or set inplace=False there",
    ),
    "side-path": Trap(
        WARNING,
        "The branch trains layers that the prediction never reads: the main output gains nothing",
        "Choose a layer between the input and the prediction",
    ),
    "head-only": Trap(
        WARNING,
        "The branch's gradient reaches no weight of the trunk: it trains its own head and nothing else",
        "Unfreeze a layer below it (requires_grad_(True)), or tap a layer after the first trainable one",
    ),
    "layer-read-inside": Trap(
        WARNING,
        "What comes from above past the tensor that it returns is not seen at the tap: whether the branch is in conflict "
        "with it cannot be measured, and a rule that weighs the two would weigh a part only",
        "Tap a layer inside it, or the one around it",
    ),
    # heads
    "head-unfit": Trap(ERROR, "Planning or the first step stops here", "Choose another head, for example head='pool'"),
    "dtype-mismatch": Trap(
        WARNING,
        "Outside autocast the activation is cast to the head's type in every step: a copy in memory, and from float32 to "
        "half precision a loss of digits",
        "Run the forward under torch.autocast, or give both one type: net.to(dtype) after attach",
    ),
    "half-weights": Trap(
        WARNING,
        "Half precision (float16) rounds gradients under 3e-8 to zero and loses updates smaller than a thousandth of a weight; "
        "GradScaler refuses float16 gradients",
        "Keep the weights in float32 and run the forward under torch.autocast with a GradScaler, or use bfloat16",
    ),
    "one-value-per-channel": Trap(
        ERROR,
        "Batch normalisation has no spread to divide by and stops: 'Expected more than 1 value per channel'",
        "Leave out the last batch (drop_last=True), take another batch size, or normalise with GroupNorm",
    ),
    "dear-branch": Trap(
        WARNING,
        "The branch costs more than the model it should help, in every training step",
        "Use a lighter head, for example head='pool', or a layer with a smaller map",
    ),
    "early-heavy-branch": Trap(
        WARNING,
        "A light classifier early on pulls the first layers towards features that are linear in the classes; with a "
        "large weight that never falls this is known to cost the final output up to several points",
        "Lower the weight or let it fall, weight='linear(0.3, 0)', tap deeper, or use a deeper head such as 'cnds'",
    ),
    "frozen-head": Trap(
        WARNING,
        "A head that does not learn pulls the trunk towards random scores",
        "Unfreeze it: net.heads[name].requires_grad_(True)",
    ),
    # losses, labels and weights
    "class-count": Trap(
        ERROR,
        "Cross-entropy has no score for such a label: it raises, or on a GPU aborts the process",
        "Build model and heads with as many classes as the data have, count labels from 0, and set pixels to ignore to -100",
    ),
    "normalised-scores": Trap(
        ERROR,
        "Cross-entropy applies log-softmax itself: applied twice, it flattens the gradients, and training is slow or stalls",
        "Give out raw scores: remove the softmax or log_softmax at the end",
    ),
    "raw-scores-in-nll": Trap(
        ERROR,
        "The loss nll_loss expects log-probabilities: of raw scores it rewards ever larger numbers, without a lower bound",
        "Use loss='cross_entropy', or put log_softmax before the loss",
    ),
    "mean-kl": Trap(
        WARNING,
        "This reduction divides by classes and pixels too, so the term is smaller than its weight says, by the number of "
        "scores a sample",
        "Use torch.nn.functional.kl_div(..., reduction='none').sum(1).mean(), which is the mean over samples and pixels",
    ),
    "lost-classes": Trap(
        WARNING,
        "Small objects fall between the pixels that are kept: the branch learns that these classes do not exist",
        "Enlarge the scores to the size of the labels (interpolate) rather than shrink the labels, or tap a layer with a "
        "larger map",
    ),
    "target-unfit": Trap(
        ERROR, "The first training step stops here", "Give the branch a head or a loss= that fits the target"
    ),
    "one-crop": Trap(
        ERROR,
        "The method compares two crops of each image: it would take different images for the same one, and the first training "
        "step stops instead",
        "Cat both crops, model(torch.cat([crop1, crop2])), and repeat the labels, torch.cat([y, y]); with settings data.views=2",
    ),
    "no-overlap": Trap(
        ERROR,
        "The method compares what the model says of a sample with what it said of it one batch ago: there is nothing to learn "
        "from, and training stops after a step or two",
        "Wrap your batches, deepsup.evaluation.loaders.overlapping(batches); with settings data.overlap=true",
    ),
    "loss-failed": Trap(ERROR, "The first training step stops here", "Try the loss on one output by hand"),
    "loss-not-finite": Trap(
        ERROR,
        "One step makes every weight NaN",
        "Look for a logarithm or division of zero, a batch of ignored labels only, or float16 overflow",
    ),
    "loss-without-gradient": Trap(
        ERROR,
        "Nothing learns from it",
        "Compute prediction and loss with gradients on, without .detach(), .item() or torch.no_grad() on the way",
    ),
    "branch-without-loss": Trap(
        ERROR,
        "The head is computed and never trained; the objective refuses such outputs",
        "Use the plan that the net was attached with: Objective(net.plan)",
    ),
    "loss-without-branch": Trap(
        ERROR,
        "The objective waits for an output that never comes",
        "Use the plan that the net was attached with: Objective(net.plan)",
    ),
    "unused-prediction": Trap(
        WARNING,
        "The model computes them in training, but no loss reaches them: their layers stay as they were initialised",
        "Let its forward return the prediction alone in training",
    ),
    "weight-always-zero": Trap(
        WARNING,
        "The head is paid for in every step and teaches the trunk nothing; fine as a control, not as supervision",
        "Give it a weight, for example weight=0.3, or leave the branch out",
    ),
    "weight-unusable": Trap(
        ERROR,
        "A weight that is negative trains the branch to be wrong, one that is not a number makes the loss NaN",
        "Use a schedule that gives finite numbers from 0 up for every progress in [0, 1]",
    ),
    "gradient-unusable": Trap(
        ERROR,
        "It is called in every backward pass: the first one stops, or makes every weight below the branch NaN",
        "Return what goes down, a finite tensor of the shape of above and branch; for example: return above + branch",
    ),
    # optimiser and settings
    "nothing-trainable": Trap(
        ERROR,
        "The loss has no gradient: backward stops, and no step changes anything",
        "Unfreeze what should learn: model.requires_grad_(True), or the same on some of its layers",
    ),
    "parameters-not-in-optimizer": Trap(
        WARNING,
        "They get gradients in every step, which cost time and memory, and never change",
        "If they should learn, make the optimiser with SGD(deepsup.parameter_groups(net, lr=...)); if not, freeze them: "
        "requires_grad_(False)",
    ),
    "head-not-in-optimizer": Trap(
        ERROR,
        "These heads stay as they were initialised, and pull the trunk towards random scores",
        "Make the optimiser after attach: SGD(deepsup.parameter_groups(net, lr=...))",
    ),
    "foreign-optimizer": Trap(
        ERROR,
        "It holds none of this model's parameters, so no step changes anything",
        "Make the optimiser for this very net: SGD(deepsup.parameter_groups(net, lr=...))",
    ),
    "unknown-branch": Trap(ERROR, "Planning stops at a name that means no branch", "Use the names of the branches"),
    "foreign-plan": Trap(
        ERROR,
        "Attaching is refused: layers and shapes are not those that were planned for",
        "Plan again for this model",
    ),
    "bad-setting": Trap(ERROR, "Planning stops here", "Correct the setting"),
    "output-unclear": Trap(ERROR, "Nobody can say where the prediction is", "Say it with main='NAME'"),
    "forward-failed": Trap(
        ERROR,
        "No training step can run",
        "The sample must be what the model takes in training, batch axis first, on the model's device",
    ),
}

OF_ERRORS: dict[type[DeepsupError], str] = {  # the most special class first
    UnknownLayerError: "unknown-layer",
    LayerNotCalledError: "layer-not-called",
    LayerReusedError: "reused-layer",
    LayerError: "unreadable-layer",
    HeadError: "head-unfit",
    ClassCountError: "class-count",
    OutputError: "output-unclear",
    BranchNameError: "unknown-branch",
    PlanError: "foreign-plan",
    AlreadyAttachedError: "already-attached",
    CompiledModelError: "compiled-before-attach",
    DataParallelError: "data-parallel",
    AttachError: "wrapped-before-attach",
    ConfigError: "bad-setting",
}


@dataclass(frozen=True)
class Finding:
    """One trap that was found. `severity` is "error" (will stop or train wrongly) or "warning"; texts lack the full stop."""

    code: str
    severity: str
    where: str
    what: str
    why: str
    fix: str

    def to_dict(self) -> dict[str, str]:
        """For a journal."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}. {self.why}. Fix: {self.fix}. [{self.code}]"


@dataclass(frozen=True)
class Diagnosis:
    """All findings, errors first. Prints one line each and a closing line; empty (and false) when nothing was found."""

    findings: tuple[Finding, ...]
    checked: str = ""  # what was looked at, for the closing line

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Those that will stop training or make it wrong."""
        return tuple(f for f in self.findings if f.severity == ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Those that cost something or are rarely meant."""
        return tuple(f for f in self.findings if f.severity == WARNING)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the findings, each once."""
        return tuple(dict.fromkeys(f.code for f in self.findings))

    def to_dict(self) -> list[dict[str, str]]:
        """For a journal."""
        return [f.to_dict() for f in self.findings]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def summary(self) -> str:
        """The closing line: `no finding: ...`, or `2 errors, 1 warning`."""
        if not self.findings:
            return f"no finding: {self.checked}"
        counts = [(len(self.errors), "error"), (len(self.warnings), "warning")]
        return ", ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in counts if n)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), self.summary])


def diagnosis(found: list[Finding], checked: str) -> Diagnosis:
    """The findings without repetitions, errors first, else in the order in which they were found.

    What is found of several outputs in the very same words is one finding, of all of them.
    """
    places: dict[Finding, dict[str, None]] = {}
    for f in found:
        places.setdefault(replace(f, where=""), {})[f.where] = None
    joined = [replace(f, where=", ".join(where)) for f, where in places.items()]
    return Diagnosis(tuple(sorted(joined, key=lambda f: f.severity != ERROR)), checked)


def finding(code: str, where: str, what: str, *, fix: str = "", why: str = "", severity: str = "") -> Finding:
    """A finding of a known trap; what is not given is the trap's own."""
    trap = TRAPS[code]
    return Finding(code, severity or trap.severity, where, _one_line(what), why or trap.why, _one_line(fix) or trap.fix)


def from_error(error: BaseException, where: str, *, code: str = "", fix: str = "") -> Finding:
    """An error that planning or training would raise, as a finding; its last sentences are the remedy."""
    if not code:
        code = next((c for kind, c in OF_ERRORS.items() if isinstance(error, kind)), "forward-failed")
    if not isinstance(error, DeepsupError):
        return finding(code, where, f"{type(error).__name__}: {error}", fix=fix)
    text = str(error)
    if code == "forward-failed" and text.endswith(
        f"{TRAPS[code].fix}."
    ):  # what the model itself said may have full stops
        return finding(code, where, text.removesuffix(f"{TRAPS[code].fix}."), fix=fix)
    what, *rest = re.split(r"\.\s+(?=[A-Z])", text, maxsplit=1)
    return finding(code, where, what, fix=fix or "".join(rest))


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if flat.endswith("...") else flat.removesuffix(".")
