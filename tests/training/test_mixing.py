"""Mixed batches: against the formula, as a function of seed, epoch and batch, through branches, after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import ConfigError, HeadError
from deepsup.settings import configs
from deepsup.settings.batches import MixConfig
from deepsup.training.fit import fit
from deepsup.training.mixing import Mixing
from deepsup.training.runs import train
from tests.support.tiny_runs import config
from tests.support.training_runs import CPU, Interrupted, some_batches, stop_at, supervised_net

IMAGES, LABELS = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 2, 0, 1, 2])


def mixed(seed: int = 0, epoch: int = 0, batch: int = 0, **settings: Any) -> tuple[Tensor, Tensor]:
    mixing = Mixing(MixConfig(**settings), classes=3, seed=seed)
    return mixing(IMAGES, LABELS, epoch=epoch, batch=batch)


def test_mixup_is_the_weighted_mean_of_images_and_labels() -> None:
    x, y = mixed(mixup=1.0)
    share = float(y[1, 1])  # of itself; the other label before it is 0
    assert 0 < share < 1
    for i in range(6):  # each with the one before it, as torchvision rolls a batch
        assert torch.allclose(x[i], share * IMAGES[i] + (1 - share) * IMAGES[i - 1])
        assert torch.allclose(y[i], share * F.one_hot(LABELS[i], 3) + (1 - share) * F.one_hot(LABELS[i - 1], 3))


def test_cutmix_counts_the_pixels_of_each() -> None:
    x, y = mixed(cutmix=1.0, seed=4)
    for i in range(6):
        others = (x[i] != IMAGES[i]).all(0)
        assert torch.equal(x[i], torch.where(others, IMAGES[i - 1], IMAGES[i]))
        share = float(others.float().mean())
        assert 0 < share < 1
        assert torch.allclose(y[i], (1 - share) * F.one_hot(LABELS[i], 3) + share * F.one_hot(LABELS[i - 1], 3))


def test_what_is_mixed_hangs_on_seed_epoch_and_batch_alone() -> None:
    before = torch.get_rng_state()
    one = mixed(mixup=1.0, cutmix=1.0, epoch=2, batch=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again = mixed(mixup=1.0, cutmix=1.0, epoch=2, batch=3)
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    for other in ({"epoch": 3, "batch": 3}, {"epoch": 2, "batch": 4}, {"epoch": 2, "batch": 3, "seed": 1}):
        assert not torch.equal(one[0], mixed(mixup=1.0, cutmix=1.0, **other)[0])
    found = [mixed(mixup=1.0, share=0.3, batch=batch)[1].is_floating_point() for batch in range(200)]
    assert 40 < sum(found) < 80


def test_branches_learn_from_the_same_probabilities() -> None:
    """A step of fit is the step by hand, with the mixed batch and its cross-entropy at main and at the branch."""
    (x, y), net, by_hand = next(iter(some_batches(0))), supervised_net(), supervised_net()
    log = {"every": 1, "conflict": False}
    found: list[Any] = []
    fit(net, [(x, y)], mix={"mixup": 0.5}, engine=CPU, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), log=log,
        seed=5, on_record=found.append)  # fmt: skip
    torch.manual_seed(5)
    ours, probabilities = Mixing(MixConfig(mixup=0.5), classes=10, seed=5)(x, y, epoch=0, batch=0)
    outputs = by_hand(ours)
    main, branch = (
        -(probabilities * output.log_softmax(1)).sum(1).mean() for output in (outputs.main, outputs.aux["relu1"])
    )
    (step,) = [r for r in found if r["kind"] == "step"]
    assert step["parts"] == pytest.approx({"main": main.item(), "relu1": branch.item()}, rel=1e-5)
    (main + 0.3 * branch).backward()
    torch.optim.SGD(by_hand.parameters(), lr=0.1).step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), by_hand.parameters(), strict=True))


def test_a_run_goes_on_with_the_same_mixes(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "mix": {"mixup": 0.4, "cutmix": 1.0, "share": 0.8}, "checkpoint": {"every_steps": 3}, "log": {"every": 1},
        "data": {"balanced": True, "augment": "randaugment"}, "class_weight": "balanced",
    }  # fmt: skip
    train(config(tmp_path / "whole", **changes))
    for step in (5, 14):
        with pytest.raises(Interrupted):
            train(config(tmp_path / str(step), **changes), on_record=stop_at(step))
        train(config(tmp_path / str(step), **changes))
        one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", str(step)))
        assert one == other


def test_where_mixing_makes_no_sense_it_is_refused() -> None:
    for changes, message in (
        ({"data": {"name": "camvid"}}, "camvid has a label a pixel"),
        ({"data": {"name": "drawn-figures"}}, "drawn-figures has an identity"),
        ({"data": {"views": 2, "augment": "standard"}}, r"data\.views=2"),
        ({"data": {"overlap": True}}, r"data\.overlap"),
        ({"embedding": {"loss": "triplet"}}, r"embedding\.loss"),
    ):
        with pytest.raises(ConfigError, match=message):
            configs.parse({"mix": {"mixup": 0.2}, **changes})
    for key, value in (("mixup", 0), ("cutmix", -1), ("share", 0), ("share", 1.1)):
        with pytest.raises(ConfigError, match=rf"mix\.{key}"):
            configs.parse({"mix": {key: value}})
    mixing = Mixing(MixConfig(mixup=0.2), classes=3, seed=0)
    for x, y in ((IMAGES, IMAGES[:, :, 0]), (IMAGES[:, 0], LABELS), (IMAGES, LABELS.float()), (IMAGES, LABELS - 1)):
        with pytest.raises(ConfigError, match="mix needs images"):
            mixing(x, y, epoch=0, batch=0)
    with pytest.raises(ConfigError, match="which knows them"):
        fit(nn.Linear(4, 3), [(torch.rand(4, 4), torch.arange(4) % 3)], mix={"mixup": 0.2}, engine=CPU)


def test_a_loss_that_reads_no_probabilities_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))
    plan = ds.plan(model, torch.rand(2, 1, 16, 16), method="none", loss="squared_hinge")
    with pytest.raises(HeadError, match="squared_hinge"):
        fit(ds.attach(model, plan), some_batches, objective=ds.Objective(plan), mix={"mixup": 0.2}, engine=CPU)
