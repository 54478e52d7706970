"""Deep supervision in Lightning; pip install "deepsup[lightning]".

    python examples/lightning_callback.py

Time: some ten seconds. Prints what was logged of each term.
"""

import lightning
import torch
from torchvision.models import resnet18

import deepsup as ds
from deepsup.integrations.lightning import DeepSupervision


class Module(lightning.LightningModule):
    def training_step(self, batch, _):
        return branches.criterion(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


data = torch.utils.data.DataLoader([(torch.randn(3, 64, 64), n % 10) for n in range(32)], batch_size=8)
model, module = resnet18(num_classes=10), Module()
branches = DeepSupervision(ds.attach(model, ds.plan(model, torch.randn(2, 3, 64, 64), at=["layer2"], weight=0.3)))
module.net = branches.net
trainer = lightning.Trainer(
    accelerator="cpu", max_epochs=1, callbacks=[branches], logger=False, enable_checkpointing=False
)
trainer.fit(module, data)
print("logged:", ", ".join(sorted(trainer.callback_metrics)))
