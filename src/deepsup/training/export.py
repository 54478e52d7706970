"""A run as one file that other programs run, with all that its images go through beside it.

>>> export("runs/digits", "digits.onnx")          # and digits.onnx.json: sizes, crops, means, classes, thresholds
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup import ownership
from deepsup.errors import ConfigError, ExportError
from deepsup.features import Pick, main_prediction
from deepsup.files import write_atomically
from deepsup.specs import closest, require
from deepsup.supervision import cut_parts
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.embedding import embedder
from deepsup.supervision.exits import early_exit
from deepsup.tasks.reidentification import RE_IDENTIFICATION
from deepsup.training.predict import Predictor, load
from deepsup.trust import Trust

MAIN = "main"
Written = Callable[[torch.export.ExportedProgram, Path, str], None]


class Exported(NamedTuple):
    """What was written, and the largest difference between what the file and the net say of the same numbers."""

    file: Path
    description: Path
    difference: float


class _Main(nn.Module):
    """A model whose output is the prediction alone."""

    def __init__(self, net: nn.Module, pick: Pick) -> None:
        super().__init__()
        self.net, self.pick = net, pick

    def forward(self, x: Tensor) -> Tensor:
        return main_prediction(self.net(x), self.pick)  # type: ignore[no-any-return]


def export(
    folder: str | Path,
    file: str | Path,
    *,
    form: str = "onnx",
    output: str = MAIN,
    size: tuple[int, int] | None = None,
    trust: Trust = False,
    overwrite: bool = False,
) -> Exported:
    """Write a run's model, or up to one of its branches (`output`), as ONNX or (`form="torch"`) a `torch.export` program.

    Of identities the file gives embeddings, (N, D), rows of length 1; else scores. Its batch is free; `size` (height, width) is
    that of its images, where they are not resized to one. `FILE.json` says what an image goes through before, and
    what the numbers are. The file is run, by onnxruntime or torch, and held against the net on batches of 1 and 3.

    Raises `ConfigError` for a folder without a run, a branch that is not there and a file that is there already,
    `ExportError` where the model cannot be exported or the file answers otherwise, `MissingPackageError` without the extra
    `export`.
    """
    if form not in FORMS:
        raise ConfigError(f"no format is called {form!r}.{closest(form, FORMS)} Formats: {', '.join(FORMS)}.")
    place = Path(file)
    described = place.with_name(f"{place.name}.json")
    ownership.refuse_taken(place, described, overwrite=overwrite)
    predictor = load(folder, branches=output != MAIN, trust=trust)
    net = predictor.net.cpu().eval()
    whole, sample = _module(predictor, net, output), _sample(predictor, size)
    part = cut_parts.cut(whole, sample)
    program = cut_parts.program(part, (sample,), {})
    name = "embedding" if predictor.inputs.task == RE_IDENTIFICATION else "scores"
    writes, runs = FORMS[form]
    differences: list[float] = []

    def write(path: Path) -> None:
        writes(program, path, name)
        differences.append(cut_parts.check(whole, runs(path), (sample,), {}))

    with torch.no_grad():
        told = _described(predictor, part(sample), output, name, sample)
    write_atomically(place, write)
    write_atomically(described, lambda path: path.write_text(json.dumps(told | {"format": form}, indent=1) + "\n"))
    return Exported(place, described, differences[-1])


def _module(predictor: Predictor, net: nn.Module, output: str) -> nn.Module:
    if predictor.inputs.task == RE_IDENTIFICATION:
        said = None if isinstance(net, Supervised) else predictor.config.embedding.of_main
        found = embedder(net, output, embedding=said).eval()
        with torch.no_grad():
            found(_sample(predictor, None))  # finds the layers that score
        return found
    if output != MAIN:
        return early_exit(net, output).eval()
    plan = predictor.objective.plan
    return _Main(net, plan.main if plan else ()).eval()


def _sample(predictor: Predictor, size: tuple[int, int] | None) -> Tensor:
    """Two inputs as the run reads them."""
    inputs, data = predictor.inputs, predictor.config.data
    if inputs.tokens is not None:
        return inputs.tokens
    channels, side = (inputs.channels, inputs.length) if inputs.built is None else inputs.built[1:]
    sides: list[Any] = [data.size, inputs.size, (side, side)]
    own = next(each for each in sides if isinstance(each, tuple))
    tile = (data.tile, data.tile) if isinstance(data.tile, int) else data.tile
    fixed: tuple[int, int] = tile or own
    shape = size or fixed
    if size is not None and not inputs.sizes_differ(data):
        raise ConfigError(f"the images of this run are all {fixed[0]}x{fixed[1]}: leave --size out.")
    return torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(cut_parts.SEED))


def _described(predictor: Predictor, found: Tensor, output: str, name: str, sample: Tensor) -> dict[str, Any]:
    inputs, objective = predictor.inputs, predictor.objective
    known = objective.predictions.get(MAIN)
    axis = known.axis if known is not None else 1
    kind = "embedding" if name == "embedding" else objective.kind(MAIN)
    if kind == "class" and found.shape[axis] == 1:
        kind = "labels"
    means: dict[str, dict[str, Any]] = {
        "class": {"activation": "softmax", "axis": axis},
        "labels": {"activation": "sigmoid", "threshold": 0.5},
        "embedding": {"compare": "cosine"},
    }
    return {
        "task": inputs.task,
        "run": predictor.config.name,
        "output": output,
        "classes": list(inputs.classes),
        "input": {"name": "input", "shape": ["N", *sample.shape[1:]], "dtype": str(sample.dtype).rpartition(".")[2]},
        "preprocessing": inputs.steps(predictor.config.data),
        "tiles": {"side": predictor.config.data.tile, "stride": predictor.config.data.stride},
        "outputs": {"name": name, "shape": ["N", *found.shape[1:]], "kind": kind, **means.get(kind, {})},
    }


def _onnx(program: torch.export.ExportedProgram, path: Path, name: str) -> None:
    require("onnxscript", purpose="export to ONNX", install="deepsup[export]")
    made = torch.onnx.export(program, input_names=["input"], output_names=[name], dynamo=True, verbose=False)
    assert made is not None
    made.save(str(path), external_data=False)


def _run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    runtime = require("onnxruntime", purpose="the check of an ONNX file", install="deepsup[export]")
    try:
        session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime does not take the file that was made: {str(error).strip():.300}.") from error
    return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def _torch(program: torch.export.ExportedProgram, path: Path, name: str) -> None:
    with path.open("wb") as to:
        torch.export.save(program, to)


def _run_torch(path: Path) -> Callable[[Tensor], Tensor]:
    with path.open("rb") as of:
        return torch.export.load(of).module()


FORMS: dict[str, tuple[Written, Callable[[Path], Callable[[Tensor], Tensor]]]] = {
    "onnx": (_onnx, _run_onnx),
    "torch": (_torch, _run_torch),
}
