"""Heads that pool average over the places that are there, as the model is told."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import HeadError
from deepsup.supervision.masks import argument_of, mask_in

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def bert() -> nn.Module:
    torch.manual_seed(0)
    return hf.BertForSequenceClassification(hf.BertConfig(**SMALL, num_labels=3))


@pytest.mark.parametrize("head", ["pool", "token", "token(take='first')", "mean"])
def test_padding_moves_no_head_that_pools(head: str) -> None:
    words, model = torch.randint(1, 40, (2, 6)), bert()
    there = torch.ones_like(words)
    inputs = {"input_ids": words, "attention_mask": there}
    loss = {"branch_loss": "none"} if head == "mean" else {}
    plan = ds.plan(model, inputs, at=["bert.encoder.layer.0"], head=head, main="logits", **loss)
    net = ds.attach(model, plan).eval()
    padded = torch.cat([words, torch.full((2, 3), 7)], 1)
    mask = torch.cat([there, torch.zeros(2, 3, dtype=torch.long)], 1)
    with torch.no_grad(), ds.supervising(net):
        alone, longer = net(**inputs), net(input_ids=padded, attention_mask=mask)
        without = net(input_ids=padded)
    name = plan.names[0]
    assert torch.allclose(longer.aux[name], alone.aux[name], atol=1e-5)
    assert torch.allclose(longer.main.logits, alone.main.logits, atol=1e-5)
    if "first" not in head:
        assert not torch.allclose(without.aux[name], alone.aux[name], atol=1e-3)
    if head != "mean":
        fast = ds.early_exit(net, name).eval()
        assert torch.allclose(fast(input_ids=padded, attention_mask=mask), longer.aux[name], atol=1e-6)


def test_the_first_token_that_is_there_is_the_first() -> None:
    words, model = torch.randint(1, 40, (2, 6)), bert()
    plan = ds.plan(model, {"input_ids": words}, at=["bert.encoder.layer.0"], head="token(take='first')", main="logits")
    net = ds.attach(model, plan).eval()
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    features: list[Tensor] = []
    model.bert.encoder.layer[0].register_forward_hook(
        lambda m, a, out: features.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad(), ds.supervising(net):
        outputs = net(input_ids=words, attention_mask=mask)
        expected = net.heads[plan.names[0]](torch.stack([features[0][0, 2:], features[0][1, :4]]))
    assert torch.allclose(outputs.aux[plan.names[0]], expected, atol=1e-6)


class Padded(nn.Module):
    def forward(self, x: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        return x


def test_pytorchs_masks_say_what_is_not_there() -> None:
    argument = argument_of(Padded())
    padding = torch.tensor([[False, True]])
    for found in (
        mask_in(argument, (torch.zeros(1), padding), {}),
        mask_in(argument, (), {"src_key_padding_mask": padding}),
    ):
        assert found is not None
        assert found.tolist() == [[True, False]]
    assert mask_in(argument, (torch.zeros(1),), {}) is None
    assert argument_of(nn.Linear(2, 2)) is None


def test_a_mask_of_floats_may_mean_either() -> None:
    with pytest.raises(HeadError, match="Pass src_key_padding_mask as bool or whole numbers"):
        mask_in(argument_of(Padded()), (), {"src_key_padding_mask": torch.zeros(1, 2)})


def test_masks_of_another_length() -> None:
    from deepsup.heads.modules import fitted

    mask = torch.tensor([[True, True, True, True, False, False]])
    assert fitted(mask, 3).tolist() == [[True, True, False]]
    assert fitted(mask, 6) is mask
    with pytest.raises(HeadError, match="told which of 6 places are there, and this layer gives out 7"):
        fitted(mask, 7)


def test_nothing_that_is_not_there_can_spoil_the_mean() -> None:
    from deepsup.heads.modules import Mean

    x = torch.ones(1, 3, 2)
    x[0, 2] = torch.inf
    mask = torch.tensor([[True, True, False]])
    assert torch.equal(Mean(1)(x, mask), torch.ones(1, 2))
    assert torch.equal(Mean(2)(x.transpose(1, 2), mask), torch.ones(1, 2))
