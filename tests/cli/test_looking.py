"""The commands that look: what they print, save and refuse."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import deepsup as ds
from deepsup import networks
from deepsup.cli import app
from deepsup.errors import DeepsupError
from tests.support.command_line import call, wide  # noqa: F401  (the fixture widens the terminal)

ROOT = Path(__file__).parents[2]
QUICK = ["model=deepsup:plain-6", "epochs=1", "data.limit=64", "engine.threads=1"]


def test_layers_lists_where_the_trunk_can_be_tapped_and_all() -> None:
    text = call("layers", "torchvision:resnet18", "--size", "64")
    assert "layer2.1   BasicBlock          128x8x8    NCHW       48%        8     295k" in text
    assert "layer1.0.conv1" not in text
    assert "layer1.0.conv1" in call("layers", "torchvision:resnet18", "--size", "64", "--all")


def test_plan_prints_the_plan_and_saves_it(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    words = ["--at", "relu3", "--at", "75%", "--weight", "linear(0.3, 0)", "--size", "16", "--classes", "10"]
    text = call("plan", "deepsup:plain-12", *words, "--head", "linear", "--save", str(file))
    model = networks.build("deepsup:plain-12", classes=10)
    expected = ds.plan(model, torch.randn(2, 3, 16, 16), ["relu3", "75%"], head="linear", weight="linear(0.3, 0)")
    assert str(expected) in text
    assert ds.Plan.load(file) == expected


def test_probe_shows_gradients_and_a_choice_to_paste() -> None:
    text = call("probe", str(ROOT / "examples/digits.yaml"))
    assert "conv12" in text
    lines = text.splitlines()
    threshold = lines.index("by rule 'threshold', up to the deepest layer below 1e-07, as in CNDS:")
    assert lines[threshold + 1] == '  "supervise.at=[relu5]"'
    assert lines[threshold + 3] == '  "supervise.at=[relu5,relu7,relu10]"'
    assert lines[-1] == '"supervise.at=[relu5,relu7,relu10]"'
    (word,) = shlex.split(lines[-1])  # a shell takes it as one word, without its quotes
    assert "relu7" in call("train", str(ROOT / "examples/digits.yaml"), word, "--dry-run")


@pytest.mark.parametrize(
    ("settings", "heads"),
    [
        (["supervise.head=null"], {"relu1": "pool", "relu2": "pool"}),
        (["supervise.method=cnds", "supervise.head=null"], {"relu1": "cnds", "relu2": "cnds"}),
        (["supervise.head={relu2: pool}", "supervise.method=cnds"], {"relu1": "cnds", "relu2": "pool"}),
        (["supervise.at={early: relu1}", "supervise.head={early: linear}"], {"relu1": "linear", "relu2": "pool"}),
    ],
)
def test_probe_prices_the_head_that_is_configured(settings: list[str], heads: dict[str, str]) -> None:
    words = [str(ROOT / "examples/digits.yaml"), "supervise.probe.iterations=1", "model=deepsup:plain-4"]
    lines = [line.split() for line in call("probe", *words, *settings, "--rule", "evenly").splitlines()]
    found = {name: word for line in lines for name in heads for word in line[-3:-2] if name in line[:2]}
    assert found == heads


def test_probe_refuses_to_place_no_branch() -> None:
    result = CliRunner().invoke(app.app, ["probe", "--count", "0", "--rule", "evenly"])
    assert result.exit_code == 2


def test_doctor_finds_nothing_in_a_healthy_model_and_in_the_examples() -> None:
    words = ["--at", "layer2", "--at", "75%", "--size", "64", "--classes", "10"]
    assert call("doctor", "torchvision:resnet18", *words).startswith("no finding: ")
    text = call("doctor", str(ROOT / "examples/digits.yaml"))
    assert (
        text
        == "no finding: looked at model, layers, heads, outputs, labels, losses, weights of relu5, relu7, relu10, with one batch "
        "of 32; not looked at: optimiser, other batches, evaluation, how training goes\n"
    )
    text = call("doctor", str(ROOT / "examples/digits-comparison.yaml"))
    assert [line for line in text.splitlines() if not line.startswith("no finding: ")] == [
        "sgd/supervised",
        "adam/supervised",
    ]


def test_doctor_prints_a_line_a_finding_and_exits_with_1_on_errors() -> None:
    words = ["doctor", "torchvision:resnet18", "--at", "layer9", "--at", "bn1", "--size", "32", "--batch-size", "1"]
    result = CliRunner().invoke(app.app, words)
    *lines, last = result.output.splitlines()
    assert (result.exit_code, last) == (1, "2 errors, 1 warning")
    assert lines[0].startswith("error: layer 'layer9': no layer matches 'layer9' in ResNet.")
    assert [line.rsplit("[")[-1] for line in lines] == [
        "unknown-layer]",
        "one-value-per-channel]",
        "inplace-successor]",
    ]
    result = CliRunner().invoke(app.app, ["doctor", *QUICK, "supervise.at=[relu2]", "supervise.weight=0"])
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "1 warning")


def test_doctor_reads_batches_and_branches_off_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "tests")
    settings = ["model=tests.support.patients:one_value", "epochs=1", "data.limit=65", "data.batch_size=32"]
    result = CliRunner().invoke(app.app, ["doctor", *settings, "supervise.at=[conv, relu9]"])
    assert result.exit_code == 1
    assert "layer 'norm': a batch of 1 leaves it one value per channel" in result.output
    assert "no layer matches 'relu9'" in result.output
    assert result.output.splitlines()[-1] == "2 errors"
    result = CliRunner().invoke(app.app, ["doctor", *QUICK, "supervise.at=auto", "supervise.probe.rule=threshold"])
    assert "supervise.at: supervise.at is auto, but by the rule 'threshold' no gradient vanishes" in result.output
    with pytest.raises(DeepsupError, match="--at goes with a model's name"):
        call("doctor", *QUICK, "--at", "relu2")


def test_probe_gives_a_reason_and_a_line_of_python_to_paste() -> None:
    text = " ".join(call("probe", str(ROOT / "examples/digits.yaml")).split())
    assert (
        "recommended by rule 'drop': the training signal fades on its way down from the output: it starts with" in text
    )
    assert "at conv12, the last layer before the classifier, and 3 times it falls" in text
    assert 'at=["relu5", "relu7", "relu10"]' in text


def test_probe_saves_what_it_measured_and_draws_it_without_and_with_branches(tmp_path: Path) -> None:
    file, picture = tmp_path / "probe.json", tmp_path / "probe.png"
    words = [str(ROOT / "examples/digits.yaml"), "supervise.probe.iterations=2", "model=deepsup:plain-4"]
    text = call("probe", *words, "--rule", "evenly", "--count", "1", "--save", str(file), "--picture", str(picture))
    saved = ds.Probe.load(file)
    assert (saved.iterations, saved.branches) == (2, ())
    assert saved.recommendation("evenly", count=1).paste in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_needs_a_place_for_branches(tmp_path: Path) -> None:
    words = [str(ROOT / "examples/digits.yaml"), "supervise.probe.iterations=2", "supervise.probe.threshold=1e-30"]
    picture = ["--picture", str(tmp_path / "probe.png")]
    with pytest.raises(DeepsupError, match=r"by rule .threshold. no layer needs one\. Say where"):
        call("probe", *words, "--rule", "threshold", *picture)
    assert not (tmp_path / "probe.png").exists()
    with pytest.raises(DeepsupError, match="the probe has no rule 'median'"):
        call("probe", *words, "--rule", "median")
