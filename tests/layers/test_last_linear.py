"""Which layer makes the scores, and the neck before it: found on nets of every form, or refused with candidates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup import networks
from deepsup.errors import EmbeddingError
from deepsup.layers.last_linear import LastLinear, last_linear, reading, two_of
from tests.support.small_nets import CLASSES, Plain, Residual, images, mlp


class Net(nn.Module):
    """An 8-vector made of the input, and whatever `end` makes of it with the layers given."""

    def __init__(self, end: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.body = nn.Linear(3, 8)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, F.relu(self.body(x)))


def found(module: nn.Module, x: Tensor | None = None, said: str | None = None) -> LastLinear:
    x = torch.randn(2, 3) if x is None else x
    return last_linear(module, lambda: module(x), said=said)


def fc() -> nn.Linear:
    return nn.Linear(8, CLASSES)


@pytest.mark.parametrize(
    ("module", "x", "expected"),
    [
        (Plain(), images(), LastLinear("fc")),
        (Residual(), images(), LastLinear("fc")),
        (mlp(3, 4, CLASSES), None, LastLinear("2")),
        (nn.Linear(3, CLASSES), None, LastLinear("")),
        (Net(lambda m, z: m.fc(m.bn(z)), bn=nn.BatchNorm1d(8), fc=fc()), None, LastLinear("fc", "bn")),
        (
            Net(lambda m, z: m.fc(m.drop(m.bn(z))), bn=nn.BatchNorm1d(8), drop=nn.Dropout(), fc=fc()),
            None,
            LastLinear("fc", "bn"),
        ),
        (
            Net(lambda m, z: m.fc(m.bn(z[:, :, None, None]).flatten(1)), bn=nn.BatchNorm2d(8), fc=fc()),
            None,
            LastLinear("fc", "bn"),
        ),
        (Net(lambda m, z: m.fc(F.relu(m.bn(z))), bn=nn.BatchNorm1d(8), fc=fc()), None, LastLinear("fc")),
        (Net(lambda m, z: m.fc(F.relu_(m.bn(z))), bn=nn.BatchNorm1d(8), fc=fc()), None, LastLinear("fc")),
        (Net(lambda m, z: m.fc(m.ln(z)), ln=nn.LayerNorm(8), fc=fc()), None, LastLinear("fc")),
        (Net(lambda m, z: m.fc(z[:, :, None, None]).flatten(1), fc=nn.Conv2d(8, CLASSES, 1)), None, LastLinear("fc")),
        (
            Net(lambda m, z: m.scale * m.fc(z).log_softmax(1), fc=fc(), scale=nn.Parameter(torch.ones(()))),
            None,
            LastLinear("fc"),
        ),
        # registered the other way round, and one that leads nowhere runs last
        (
            Net(lambda m, z: (m.last(m.first(z)), m.first(z))[0], last=nn.Linear(8, CLASSES), first=nn.Linear(8, 8)),
            None,
            LastLinear("last"),
        ),
        (
            Net(
                lambda m, z: m.fc(z),
                fc=nn.utils.parametrizations.weight_norm(fc()),
            ),
            None,
            LastLinear("fc"),
        ),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_last_linear_layer_and_its_neck(
    module: nn.Module, x: Tensor | None, expected: LastLinear, frozen: bool
) -> None:
    module.requires_grad_(not frozen)
    assert found(module, x) == expected
    assert expected.first == (expected.neck or expected.layer)


ZOO = {
    "torchvision:resnet18": LastLinear("fc"),
    "torchvision:mobilenet_v3_small": LastLinear("classifier.3"),
    "torchvision:vit_b_16": LastLinear("heads.head"),
    "torchvision:googlenet": LastLinear("fc"),
    "timm:convnext_atto": LastLinear("head.fc"),
    "timm:swin_tiny_patch4_window7_224": LastLinear("head.fc"),
    "timm:mobilenetv3_small_050": LastLinear("classifier"),
    "timm:deit_tiny_distilled_patch16_224": "'head' and 'head_dist'.*embedding='head'",
    "torchvision:squeezenet1_1": r"Conv2d 'classifier\.1', which reads \(2, 512, 13, 13\)",
}


@pytest.mark.parametrize("spec", ZOO)
def test_networks_of_the_zoos_have_theirs_or_say_why_not(spec: str) -> None:
    with torch.device("meta"):
        net, x = networks.build(spec, classes=CLASSES, size=224).eval(), torch.zeros(2, 3, 224, 224)
    expected = ZOO[spec]
    if isinstance(expected, LastLinear):
        assert found(net, x) == expected
    else:
        with pytest.raises(EmbeddingError, match=expected):
            found(net, x)


def test_a_zoos_neck_is_found_behind_its_dropout() -> None:
    with torch.device("meta"):
        net, x = networks.build("timm:levit_128s", classes=CLASSES).eval(), torch.zeros(2, 3, 224, 224)
    assert found(net, x, said="head.linear") == LastLinear("head.linear", "head.bn")


def loose(m: nn.Module, z: Tensor) -> Tensor:
    return F.linear(z, m.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Net(lambda m, z: m.a(z) + m.b(z), a=fc(), b=fc()), "side by side, 'a' and 'b'.* embedding='a'"),
        (
            Net(loose, weight=nn.Parameter(torch.randn(CLASSES, 8))),
            r"a weight of shape \(5, 8\) that belongs to no layer",
        ),
        (Net(lambda m, z: m.fc(z.unsqueeze(1).expand(-1, 4, -1)).mean(1), fc=fc()), r"'fc', which reads \(2, 4, 8\)"),
        (
            Net(lambda m, z: m.conv(z.view(2, 2, 2, 2)).mean((2, 3)), conv=nn.Conv2d(2, CLASSES, 2)),
            r"made by Conv2d 'conv'.*Name the layer .*embedding='LAYER'; layers that read vectors: body",
        ),
        (Net(lambda m, z: m.bn(m.fc(z)), bn=nn.BatchNorm1d(CLASSES), fc=fc()), "made by BatchNorm1d 'bn'.*body, fc"),
        (Net(lambda m, z: m.fc(z) + m.fc(2 * z), fc=fc()), "'fc' ran 2 times"),
        (nn.ReLU(), "no layer with weights"),
    ],
)
def test_what_is_not_one_linear_layer_is_refused_with_candidates(module: nn.Module, says: str) -> None:
    with pytest.raises(EmbeddingError, match=says):
        found(module)


def test_a_name_that_is_said_goes_before_what_is_found_and_must_be_there() -> None:
    two = Net(lambda m, z: m.a(z) + m.b(m.bn(z)), a=fc(), b=fc(), bn=nn.BatchNorm1d(8))
    assert found(two, said="b") == LastLinear("b", "bn")
    assert found(two, said="body") == LastLinear("body")
    for said, says in {"c": "no layer 'c'", "spare": "'spare' did not run"}.items():
        two.spare = nn.Linear(1, 1)
        with pytest.raises(EmbeddingError, match=says):
            found(two, said=said)
    with pytest.raises(EmbeddingError, match=r"'conv1' reads \(2, 3, 16, 16\)"):
        found(Plain(), images(), said="conv1")


def test_looking_leaves_no_trace() -> None:
    net, x = Residual().train(), images()
    net.fc.requires_grad_(False)
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in net.modules()]
    state, draws = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    found(net, x)
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in net.modules()] == hooks
    assert all(m.training for m in net.modules())
    assert not net.fc.weight.requires_grad
    assert net.conv1.weight.requires_grad
    assert net.conv1.weight.grad is None
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_it_is_found_in_inference_mode_of_two_samples() -> None:
    net, x = Residual().eval(), images(5)
    with torch.inference_mode():
        (few,) = two_of((x * 2,))
        assert len(few) == 2
        assert found(net, few) == LastLinear("fc")


def test_reading_gives_what_enters_the_layer_as_vectors() -> None:
    net, kept = Net(lambda m, z: m.fc(input=z), fc=fc()), list[Tensor]()
    x = torch.randn(2, 3)
    with reading(net, "fc", kept.append):
        net(x)
    net(x)
    assert len(kept) == 1
    assert torch.equal(kept[0], F.relu(net.body(x)))
