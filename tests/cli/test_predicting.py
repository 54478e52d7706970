"""What `deepsup predict` says of each file, and where it wrote (more in the tests of runs)."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from deepsup.errors import ConfigError, DatasetError
from deepsup.settings import configs, training
from deepsup.training import runs
from tests.support.segmentation_runs import call
from tests.support.tiny_runs import config
from tests.support.tiny_tokens import settings, write_walks


def test_each_file_is_said_and_what_is_none_is_refused(tmp_path: Path) -> None:
    root = write_walks(tmp_path / "data")
    config = configs.parse(settings(root, tmp_path / "run", epochs=1))
    assert isinstance(config, training.TrainConfig)
    runs.train(config)
    text = call("predict", str(tmp_path / "run"), str(root), "--out", str(tmp_path / "[out]"))
    lines = [f"{root / name}.npz: {name}.labels.npz" for name in ("train", "val")]
    assert text.splitlines() == [*lines, f"written to {tmp_path / '[out]'}"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match=r"there is no file of tokens \(npz, safetensors\) in the folder"):
        call("predict", str(tmp_path / "run"), str(tmp_path / "none"))
    with pytest.raises(DatasetError, match="is neither"):
        call("predict", str(tmp_path / "run"), str(tmp_path / "run" / "config.yaml"))
    with pytest.raises(ConfigError, match="there is no run in"):
        call("predict", str(root), str(root))


def test_what_is_said_stands_beside_every_image_and_what_is_for_a_search_is_refused(tmp_path: Path) -> None:
    runs.train(config(tmp_path / "run", epochs=1, data={"limit": 32}))
    for i in range(2):
        Image.new("RGB", (16, 16), (90 * i, 10, 10)).save(tmp_path / f"[{i}].png")
    words = ["predict", "--trust", str(tmp_path / "run"), str(tmp_path / "[0].png"), str(tmp_path / "[1].png")]
    lines = call(*words).splitlines()
    assert [line.partition(".png: ")[0] for line in lines[:2]] == [str(tmp_path / "[0]"), str(tmp_path / "[1]")]
    assert lines[2] == f"written to {tmp_path / 'run' / 'predictions'}"
    for option in (["--gallery", str(tmp_path)], ["--top", "3"], ["--rerank"]):
        with pytest.raises(ConfigError, match="gallery, top and rerank are for searches, and tiny learned one label"):
            call(*words, *option)
