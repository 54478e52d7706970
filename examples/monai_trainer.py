"""Deep supervision in MONAI's SupervisedTrainer; pip install "deepsup[monai]".

    python examples/monai_trainer.py

Time: some ten seconds. Prints the terms of the last epoch.
"""

import torch
from monai.engines import SupervisedTrainer
from monai.networks.nets import BasicUNet

import deepsup as ds
from deepsup.integrations.monai import DeepSupervision

model = BasicUNet(spatial_dims=3, in_channels=1, out_channels=2, features=(4, 4, 8, 8, 8, 4))
batches = [{"image": (x := torch.randn(2, 1, 32, 32, 32)), "label": (x > 0).long()} for _ in range(3)]
plan = ds.plan(model, batches[0]["image"], at=["upcat_2", "upcat_3"], head="conv1x1", weight="linear(0.5, 0)")
branches = DeepSupervision(ds.attach(model, plan))

trainer = SupervisedTrainer(
    device="cpu",
    max_epochs=2,
    train_data_loader=batches,
    network=branches.net,
    optimizer=torch.optim.Adam(branches.net.parameters(), lr=0.01),
    loss_function=branches.criterion,
    train_handlers=[branches],
)
trainer.run()
print("terms:", ", ".join(sorted(trainer.state.metrics)))
