"""Deep supervision in Hugging Face's Trainer; pip install "deepsup[huggingface]".

    python examples/huggingface.py

Time: some ten seconds. Prints the loss with its parts, and that the saved model is the plain one.
"""

import tempfile

import torch
import transformers

import deepsup as ds
from deepsup.integrations.huggingface import DeepSupervision

shape = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
model = transformers.ViTForImageClassification(transformers.ViTConfig(**shape, num_hidden_layers=4, num_labels=3))
images = [{"pixel_values": torch.randn(3, 16, 16) + n % 3, "labels": n % 3} for n in range(96)]
plan = ds.plan(model, {"pixel_values": torch.randn(2, 3, 16, 16)}, at=["50%"], weight="linear(0.3, 0)")
Trainer = type(
    "Trainer", (DeepSupervision, transformers.Trainer), {}
)  # class Trainer(DeepSupervision, transformers.Trainer)

with tempfile.TemporaryDirectory() as folder:
    args = transformers.TrainingArguments(folder, max_steps=24, logging_steps=12, report_to="none", use_cpu=True)
    trainer = Trainer(model=ds.attach(model, plan), args=args, train_dataset=images)
    trainer.train()
    trainer.save_model(folder)  # the plain model and its config; the heads beside it
    plain = transformers.ViTForImageClassification.from_pretrained(folder)

x = torch.stack([image["pixel_values"] for image in images])
print(f"the plain model, read again, says the same: {torch.equal(plain.eval()(x).logits, model.eval()(x).logits)}")
