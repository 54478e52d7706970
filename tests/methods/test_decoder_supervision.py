"""The methods of segmentation against a step written by hand: same loss, same gradient of every parameter."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import losses
from deepsup.errors import ConfigError, HeadError, LayerError
from deepsup.losses import resizing
from deepsup.losses.full_size import alike, enlarged
from deepsup.losses.resizing import LostClassesWarning
from deepsup.networks import unetpp
from tests.support.method_steps import Step
from tests.support.tiny_maps import CLASSES, TinySegmenter, maps, segmenter

VOID = -100


def ce(scores: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(scores, y)


def dice(scores: Tensor, y: Tensor) -> Tensor:
    """Over batch and places, class by class in a loop; every class occurs here."""
    p, on, each = scores.softmax(1), y != VOID, []
    for c in range(CLASSES):
        q, t = p[:, c][on], (y[on] == c).double()
        each.append(1 - (2 * (q * t).sum() + 1e-5) / (q.sum() + t.sum() + 1e-5))
    return torch.stack(each).mean()


def nnunets(scores: Tensor, y: Tensor, *, batch: bool) -> Tensor:
    """Without the background; over the batch and places, or of each sample; absent classes count. 1 - the original's."""
    p, on, each = scores.softmax(1), y != VOID, []
    groups = [slice(None)] if batch else [slice(n, n + 1) for n in range(len(y))]
    for part in groups:
        for c in range(1, CLASSES):
            q, t = p[part, c][on[part]], (y[part][on[part]] == c).double()
            each.append(1 - (2 * (q * t).sum() + 1e-5) / (q.sum() + t.sum() + 1e-5))
    return torch.stack(each).mean()


def small(y: Tensor, scores: Tensor) -> Tensor:
    return F.interpolate(y[:, None].double(), scores.shape[2:], mode="nearest-exact")[:, 0].long()


def corners(scores: Tensor, y: Tensor) -> Tensor:
    return F.interpolate(scores, y.shape[1:], mode="bilinear", align_corners=True)


def test_pspnet_adds_0_4_of_an_auxiliary_loss_at_the_labels_size() -> None:
    step = Step("pspnet")
    assert [(b.layer, b.head, b.weight(0.5)) for b in step.plan.branches] == [("layer2", "fcn", 0.4)]
    step.check(lambda o, y: ce(corners(o["main"], y), y) + 0.4 * ce(corners(o["layer2"], y), y))
    assert ds.plan(TinySegmenter(), maps(2)[0], method="pspnet(weight=0.7)").branches[0].weight(0) == 0.7


@pytest.mark.parametrize(("method", "head"), [("c1-deepsup", "c1"), ("ppm-deepsup", "c1(dropout=0.1)")])
def test_csails_methods_shrink_the_labels(method: str, head: str) -> None:
    step = Step(method)
    assert [(b.layer, b.head, b.weight(0.5)) for b in step.plan.branches] == [("layer2", head, 0.4)]

    def by_hand(o: dict[str, Tensor], y: Tensor) -> Tensor:
        nll = {k: F.nll_loss(F.log_softmax(s, 1), small(y, s), ignore_index=VOID) for k, s in o.items()}
        return nll["main"] + 0.4 * nll["layer2"]

    step.check(by_hand)


def test_nnunets_weights_halve_and_sum_to_one() -> None:
    step = Step("nnunet")
    assert [b.layer for b in step.plan.branches] == ["up2"]  # up3 is the coarsest, up1 is what main reads
    weights = ds.Objective(step.plan)(step.net(step.x), step.y).weights
    assert weights == pytest.approx({"main": 2 / 3, "up2": 1 / 3})

    for batch in (True, False):

        def by_hand(o: dict[str, Tensor], y: Tensor, batch: bool = batch) -> Tensor:
            each = {k: ce(s, small(y, s)) + nnunets(s, small(y, s), batch=batch) for k, s in o.items()}
            return 2 / 3 * each["main"] + 1 / 3 * each["up2"]

        case = Step(f"nnunet(batch={batch})")
        case.y[1:][case.y[1:] > 1] = 0  # the first sample alone has most classes, and none has the last
        case.y[0][case.y[0] == CLASSES - 1] = 1
        case.check(by_hand)
    whole = ds.plan(TinySegmenter(), maps(2)[0], ["layer1", "layer2", "layer3"], method="nnunet")
    assert whole.main_weight == pytest.approx(8 / 15)
    assert {b.name: b.weight(0) for b in whole.branches} == pytest.approx(
        {"layer1": 4 / 15, "layer2": 2 / 15, "layer3": 1 / 15}  # by size: fine ones weigh more
    )
    assert ds.Plan.from_dict(whole.to_dict()) == whole
    own = ds.plan(TinySegmenter(), maps(2)[0], method="nnunet", weight=0)
    assert (own.main_weight, own.branches[0].weight(0)) == (1.0, 0.0)  # or weight 0 would not be the plain model
    loss = "dice_cross_entropy(resize='nearest', background=False, absent=True)"
    assert f"main: 0.5333 * {loss}" in str(whole)
    assert repr(ds.Objective(whole)).startswith(f"total = 0.5333 * {loss}(main, y) + ")


