"""What PyTorch's own losses read."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from deepsup.losses.torch_losses import kind_of, option_of


def test_functions_modules_and_what_is_bound_to_them_are_known() -> None:
    assert kind_of(F.cross_entropy) == kind_of(nn.CrossEntropyLoss(label_smoothing=0.1)) == "class"
    assert (
        kind_of(partial(F.binary_cross_entropy_with_logits, reduction="sum"))
        == kind_of(nn.BCEWithLogitsLoss())
        == "labels"
    )
    assert kind_of(F.l1_loss) == kind_of(nn.HuberLoss()) == "values"


def test_others_are_not() -> None:
    assert kind_of(lambda scores, target: scores.sum()) is None
    assert kind_of(nn.Linear(2, 2)) is None
    assert kind_of(nn.KLDivLoss()) is None


def test_options_are_read_from_modules_and_from_what_is_bound() -> None:
    weight = torch.tensor([1.0, 2])
    for loss in (nn.CrossEntropyLoss(weight, ignore_index=7), partial(F.cross_entropy, weight=weight, ignore_index=7)):
        assert option_of(loss, "ignore_index", -100) == 7
        assert option_of(loss, "class_weight", None) is weight
        assert option_of(partial(loss), "resize", "enlarge") == "enlarge"
    assert option_of(F.cross_entropy, "ignore_index", -100) == -100
    assert option_of(nn.CrossEntropyLoss(), "class_weight", None) is None
