"""The blocked losses are PyTorch's two steps, value and gradient, wherever they may be called."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from deepsup.errors import ClassCountError, ConfigError, HeadError
from deepsup.losses import upsampled
from deepsup.losses.upsampled import upsampled_binary_cross_entropy, upsampled_cross_entropy

VOID = -100
# (h, w) -> (H, W): odd, single, equal in one direction, equal in both, shrunk in one, shrunk in both.
SIZES = [
    ((5, 7), (23, 40)),
    ((1, 1), (9, 13)),
    ((1, 6), (1, 31)),
    ((4, 6), (4, 17)),
    ((6, 5), (6, 5)),
    ((9, 4), (5, 19)),
    ((9, 8), (5, 3)),
    ((7, 7), (8, 8)),
    ((2, 3), (65, 64)),
]


def plain(x: Tensor, y: Tensor, *, align_corners: bool = False, **options: Any) -> Tensor:
    """The two steps, the enlarged map between them."""
    size = tuple(y.shape[1:])
    big = x if tuple(x.shape[2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    smoothing = options.pop("smoothing", 0.0)
    return F.cross_entropy(big, y, label_smoothing=smoothing, **options)


def plain_binary(x: Tensor, y: Tensor, *, align_corners: bool = False, ignore_index: int = VOID) -> Tensor:
    big = F.interpolate(x, tuple(y.shape[1:]), mode="bilinear", align_corners=align_corners)
    total, places = x.new_zeros(()), 0
    for image, labels in zip(big, y, strict=True):
        for c in range(big.shape[1]):
            counted = labels != ignore_index
            hot = (labels == (1 if big.shape[1] == 1 else c)).to(x.dtype)
            places += int(counted.sum())
            total = total + F.binary_cross_entropy_with_logits(image[c][counted], hot[counted], reduction="sum")
    return total / places


def example(
    classes: int = 5,
    small: tuple[int, int] = (5, 7),
    large: tuple[int, int] = (23, 40),
    *,
    void: int = VOID,
    labels: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    x = (3 * torch.randn(2, classes, *small, dtype=dtype)).requires_grad_()
    y = torch.randint(0, labels or classes, (2, *large))
    y[torch.rand(y.shape) < 0.2] = void
    y[0, 0, 0] = 0  # something always counts
    return x, y


def both(loss: Callable[..., Tensor], x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    value = loss(x, y, **options)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.fixture(params=[2**20, 150], ids=["one tile", "many tiles"])
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upsampled.TILE, "cpu", request.param)


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_value_and_gradient_are_those_of_the_two_steps(small: Any, large: Any, align_corners: bool) -> None:
    for weight, smoothing in itertools.product((None, torch.rand(5, dtype=torch.float64) + 0.1), (0.0, 0.3)):
        x, y = example(5, small, large)
        options = {"align_corners": align_corners, "weight": weight, "smoothing": smoothing}
        expected, found = both(plain, x, y, **options), both(upsampled_cross_entropy, x, y, **options)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_the_binary_loss_is_that_of_the_two_steps(small: Any, large: Any, channels: int, align_corners: bool) -> None:
    x, y = example(channels, small, large, labels=max(2, channels))
    expected = both(plain_binary, x, y, align_corners=align_corners)
    found = both(upsampled_binary_cross_entropy, x, y, align_corners=align_corners)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_gradient_is_the_slope_of_the_value(align_corners: bool) -> None:
    weight = torch.rand(3, dtype=torch.float64)
    for small, large in [((2, 3), (5, 9)), ((1, 2), (4, 4)), ((3, 3), (3, 3)), ((4, 2), (3, 5))]:
        x, y = example(3, small, large, void=1)
        options = {"align_corners": align_corners, "ignore_index": 1}
        assert torch.autograd.gradcheck(lambda x: upsampled_binary_cross_entropy(x, y, **options), x)  # noqa: B023
        options |= {"weight": weight, "smoothing": 0.2}
        assert torch.autograd.gradcheck(lambda x: upsampled_cross_entropy(x, y, **options), x)  # noqa: B023


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("large", [(23, 40), (5, 7)])
def test_narrow_scores_are_computed_in_float32_and_get_their_own_dtype_back(dtype: torch.dtype, large: Any) -> None:
    for loss, other in ((upsampled_cross_entropy, plain), (upsampled_binary_cross_entropy, plain_binary)):
        x, y = example(large=large, dtype=dtype)
        value, gradient = both(loss, x, y)
        wanted, slope = both(other, x.detach().double().requires_grad_(), y)
        assert value.dtype == torch.float32
        assert gradient.dtype == dtype
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient.double(), slope, rtol=2 * torch.finfo(dtype).eps + 1e-5, atol=1e-7)


def test_autocast_changes_nothing() -> None:
    x, y = example(dtype=torch.float32)
    expected = both(upsampled_cross_entropy, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = both(upsampled_cross_entropy, x, y)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_huge_scores_stay_finite() -> None:
    x, y = example(dtype=torch.float32)
    x = (x.detach() * 1e4).requires_grad_()
    for loss, other in ((upsampled_cross_entropy, plain), (upsampled_binary_cross_entropy, plain_binary)):
        torch.testing.assert_close(both(loss, x, y), both(other, x, y), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", [upsampled_cross_entropy, upsampled_binary_cross_entropy])
@pytest.mark.parametrize("size", [(4, 6), (16, 24), (3, 3)])
def test_where_no_place_counts_loss_and_gradient_are_zero(loss: Callable[..., Tensor], size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, 6, requires_grad=True)
    value, gradient = both(loss, x, torch.full((2, *size), 255), ignore_index=255)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(x))
    assert loss(x[:0], torch.full((0, *size), 0)) == 0
    weighted = {"weight": torch.tensor([0.0, 1, 1])} if loss is upsampled_cross_entropy else {}
    nothing = torch.zeros(2, *size, dtype=torch.int64) if weighted else torch.full((2, *size), VOID)
    assert both(loss, x, nothing, **weighted)[0] == 0


def test_any_memory_layout_will_do() -> None:
    x, y = example()
    expected = both(upsampled_cross_entropy, x, y)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    turned = x.detach().transpose(2, 3).contiguous().transpose(2, 3)[:, :, ::1].requires_grad_()
    every_other = torch.zeros(2, 10, 5, 7, dtype=x.dtype)[:, ::2].copy_(x.detach()).requires_grad_()
    mirrored = y.transpose(1, 2).contiguous().transpose(1, 2)
    for other in (last, turned, every_other):
        assert not other.is_contiguous()
        torch.testing.assert_close(both(upsampled_cross_entropy, other, mirrored), expected)
    torch.testing.assert_close(both(upsampled_cross_entropy, x, y.to(torch.int16)), expected)


def test_without_a_gradient_the_value_is_the_same_and_none_is_computed() -> None:
    x, y = example()
    expected = upsampled_cross_entropy(x, y)
    with torch.no_grad():
        assert torch.equal(upsampled_cross_entropy(x, y), expected)
    with torch.inference_mode():
        assert torch.equal(upsampled_cross_entropy(x, y), expected)
    value = upsampled_cross_entropy(x.detach(), y)
    assert torch.equal(value, expected)
    assert not value.requires_grad
    loss, slope = upsampled._operator(x.detach(), y, None, "softmax", False, VOID, 0.0, False)
    assert torch.equal(loss, expected)
    assert slope.numel() == 0


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor of scores that anything makes inside."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves(out)
        self.found = max([self.found, *(t.numel() for t in leaves if t.is_floating_point())])
        return out


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_the_enlarged_map_never_exists(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upsampled.TILE, "cpu", 32 * 1000)
    x, y = torch.randn(2, 20, 8, 8), torch.randint(0, 20, (2, 120, 120))
    rule = upsampled.PlaceOptions(form, VOID, None, 0.0)
    with Largest() as largest:
        upsampled.in_tiles(x, y, rule, align_corners=False, wanted=True)
    assert largest.found <= 20 * 1000 < 2 * 20 * 120 * 120 / 25


@pytest.mark.parametrize("numbers", [1, 300, 5000, 2**20])
def test_the_tiles_cover_each_place_once(numbers: int) -> None:
    seen = torch.zeros(3, 70, 131, dtype=torch.int64)
    for images, rows, columns in upsampled._tiles(3, 4, 70, 131, numbers):
        seen[images, rows, columns] += 1
    assert torch.equal(seen, torch.ones_like(seen))


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_tile_reaches_all_that_its_rows_read(align_corners: bool) -> None:
    for small, large in [(5, 23), (60, 473), (1, 9), (128, 1000), (33, 34), (50, 20)]:
        shares = upsampled._shares(small, large, align_corners, torch.zeros(()))
        assert torch.allclose(shares.sum(1), torch.ones(large))
        for start in range(0, large, 7):
            rows = slice(start, min(large, start + 7))
            reach = upsampled._reach(rows, small, large, align_corners)
            outside = torch.cat([shares[rows, : reach.start], shares[rows, reach.stop :]], 1)
            assert outside.sum() < 1e-4


def test_two_runs_are_equal_bit_by_bit_and_need_no_exception_from_determinism() -> None:
    x, y = example(dtype=torch.float32)
    expected = both(upsampled_cross_entropy, x, y, smoothing=0.1), both(upsampled_binary_cross_entropy, x, y)
    torch.use_deterministic_algorithms(True)
    try:
        found = both(upsampled_cross_entropy, x, y, smoothing=0.1), both(upsampled_binary_cross_entropy, x, y)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(sum(expected, ()), sum(found, ()), strict=True))


@pytest.mark.parametrize("loss", [upsampled_cross_entropy, upsampled_binary_cross_entropy])
def test_a_second_derivative_is_refused_and_not_zero(loss: Callable[..., Tensor]) -> None:
    x, y = example()
    incoming = torch.ones((), dtype=x.dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(x, y), x, incoming, create_graph=True)
    assert torch.autograd.grad(slope.sum(), incoming, retain_graph=True)[0] == pytest.approx(
        float(slope.detach().sum())
    )
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(slope.square().sum(), x)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.gradgradcheck(lambda x: loss(x, y), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_a_forward_mode_derivative_is_refused_and_not_zero() -> None:
    x, y = example()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            upsampled_cross_entropy(dual, y)


def test_batched_gradients_and_scaled_ones() -> None:
    x, y = example()
    _, slope = both(upsampled_cross_entropy, x, y)
    losses = torch.stack([upsampled_cross_entropy(x, y), upsampled_binary_cross_entropy(x, y)])
    (rows,) = torch.autograd.grad(losses, x, torch.eye(2, dtype=x.dtype), is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(rows[0], slope)
    torch.testing.assert_close(rows[1], both(upsampled_binary_cross_entropy, x, y)[1])
    by_vmap = torch.func.vmap(lambda v: torch.autograd.grad(losses, x, v, retain_graph=True)[0])(torch.eye(2).double())
    torch.testing.assert_close(by_vmap, rows)
    losses.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, rows.sum(0))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_whole_with_a_model_before_it(backend: str) -> None:
    model = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    images, y = torch.randn(2, 3, 12, 16), torch.randint(0, 4, (2, 12, 16))
    weight = torch.rand(4)

    def step(images: Tensor, y: Tensor) -> Tensor:
        scores = model(images)
        first = upsampled_cross_entropy(scores, y, weight=weight, smoothing=0.1)
        return first + upsampled_binary_cross_entropy(scores, y, align_corners=True)

    compiled = torch.compile(step, backend=backend, fullgraph=True)
    for _ in range(2):
        gradients = []
        for run in (step, compiled):
            model.zero_grad()
            value = run(images, y)
            value.backward()
            gradients.append((value.detach(), model.weight.grad.clone()))
        torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_the_operator_keeps_what_it_promises_to_compilers(form: str) -> None:
    x, y = example(3, (2, 3), (5, 7), dtype=torch.float32)
    weight = torch.rand(3) if form == "softmax" else None
    tests = ("test_schema", "test_faketensor")
    for given, wanted in ((x, True), (x.detach(), False), (x.detach().to(memory_format=torch.channels_last), True)):
        arguments = (given, y, weight, form, False, VOID, 0.0, wanted)
        torch.library.opcheck(upsampled._operator, arguments, test_utils=tests)


@pytest.mark.parametrize("size", [(24, 24), (6, 6), (3, 9)])
def test_a_dry_run_on_the_meta_device(size: tuple[int, int]) -> None:
    x, y = torch.randn(2, 3, 6, 6, device="meta", requires_grad=True), torch.zeros(2, *size, device="meta").long()
    for loss in (upsampled_cross_entropy, upsampled_binary_cross_entropy):
        value, slope = both(loss, x, y)
        assert value.shape == ()
        assert slope.shape == x.shape


@pytest.mark.parametrize("size", [(12, 18), (4, 6), (3, 3)])
@pytest.mark.parametrize(("channels", "bad", "top"), [(3, 3, 2), (3, -1, 2), (3, 255, 2), (1, 2, 1)])
def test_a_label_without_a_class_is_named(size: Any, channels: int, bad: int, top: int) -> None:
    x, y = torch.randn(2, channels, 4, 6), torch.zeros(2, *size, dtype=torch.int64)
    y[1, 2, 1] = bad
    losses = [upsampled_binary_cross_entropy] if channels == 1 else [upsampled_cross_entropy]
    for loss in [*losses, upsampled_binary_cross_entropy]:
        with pytest.raises(ClassCountError, match=rf"labels 0\.\.{top}"):
            loss(x, y)
        assert torch.isfinite(loss(x, y, ignore_index=bad))


def test_what_does_not_fit_is_said() -> None:
    x, y = torch.randn(2, 3, 4, 6), torch.zeros(2, 8, 12, dtype=torch.int64)
    for loss in (upsampled_cross_entropy, upsampled_binary_cross_entropy):
        shapes = [(x, y[0]), (x, y.unsqueeze(1)), (x[0], y), (x, y[:1]), (x, y[:, :0]), (x[:, :0], y)]
        for scores, target in [*shapes, (x, y.float()), (x.long(), y)]:
            with pytest.raises(HeadError, match=r"scores \(N, C, h, w\) against class indices .* found scores"):
                loss(scores, target)
        with pytest.raises(HeadError, match="the scores are on cpu, the target on meta"):
            loss(x, y.to("meta"))
    with pytest.raises(HeadError, match=r"one number for each of the 3 classes.*found shape \(2,\)"):
        upsampled_cross_entropy(x, y, weight=torch.ones(2))
    with pytest.raises(ConfigError, match=r"smoothing .* in \[0, 1\); found 1"):
        upsampled_cross_entropy(x, y, smoothing=1)
