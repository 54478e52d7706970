"""Journal records as TensorBoard scalars."""

from __future__ import annotations

from pathlib import Path

from deepsup.errors import MissingPackageError

from .journals import Record, Sink


def sink(folder: Path, *, purge_step: int | None = None) -> Sink:
    """A function that writes each record's numbers to `folder/tensorboard`; events after `purge_step` are void."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingPackageError(
            'log.tensorboard needs TensorBoard, which is not installed: pip install "deepsup[tensorboard]".'
        ) from None
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    def write(record: Record) -> None:
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, record["step"])
        if record["kind"] in ("epoch", "stop", "end"):
            writer.flush()
        if record["kind"] in ("stop", "end"):
            writer.close()

    return write


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a step or epoch record by the name TensorBoard shows them under."""
    if record["kind"] == "step":
        losses = {"total": record["total"], **record["parts"]}
        groups = {"loss": losses, "weight": record["weights"], "lr": {"model": record["lr"]}}
    elif record["kind"] == "epoch":
        groups = {f"validation {kind}": scores for kind, scores in (record["validation"] or {}).items()}
    elif record["kind"] == "gradients":
        groups = {"gradient": record["layers"]}
    else:
        groups = {}
    return {f"{group}/{n}": v for group, values in groups.items() for n, v in values.items() if v is not None}
