"""Lightning's own Trainer with the callback: progress, parts, plain weights, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import deepsup as ds
from deepsup.errors import ConfigError
from deepsup.integrations.lightning import DeepSupervision
from tests.support.small_nets import Residual

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    """As a user writes it; with `branches=None` the plain model."""

    def __init__(self, net: nn.Module, branches: Any = None) -> None:
        super().__init__()
        self.net = net
        self.loss = branches.criterion if branches else nn.CrossEntropyLoss()
        self.totals: list[float] = []

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss: Tensor = self.loss(self.net(batch[0]), batch[1])
        self.totals.append(float(loss))
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val", self.loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def made(**changes: Any) -> tuple[DeepSupervision, Module]:
    torch.manual_seed(0)
    model = Residual()
    plan = ds.plan(model, torch.randn(2, 3, 8, 8), at=["50%"], weight="linear(0.5, 0)", **changes)
    branches = DeepSupervision(ds.attach(model, plan))
    return branches, Module(branches.net, branches)


def loader() -> DataLoader[Any]:
    random = torch.Generator().manual_seed(1)
    images, labels = torch.randn(12, 3, 8, 8, generator=random), torch.arange(12) % 3
    return DataLoader(TensorDataset(images, labels), batch_size=4)


def fit(branches: DeepSupervision, module: Module, folder: Path, *, epochs: int = 2, ckpt: Path | None = None) -> Any:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    keep = lightning.pytorch.callbacks.ModelCheckpoint(folder, save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[branches, keep], default_root_dir=folder, **quiet
    )
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt, weights_only=False)
    return trainer


def test_a_step_is_the_objectives_with_the_trainers_progress(tmp_path: Path) -> None:
    branches, module = made()
    trainer = fit(branches, module, tmp_path)
    again, _ = made()
    net, objective = again.net, ds.Objective(again.net.plan)
    optimizer, totals = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), []
    for step, (x, y) in enumerate([*loader(), *loader()]):
        terms = objective(net.train()(x), y, progress=step / 6)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        totals.append(float(terms.total))
    assert module.totals == pytest.approx(totals, rel=1e-5)
    (name,) = net.plan.names
    logged = trainer.callback_metrics
    assert {"train/main", f"train/{name}", "val"} <= logged.keys()
    assert float(logged["train/main"]) == pytest.approx(float(terms.parts["main"]), rel=1e-4)
    assert any(key.startswith("model.") for key in branches.net.state_dict())  # as before, afterwards


def test_a_checkpoint_is_the_plain_modules_and_goes_on_exactly(tmp_path: Path) -> None:
    branches, module = made()
    fit(branches, module, tmp_path / "one")
    half, end = sorted((tmp_path / "one").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    state = torch.load(end, weights_only=False)["state_dict"]
    plain = Residual()
    Module(plain).load_state_dict(state)  # strictly
    for key, value in plain.state_dict().items():
        assert torch.equal(value, branches.net.model.state_dict()[key])
    others, resumed = made()
    fit(others, resumed, tmp_path / "two", ckpt=half)
    for (key, value), other in zip(branches.net.state_dict().items(), others.net.state_dict().values(), strict=True):
        assert torch.equal(value, other), key


def test_what_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trains what attach returned; found Residual"):
        DeepSupervision(Residual())
    branches, _ = made()
    with pytest.raises(ConfigError, match="Module does not hold the net of this callback"):
        fit(branches, Module(Residual()), tmp_path)
