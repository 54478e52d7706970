"""MobileNets against their papers and torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup import networks
from tests.support.paper_nets import assert_computes, norm, on_meta, parameters, score
from tests.support.small_nets import unsettled

torch.set_num_threads(1)


def mobilenet_v1_on_paper(s: dict[str, Tensor], x: Tensor) -> Tensor:
    """Table 1 of Howard et al. 2017, row by row, but for the first stride."""
    x = F.relu(norm(s, "bn1", F.conv2d(x, s["conv1.weight"], padding=1)))
    strides = {1: [1], 2: [2, 1], 3: [2, 1], 4: [2, 1, 1, 1, 1, 1], 5: [2, 1]}
    for stage, blocks in strides.items():
        for i, stride in enumerate(blocks):
            b, groups = f"layer{stage}.{i}", x.shape[1]
            y = F.conv2d(x, s[f"{b}.conv1.weight"], stride=stride, padding=1, groups=groups)
            x = F.relu(norm(s, f"{b}.bn2", F.conv2d(F.relu(norm(s, f"{b}.bn1", y)), s[f"{b}.conv2.weight"])))
    return score(s, x)


def test_a_mobilenet_v1_computes_what_the_paper_says() -> None:
    assert_computes("mobilenet-v1", {"width": 0.25}, mobilenet_v1_on_paper)


class TestMobileNetV2:
    @pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.4])
    def test_as_many_parameters_as_torchvision_has(self, width: float) -> None:
        with torch.device("meta"):
            theirs = torchvision.models.mobilenet_v2(num_classes=100, width_mult=width)
        ours = on_meta("deepsup:mobilenet-v2", classes=100, options={"width": width})
        assert parameters(ours) == parameters(theirs)
        assert width != 1 or parameters(ours) == 2_351_972

    def test_computes_what_torchvision_does_with_two_strides_changed(self) -> None:
        torch.manual_seed(0)
        theirs = torchvision.models.mobilenet_v2(num_classes=6, width_mult=0.5)
        for name in ("features.0.0", "features.2.conv.1.0"):
            convolution = theirs.get_submodule(name)
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.stride == (2, 2)
            convolution.stride = (1, 1)
        ours = networks.mobilenet_v2(classes=6, width=0.5)
        unsettled(theirs)
        state = theirs.state_dict()
        ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)))
        x = 30 * torch.randn(2, 3, 20, 20, dtype=torch.float64)  # large enough for a ReLU6 to cut
        torch.testing.assert_close(ours.double().eval()(x), theirs.double()(x), rtol=1e-9, atol=1e-12)
