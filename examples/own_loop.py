"""Deep supervision in a loop of your own: nothing of deepsup's trainer, only plan, attach, Objective, strip.

    python examples/own_loop.py

Time: about 10 seconds on 2 CPU cores. Prints the plan, one line an epoch, and the proof that the model is plain again.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import deepsup as ds
from deepsup import datasets, networks

EPOCHS, BATCH = 6, 32

torch.manual_seed(0)
data = datasets.load("digits")
model = networks.build("deepsup:plain-12", classes=data.classes, in_channels=data.channels)
sample = torch.randn(2, data.channels, data.size, data.size)

plan = ds.plan(model, sample, at=["relu5", "relu7", "relu10"], head="linear", weight=0.3)
print(plan)
net = ds.attach(model, plan)
objective = ds.Objective(plan)
optimizer = torch.optim.Adam(ds.parameter_groups(net, lr=1e-3))

steps = EPOCHS * data.train.n_batches(BATCH)
step = 0
for epoch in range(EPOCHS):
    net.train()
    for x, y in data.train.batches(BATCH, seed=0, epoch=epoch, shuffle=True):
        terms = objective(net(x), y, progress=step / steps)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        step += 1
    net.eval()
    with torch.no_grad():
        right = sum(
            int((net(x).argmax(1) == y).sum()) for x, y in data.validation.batches(256, seed=0, epoch=0, shuffle=False)
        )
    parts = ", ".join(f"{name} {float(part.detach()):.2f}" for name, part in terms.parts.items())
    print(f"epoch {epoch + 1}: accuracy {right / len(data.validation):.3f}; loss of {parts}")

with TemporaryDirectory() as folder:
    stripped = ds.strip(net, certificate=Path(folder) / "certificate.json")
    proof = ds.verify(Path(folder) / "certificate.json", stripped)
print(f"the same object: {stripped is model}; outputs {proof['outputs']}; hooks left: {proof['hooks_left']}")
