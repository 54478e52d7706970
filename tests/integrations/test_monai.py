"""MONAI's SupervisedTrainer and plain ignite engines with the handler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import create_supervised_trainer
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet
from monai.transforms import AsDiscreted, Compose
from torch import nn

import deepsup as ds
from deepsup.errors import ConfigError
from deepsup.integrations.monai import DeepSupervision

pytestmark = pytest.mark.filterwarnings("ignore")


def net() -> ds.Supervised:
    torch.manual_seed(0)
    model = BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(4, 4, 4, 4, 4, 4))
    plan = ds.plan(model, torch.randn(2, 1, 32, 32), at=["upcat_2"], head="conv1x1", weight="linear(0.5, 0)")
    return ds.attach(model, plan)


def batches() -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(1)
    images = [torch.randn(2, 1, 32, 32, generator=random) for _ in range(3)]
    return [{"image": x, "label": (x > 0).long()} for x in images]  # labels (N, 1, H, W), as MONAI has them


def by_hand(supervised: ds.Supervised, epochs: int) -> list[dict[str, float]]:
    objective, optimizer = ds.Objective(supervised.plan), torch.optim.SGD(supervised.parameters(), lr=0.1)
    parts = []
    for step in range(3 * epochs):
        batch = batches()[step % 3]
        terms = objective(supervised.train()(batch["image"]), batch["label"], progress=step / (3 * epochs))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        parts.append(terms.scalars())
    return parts


def test_monais_trainer(tmp_path: Any) -> None:
    branches = DeepSupervision(net())
    seen: list[tuple[int, ...]] = []

    def note(data: dict[str, Any]) -> dict[str, Any]:
        seen.append(tuple(data["pred"].shape))
        return data

    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=batches(),
        network=branches.net,
        optimizer=torch.optim.SGD(branches.net.parameters(), lr=0.1),
        loss_function=branches.criterion,
        train_handlers=[branches],
        postprocessing=Compose([AsDiscreted(keys="pred", argmax=True), note]),
    )
    trainer.run()
    other = net()
    parts = by_hand(other, 2)
    for (name, value), expected in zip(branches.net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)
    for name in ("main", "upcat_2"):
        mean = sum(part[name] for part in parts[3:]) / 3
        assert trainer.state.metrics[f"loss/{name}"] == pytest.approx(mean, rel=1e-5)
    assert set(seen) == {(1, 32, 32)}
    evaluator = SupervisedEvaluator(
        device="cpu", val_data_loader=batches(), network=branches.net, inferer=SlidingWindowInferer(32, overlap=0)
    )
    evaluator.run()
    found = torch.stack([one["pred"] for one in evaluator.state.output])
    torch.testing.assert_close(torch.as_tensor(found), branches.net.model(batches()[-1]["image"]).detach())


def test_an_engine_of_ignite() -> None:
    branches = DeepSupervision(net())
    optimizer = torch.optim.SGD(branches.net.parameters(), lr=0.1)
    engine = create_supervised_trainer(branches.net, optimizer, branches.criterion)
    branches.attach(engine)
    engine.run([(batch["image"], batch["label"]) for batch in batches()], max_epochs=1)
    parts = by_hand(net(), 1)
    assert engine.state.output == pytest.approx(parts[-1]["total"], rel=1e-5)
    assert engine.state.metrics["loss/main"] == pytest.approx(sum(part["main"] for part in parts) / 3, rel=1e-5)


def test_a_model_without_branches_is_named() -> None:
    with pytest.raises(ConfigError, match="trains what attach returned; found Linear"):
        DeepSupervision(nn.Linear(2, 2))