@pytest.mark.parametrize(
    ("mode", "weights"),
    [("same", [1, 1]), ("exp", [0.5, 0.25]), ("two", [0.5, 0.5])],
)
def test_monais_modes_weigh_from_fine_to_coarse(mode: str, weights: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = pytest.importorskip("monai.losses")
    step = Step(f"monai(mode='{mode}')")
    fine, coarse = weights
    assert {b.layer: b.weight(0) for b in step.plan.branches} == {"up2": fine, "up3": coarse}

    step.y = step.y.clamp(min=0)  # DiceCELoss knows no places that do not count
    step.y[1:][step.y[1:] > 1] = 0
    theirs = monai.DeepSupervisionLoss(monai.DiceCELoss(to_onehot_y=True, softmax=True), weight_mode=mode)

    def by_library(o: dict[str, Tensor], y: Tensor) -> Tensor:  # as its forward, which would cast to float32
        each = [theirs.get_loss(o[name], y[:, None].double()) for name in ("main", "up2", "up3")]
        return sum((w * loss for w, loss in zip(theirs.get_weights(3), each, strict=True)), torch.zeros(()))

    step.check(by_library)


def test_monais_exponential_weights_stop_at_a_sixteenth() -> None:
    class Deep(nn.Module):
        levels = tuple(f"up{n}" for n in range(6))

        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 4, 1, stride=64)
            for name in self.levels:
                setattr(self, name, nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 1)))
            self.score = nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.down(x)
            for name in self.levels:
                x = getattr(self, name)(x)
            return self.score(x)

    plan = ds.plan(Deep(), torch.randn(2, 3, 64, 64), method="monai(mode='exp')")
    assert [b.weight(0) for b in plan.branches] == [0.0625, 0.0625, 0.125, 0.25, 0.5]


