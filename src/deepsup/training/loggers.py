"""Journal records as TensorBoard scalars."""

from __future__ import annotations

from pathlib import Path

from deepsup.errors import MissingPackageError
from deepsup.training.journal import Record, Sink


def sink(folder: Path, *, purge_step: int | None = None) -> Sink:
    """A function that writes each record's numbers to `folder/tensorboard`; events after `purge_step` are void."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingPackageError(
            'log.tensorboard needs TensorBoard, which is not installed: pip install "deepsup[tensorboard]".'
        ) from None
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    told = {"metric": "score"}

    def write(record: Record) -> None:
        if "metric" in record:
            told["metric"] = record["metric"]
        for name, value in scalars(record, metric=told["metric"]).items():
            writer.add_scalar(name, value, record["step"])
        if record["kind"] in ("epoch", "stop", "end"):
            writer.flush()
        if record["kind"] in ("stop", "end"):
            writer.close()

    return write


def scalars(record: Record, *, metric: str = "score") -> dict[str, float]:
    """The numbers of a step or epoch record by the name TensorBoard shows them under; `metric` is what the score is called."""
    if record["kind"] == "step":
        losses = {"total": record["total"], **record["parts"]}
        groups = {"loss": losses, "weight": record["weights"], "lr": {"model": record["lr"]}}
    elif record["kind"] == "epoch":
        validation = record["validation"] or {}
        groups = {f"validation {metric}": validation.get("score", {}), "validation loss": validation.get("loss", {})}
        for output, found in validation.get("scores", {}).items():
            for name, value in found.items():
                groups.setdefault(f"validation {name}", {})[output] = value
    elif record["kind"] == "gradients":
        groups = {"gradient": record["layers"]}
    else:
        groups = {}
    return {f"{group}/{n}": v for group, values in groups.items() for n, v in values.items() if v is not None}
