"""Hugging Face's own Trainer with branches: the right loss, plain weights, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import deepsup as ds
from deepsup.errors import ConfigError
from deepsup.integrations.huggingface import DeepSupervision

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Trainer(DeepSupervision, hf.Trainer):
    """As a user writes it."""


def vit() -> hf.ViTForImageClassification:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 16}
    layers: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_dropout_prob": 0.0}
    return hf.ViTForImageClassification(hf.ViTConfig(**shape, **layers, num_labels=3, num_channels=3))


def images(count: int) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(1)
    return [{"pixel_values": torch.randn(3, 8, 8, generator=random), "labels": n % 3} for n in range(count)]


def supervised(model: nn.Module, *, weight: Any = 0.3, at: str = "50%") -> ds.Supervised:
    return ds.attach(model, ds.plan(model, {"pixel_values": torch.randn(2, 3, 8, 8)}, at={"early": at}, weight=weight))


def arguments(folder: Path, **changes: Any) -> hf.TrainingArguments:
    usual = {
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
    }
    return hf.TrainingArguments(str(folder), **(usual | changes))


def trained(folder: Path, net: nn.Module, data: Any = None, **changes: Any) -> Trainer:
    trainer = Trainer(model=net, args=arguments(folder, **changes), train_dataset=data or images(16))
    trainer.train()
    return trainer


def same(one: nn.Module, other: nn.Module, **within: float) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        if not (within and name == "_extra_state"):  # how many forwards there were
            torch.testing.assert_close(a, b, msg=name, **(within or {"rtol": 0, "atol": 0}))


def test_accumulated_batches_are_one_large_one(tmp_path: Path) -> None:
    nets = [supervised(vit()), supervised(vit())]
    ends = [
        trained(tmp_path / "one", nets[0], max_steps=1, per_device_train_batch_size=16),
        trained(tmp_path / "four", nets[1], max_steps=1, gradient_accumulation_steps=4),
    ]
    same(*nets, rtol=1e-5, atol=1e-7)
    losses = [end.state.log_history[0] for end in ends]
    expected = supervised(vit())
    terms = ds.Objective(expected.plan)(
        expected(pixel_values=torch.stack([row["pixel_values"] for row in images(16)])),
        torch.tensor([row["labels"] for row in images(16)]),
    )
    for found in losses:
        assert found["loss"] == pytest.approx(terms.total.item(), abs=1e-3)  # the Trainer rounds to four digits
        assert found["loss/main"] == pytest.approx(terms.parts["main"].item(), abs=1e-5)
        assert found["loss/early"] == pytest.approx(terms.parts["early"].item(), abs=1e-5)


def test_tokens_count_by_their_labels(tmp_path: Path) -> None:
    def net() -> ds.Supervised:
        torch.manual_seed(0)
        shape: dict[str, Any] = {"vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2}
        config = hf.GPT2Config(**shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
        model = hf.GPT2LMHeadModel(config)
        sample = {"input_ids": torch.zeros(2, 6, dtype=torch.long)}
        return ds.attach(model, ds.plan(model, sample, at={"early": "transformer.h.0"}, head="tokenwise", weight=0.5))

    random = torch.Generator().manual_seed(2)
    rows = [
        {"input_ids": (ids := torch.randint(0, 11, (6,), generator=random)), "labels": ids.clone()} for _ in range(4)
    ]
    rows[0]["labels"][2:] = rows[1]["labels"][1:] = -100  # as padding would
    nets = [net(), net()]
    trained(tmp_path / "one", nets[0], rows, max_steps=1)
    trained(tmp_path / "four", nets[1], rows, max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    same(*nets, rtol=1e-5, atol=1e-7)


def test_evaluation_is_the_plain_models(tmp_path: Path) -> None:
    net = supervised(vit())

    def count(said: Any) -> dict[str, float]:
        return {"right": float((said.predictions.argmax(1) == said.label_ids).mean())}

    trainer = Trainer(model=net, args=arguments(tmp_path), eval_dataset=images(6), compute_metrics=count)
    found = trainer.evaluate()
    plain = hf.Trainer(
        model=net.model, args=arguments(tmp_path), eval_dataset=images(6), compute_metrics=count
    ).evaluate()
    assert found["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)
    assert found["eval_right"] == plain["eval_right"]
    torch.testing.assert_close(
        torch.tensor(trainer.predict(images(6)).predictions),
        net.model.eval()(torch.stack([row["pixel_values"] for row in images(6)])).logits,
    )


@pytest.mark.parametrize("best", [False, True])
def test_what_is_saved_is_the_plain_model_and_goes_on_exactly(tmp_path: Path, best: bool) -> None:
    weight = "linear(0.5, 0)"
    keep: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "gradient_checkpointing": best}
    if best:
        keep |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    nets = [supervised(vit(), weight=weight) for _ in range(2)]
    whole = Trainer(
        model=nets[0], args=arguments(tmp_path / "run", **keep), train_dataset=images(16), eval_dataset=images(6)
    )
    whole.train()
    middle = tmp_path / "run" / "checkpoint-2"
    again = Trainer(
        model=nets[1], args=arguments(tmp_path / "again", **keep), train_dataset=images(16), eval_dataset=images(6)
    )
    again.train(resume_from_checkpoint=str(middle))
    same(*nets)
    whole.save_model(str(tmp_path / "final"))
    read = hf.ViTForImageClassification.from_pretrained(tmp_path / "final")
    same(read, nets[0].model)
    assert not any(name.startswith(("model.", "heads.")) for name in read.state_dict())
    heads = supervised(vit()).heads
    ds.load_weights(heads, tmp_path / "final" / "heads.safetensors")
    same(heads, nets[0].heads)


def test_what_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trains what attach returned, .* found ViTForImageClassification"):
        Trainer(model=vit(), args=arguments(tmp_path))
    with pytest.raises(ConfigError, match="which is no Trainer"):
        DeepSupervision(model=supervised(vit()))
    net = supervised(vit())
    rows = [{"pixel_values": row["pixel_values"]} for row in images(4)]
    with pytest.raises(ConfigError, match="a batch has no 'labels'"):
        Trainer(model=net, args=arguments(tmp_path), train_dataset=rows).train()