class Foreign(nn.Module):
    """A U-Net of somebody else's: says nothing of itself, squeezes channels, and pools a pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([TinySegmenter.block(3, 4), TinySegmenter.block(4, 6), TinySegmenter.block(6, 8)])
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.pyramid = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(8, 8, 1))
        self.decoder = nn.ModuleList(
            [TinySegmenter.block(14, 6), nn.Sequential(nn.Conv2d(6, 6, 1), nn.Upsample(scale_factor=2))]
        )
        self.score = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.encoder[0](F.max_pool2d(x, 2))
        two = self.encoder[1](F.max_pool2d(one, 2))
        three = self.encoder[2](F.max_pool2d(two, 2))
        three = three * self.squeeze(three) + F.interpolate(self.pyramid(three), three.shape[2:])
        up = self.decoder[0](torch.cat([F.interpolate(three, scale_factor=2), two], 1))
        return self.score(F.interpolate(self.decoder[1](up), scale_factor=2))


def test_levels_of_a_foreign_decoder_are_found_by_where_maps_grow_back() -> None:
    x = torch.randn(2, 3, 32, 32)  # 16, 8, 4 on the way down; 1 and 3 beside it; 8, 16 on the way up
    plan = ds.plan(Foreign(), x, method="monai(mode='two')")
    assert [(b.layer, b.feature.size) for b in plan.branches] == [("decoder.0", (8, 8)), ("decoder.1", (16, 16))]
    assert [b.layer for b in ds.plan(Foreign(), x, method="nnunet").branches] == ["decoder.1"]
    model = Foreign()
    model.levels = (1, 2, 3)  # something of its own by that name
    assert [b.layer for b in ds.plan(model, x, method="nnunet").branches] == ["decoder.1"]


def test_a_network_that_says_it_has_no_levels_has_none() -> None:
    with pytest.raises(LayerError, match="none was found in TinySides"):
        ds.plan(segmenter("hed"), torch.randn(2, 3, 16, 16), method="monai")


def test_hed_balances_every_side_and_the_fusion() -> None:
    step = Step("hed")
    assert [(b.layer, b.head, b.params) for b in step.plan.branches] == [(f"side{n}", "identity", 0) for n in (1, 2, 3)]

    def balanced(scores: Tensor, y: Tensor) -> Tensor:
        scores = F.interpolate(scores, y.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        total = scores.new_zeros(())
        for s, t in zip(scores, y, strict=True):
            p, t = s[t != VOID].sigmoid(), t[t != VOID]
            beta = (t == 0).double().mean()
            total = total - (torch.where(t == 1, beta * p.log(), (1 - beta) * (1 - p).log())).mean()
        return total / len(y)

    step.check(lambda o, y: sum((balanced(s, y) for s in o.values()), torch.zeros(())))


def test_unetpp_weighs_every_node_alike() -> None:
    step = Step("unetpp")
    assert [(b.layer, b.head, b.weight(0)) for b in step.plan.branches] == [
        ("up3", "conv1x1", 1),
        ("up2", "conv1x1", 1),
    ]

    def full(scores: Tensor, y: Tensor) -> Tensor:
        scores = F.interpolate(scores, y.shape[1:], mode="bilinear", align_corners=False)
        return ce(scores, y) + dice(scores, y)

    step.check(lambda o, y: full(o["main"], y) + full(o["up2"], y) + full(o["up3"], y))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_unetpps_released_loss_is_half_the_entropy_and_dice_smoothed_by_one(share: float) -> None:
    """keras/helper_functions.py: 0.5 binary_crossentropy - (2 sum yp + 1) / (sum y + sum p + 1), flat, added over outputs."""
    torch.manual_seed(0)
    model = unetpp(classes=1, widths=(4, 6, 8, 10, 12), norm=None, upsample="transpose").double()
    x, y = torch.randn(3, 3, 32, 32).double(), (torch.rand(3, 32, 32) < share).long()
    plan = ds.plan(model, x, method="unetpp-released")
    assert [(b.head, b.weight(0)) for b in plan.branches] == [("conv1x1", 1)] * 3
    net = ds.attach(model, plan)
    with ds.supervising(net):
        outputs = net(x)
    expected = torch.tensor(0.0)
    for scores in (outputs.main, *outputs.aux.values()):
        p = scores[:, 0].sigmoid().flatten()
        t = y.double().flatten()
        dice = (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
        expected = expected + 0.5 * -(t * p.log() + (1 - t) * (1 - p).log()).mean() + 1 - dice
    found = ds.Objective(plan)(outputs, y).total
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    parameters = [p for p in net.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(v, parameters, retain_graph=True) for v in (found, expected))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-14) for a, b in zip(ours, theirs, strict=True))


def test_binary_maps_of_one_channel() -> None:
    torch.manual_seed(0)
    model, (x, y) = TinySegmenter(1), maps(method="hed")
    plan = ds.plan(model, x, method="pspnet", loss="binary")
    assert (plan.main_loss, plan.branches[0].loss) == ("binary", "binary")
    terms = ds.Objective(plan)(ds.attach(model, plan)(x), y)
    on = y != VOID
    main = F.binary_cross_entropy_with_logits(model(x)[:, 0][on], y[on].float())
    assert torch.allclose(terms.parts["main"], main, rtol=1e-4)


def test_one_channel_is_for_losses_with_a_sigmoid() -> None:
    x, _ = maps(2)
    note = "the model gives one channel, over which a softmax is always 1: for two classes use loss='binary'"
    assert note in ds.plan(TinySegmenter(1), x, method="pspnet").notes
    assert not ds.plan(TinySegmenter(1), x, method="pspnet", loss="binary").notes
    with pytest.raises(
        HeadError, match="'balanced' tells two classes apart by one score a place, and the output has 5"
    ):
        ds.plan(TinySegmenter(), x, "layer2", method="pspnet", loss="balanced")


def test_a_main_loss_is_that_of_branches_that_had_the_same() -> None:
    x, _ = maps(2)
    aux = ds.plan(TinySegmenter(), x, "layer2", loss="cross_entropy(ignore_index=255)")
    assert aux.branches[0].loss == "cross_entropy(ignore_index=255)"
    own = ds.plan(TinySegmenter(), x, "layer2", loss="dice", branch_loss="cross_entropy")
    assert (own.main_loss, own.branches[0].loss) == ("dice", "cross_entropy")
    with pytest.raises(ConfigError, match="no loss is called 'dicee'"):
        ds.plan(TinySegmenter(), x, "layer2", loss="dicee")


def test_networks_that_do_not_say_where_are_told_to() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, CLASSES, 1))
    x = torch.randn(2, 3, 16, 16)
    with pytest.raises(LayerError, match=r"nor has one layer called layer3 that runs \(0 found\). Say where: at="):
        ds.plan(plain, x, method="pspnet")
    with pytest.raises(LayerError, match=r"no map grows back step by step .* Say where: at="):
        ds.plan(plain, x, method="nnunet")
    with pytest.raises(LayerError, match="'hed' supervises side outputs"):
        ds.plan(plain, x, method="hed")
    with pytest.raises(ConfigError, match=r"'monai' needs mode to be 'same' or 'exp' or 'two'; found 'half'"):
        ds.plan(plain, x, method="monai(mode='half')")
    assert ds.plan(plain, x, "0", method="pspnet").branches[0].head == "fcn"


def test_classes_that_shrinking_loses_are_named_once() -> None:
    x, y = maps(2)
    y = torch.zeros_like(y)
    y[:, 0] = 3  # a line that is in no cell's middle at half the size
    plan = ds.plan(
        TinySegmenter(), x, {"half": "layer2"}, head="conv1x1", branch_loss="cross_entropy(resize='nearest')"
    )
    net, objective = ds.attach(TinySegmenter(), plan), ds.Objective(plan)
    objective.class_names = ("sky", "road", "car", "pole")
    with pytest.warns(LostClassesWarning, match=r"at 8x8 the labels of 'half' .* have lost pole, which this batch has"):
        objective(net(x), y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(net(x), y)
        for how in ("enlarge", "area", "preserve"):
            kept = ds.plan(TinySegmenter(), x, "layer2", head="conv1x1", branch_loss=f"cross_entropy(resize='{how}')")
            ds.Objective(kept)(ds.attach(TinySegmenter(), kept)(x), y)
    assert resizing.lost_classes(y, (8, 8)) == (3,)


def test_outputs_of_several_sizes_vote_at_the_size_of_the_largest() -> None:
    torch.manual_seed(0)
    model, (x, _) = TinySegmenter().eval(), maps(2)
    net = ds.attach(model, ds.plan(model, x, ["layer2", "layer3"], head="conv1x1")).eval()
    with ds.supervising(net):
        outputs = net(x)
    sizes = [o.shape[2:] for o in alike([outputs.main, *outputs.aux.values()])]
    assert set(sizes) == {torch.Size([16, 16])}
    mean = (
        sum(F.interpolate(o, (16, 16), mode="bilinear").softmax(1) for o in (*outputs.aux.values(), outputs.main)) / 3
    )
    assert torch.allclose(ds.ensemble(net)(x), mean, atol=1e-6)
    ds.strip(net)
    mixed = ds.attach(model, ds.plan(model, x, "layer2", head="conv1x1", branch_loss="binary")).eval()
    with ds.supervising(mixed):
        outputs = mixed(x)
    share = F.interpolate(outputs.aux["layer2"], (16, 16), mode="bilinear").sigmoid()
    expected = (outputs.main.softmax(1) + share / share.sum(1, keepdim=True)) / 2
    assert torch.allclose(ds.ensemble(mixed)(x), expected, atol=1e-6)
    binary = TinySegmenter(1).eval()
    net = ds.attach(binary, ds.plan(binary, x, "layer2", loss="binary")).eval()
    assert bool((ds.ensemble(net)(x) < 1).all())  # a softmax over one channel would be 1


def test_scores_are_enlarged_as_the_loss_that_trained_them_does() -> None:
    scores = torch.randn(1, 2, 3, 3)
    for text, aligned in (("cross_entropy(align_corners=True)", True), ("cross_entropy", False)):
        expected = F.interpolate(scores, (7, 5), mode="bilinear", align_corners=aligned)
        assert torch.equal(enlarged(scores, (7, 5), text), expected)
    assert losses.option("cross_entropy(align_corners=True)", "align_corners", False) is True


def test_no_place_that_counts_gives_zero_and_no_nan() -> None:
    x, y = maps(2)
    for method in ("pspnet", "c1-deepsup", "nnunet", "monai", "unetpp"):
        model = TinySegmenter()
        plan = ds.plan(model, x, method=method)
        net = ds.attach(model, plan)
        terms = ds.Objective(plan)(net(x), torch.full_like(y, VOID))
        terms.total.backward()
        assert terms.total.item() == 0
        assert all(bool((p.grad == 0).all()) for p in net.parameters() if p.grad is not None)
