"""What a run keeps beside its checkpoint: the best epoch's weights, and the checkpoints of the last epochs.

Both are written before the run's own checkpoint of the same epoch, so that after a kill between the two the epoch is trained
again and writes the same once more.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from deepsup import ownership
from deepsup.files import save_weights
from deepsup.supervision.attaching import Supervised
from deepsup.training import checkpoints
from deepsup.training.checkpoints import Checkpoint
from deepsup.training.owned_folders import BEST

FOLDER = "checkpoints"
_START = f"{FOLDER}/epoch-"


def keep_best(net: nn.Module, folder: Path) -> None:
    """Write the plain weights of the best epoch so far, and those of the heads."""
    model, heads = BEST
    if isinstance(net, Supervised):
        ownership.write(folder, heads, partial(save_weights, net.heads))
        net = net.model
    ownership.write(folder, model, partial(save_weights, net))


def keep_epoch(checkpoint: Checkpoint, folder: Path, *, last: int) -> None:
    """Write the checkpoint of a finished epoch beside those before it, of which the `last` stay; one is the run's own."""
    if last == 1:
        return
    ownership.write(folder, _name(checkpoint.epoch), partial(checkpoints.save, checkpoint))
    for name in ownership.recorded(folder):
        if name.startswith(_START) and int(name[len(_START) :].partition(".")[0]) <= checkpoint.epoch - last:
            ownership.remove(folder, name)


def _name(epoch: int) -> str:
    return f"{_START}{epoch:04d}.ckpt"


def out_of_patience(epoch: int, best: int | None, patience: int | None, *, every: int) -> bool:
    """Whether the last validation up to `epoch`, of those `every` so many, came `patience` epochs or more after the best."""
    return patience is not None and best is not None and epoch - epoch % every - best >= patience
