"""An exported file says of an image what the run says of it, by what stands in the JSON beside it and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

import deepsup as ds
from deepsup.errors import BranchNameError, ConfigError
from deepsup.settings import configs
from deepsup.training import predict, runs
from deepsup.training.export import export
from tests.support import searching_runs, tiny_runs, tiny_shapes
from tests.support.tiny_images import write_pets

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.onnx's own


def picture(place: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "new.png")
    return place / "new.png"


def followed(steps: list[dict[str, Any]], file: Path) -> Tensor:
    """The input (1, C, H, W), from the steps alone."""
    with Image.open(file) as image:
        x = functional.pil_to_tensor(image.convert("RGB"))
    for step in steps:
        if "resize" in step:
            x = functional.resize(x, step["resize"], antialias=True)
        if "resize shorter side" in step:
            x = functional.resize(x, [step["resize shorter side"]], antialias=True)
        if "centre crop" in step:
            x = functional.center_crop(x, step["centre crop"])
        if "grey" in step:
            x = (x * torch.tensor(step["grey"]).view(3, 1, 1)).sum(0, keepdim=True)
        if "divide" in step:
            x = x.float() / step["divide"]
        if "subtract mean" in step:
            mean, std = (torch.tensor(step[key]).view(-1, 1, 1) for key in ("subtract mean", "divide by std"))
            x = (x - mean) / std
    return x[None]


def digits(place: Path) -> Path:
    runs.train(tiny_runs.config(place / "run", epochs=1, data={"limit": 32}))
    return place / "run"


def pets(place: Path) -> Path:
    settings = tiny_runs.settings(
        place / "run", epochs=1, model="deepsup:plain-4", supervise={"at": ["50%"], "head": "pool"}
    )
    data = {"name": "folder", "root": str(write_pets(place / "pets")), "size": 16, "batch_size": 4}
    config = configs.parse(settings | {"data": data})
    runs.train(config)  # type: ignore[arg-type]
    return place / "run"


def maps(place: Path) -> Path:
    data = {"size": [24, 40]}
    runs.train(tiny_shapes.config(tiny_shapes.write_shapes(place / "data"), place / "run", data=data, epochs=1))
    return place / "run"


def identities(place: Path) -> Path:
    return searching_runs.trained(place / "run", epochs=1)


@pytest.mark.parametrize("branch", [False, True], ids=["main", "exit"])
@pytest.mark.parametrize("train", [digits, pets, maps, identities])
def test_the_file_and_its_json_say_of_an_image_what_the_run_says(
    train: Callable[[Path], Path], branch: bool, tmp_path: Path
) -> None:
    run, file = train(tmp_path), tmp_path / "out" / "net.onnx"
    file.parent.mkdir()
    plan = ds.Plan.load(run / "plan.json")
    output = plan.branches[0].name if branch else "main"
    made = export(run, file, output=output, trust=True)
    assert made.difference < 1e-5
    told = json.loads(made.description.read_text())
    image = picture(tmp_path)
    predictor = predict.load(run, branches=True, trust=True)
    x, _ = predictor.inputs.read(image, predictor.config.data)
    found = followed(told["preprocessing"], image)
    assert told["input"]["shape"][1:] == list(x.shape[1:])
    assert (found - x).abs().max() < 0.05  # a level of 255, by which resizing of tensors and of pictures may differ
    with torch.no_grad(), ds.supervising(predictor.net):
        if told["outputs"]["name"] == "embedding":
            expected = ds.embeddings(predictor.net, x)[output]
        else:
            outputs = predictor.net(x)
            expected = outputs.main if output == "main" else outputs.aux[output]
    session = onnxruntime.InferenceSession(file)
    (said,) = session.run([told["outputs"]["name"]], {told["input"]["name"]: torch.cat([x] * 3).numpy()})
    np.testing.assert_allclose(said, torch.cat([expected] * 3).numpy(), atol=1e-5)
    assert told["outputs"]["shape"][1:] == list(said.shape[1:])
    assert told["outputs"]["kind"] == ("embedding" if train is identities else "class")
    assert told["classes"] == list(predictor.inputs.classes)


def test_a_torch_program_without_later_layers_and_what_is_refused(tmp_path: Path) -> None:
    run = digits(tmp_path)
    assert export(run, tmp_path / "a.pt2", form="torch", output="relu1", trust=True).difference == 0
    with (tmp_path / "a.pt2").open("rb") as file:
        program = torch.export.load(file)
    assert {key.split(".")[1] for key in program.state_dict if key.startswith("model.")} == {"conv1", "norm1"}
    assert program.module()(torch.randn(3, 1, 16, 16)).shape == (3, 10)
    with pytest.raises(ConfigError, match="is there already"):
        export(run, tmp_path / "a.pt2", trust=True)
    for options, says in (
        ({"form": "onx"}, "Closest: onnx|Formats: onnx, torch"),
        ({"size": (8, 8)}, "leave --size out"),
    ):
        with pytest.raises(ConfigError, match=says):
            export(run, tmp_path / "b", trust=True, **options)  # type: ignore[arg-type]
    with pytest.raises(BranchNameError):
        export(run, tmp_path / "b", output="relu9", trust=True)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("tile", "shape"), [(16, [16, 16]), ([8, 16], [8, 16])])
def test_maps_in_tiles_have_the_size_of_a_tile(tmp_path: Path, tile: Any, shape: list[int]) -> None:
    data = {"tile": tile}
    runs.train(tiny_shapes.config(tiny_shapes.write_shapes(tmp_path / "data"), tmp_path / "run", data=data, epochs=1))
    made = export(tmp_path / "run", tmp_path / "maps.pt2", form="torch", trust=True)
    told = json.loads(made.description.read_text())
    assert told["input"]["shape"] == ["N", 3, *shape]
    assert made.difference < 1e-4
