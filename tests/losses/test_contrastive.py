"""Contrastive losses against the equations of their papers, written as slow loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepsup import losses
from deepsup.errors import HeadError
from tests.support.slow_losses import number, slow_contrast


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0], [1, 0, 1, 2, 0], [3]], ids=str)
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_supcon_equals_a_slow_loop_of_equation_2(labels: list[int], temperature: float) -> None:
    embedding, twice = torch.randn(2 * len(labels), 7, dtype=torch.float64), labels + labels
    value = losses.supcon(embedding, torch.tensor(twice), temperature=temperature)
    expected = slow_contrast(
        embedding, lambda i: [p for p in range(len(twice)) if p != i and twice[p] == twice[i]], temperature
    )
    assert value.shape == ()
    assert number(value) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_simclr_equals_a_slow_loop_of_equation_1(samples: int, temperature: float) -> None:
    embedding = torch.randn(2 * samples, 7, dtype=torch.float64)
    value = losses.simclr(embedding, None, temperature=temperature)
    expected = slow_contrast(embedding, lambda i: [(i + samples) % (2 * samples)], temperature)
    assert value.shape == ()
    assert number(value) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_supcon_is_simclr_where_no_two_images_share_a_class() -> None:
    embedding, labels = torch.randn(12, 7, dtype=torch.float64), torch.randperm(6)
    assert torch.allclose(losses.supcon(embedding, labels.repeat(2)), losses.simclr(embedding, labels))


def test_an_anchor_without_a_positive_adds_nothing() -> None:
    embedding, labels = torch.randn(4, 7, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 0, 2])
    value = losses.supcon(embedding, labels)
    expected = slow_contrast(embedding.detach(), lambda i: {0: [2], 2: [0]}.get(i, []), 0.07)
    assert number(value) == pytest.approx(expected, rel=1e-10)
    value.backward()
    assert embedding.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8])
def test_images_without_a_label_have_their_own_other_crop_alone(dtype: torch.dtype) -> None:
    labels = [1, -100, 1, -100, 0, -100]
    target = torch.tensor(labels, dtype=dtype).repeat(2)
    embedding = torch.randn(12, 7, dtype=torch.float64)
    own = {i: [(i + 6) % 12] for i in range(12) if labels[i % 6] == -100}
    alike = {i: [p for p in range(12) if p != i and labels[p % 6] == labels[i % 6]] for i in range(12)}
    expected = slow_contrast(embedding, lambda i: own.get(i, alike[i]), 0.07)
    assert number(losses.supcon(embedding, target)) == pytest.approx(expected, rel=1e-10)
    assert number(losses.supcon(embedding, target)) != pytest.approx(slow_contrast(embedding, alike.__getitem__, 0.07))
    unlabelled = torch.full((12,), -100, dtype=dtype)
    assert torch.allclose(losses.supcon(embedding, unlabelled), losses.simclr(embedding, unlabelled))


def test_contrast_does_not_see_how_long_an_embedding_is() -> None:
    embedding, labels = torch.randn(8, 5, dtype=torch.float64), torch.tensor([0, 1, 1, 0]).repeat(2)
    lengths = torch.rand(8, 1, dtype=torch.float64) + 0.1
    for loss in (losses.supcon, losses.simclr):
        assert torch.allclose(loss(lengths * embedding, labels), loss(embedding, labels))
    zero = torch.zeros(8, 5, requires_grad=True)
    losses.supcon(zero, labels).backward()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(5, 8), (4, 8, 2, 2), (4,), (0, 8)], ids=str)
def test_contrast_needs_two_crops_of_each_image_as_vectors(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape[0], dtype=torch.long)
    for loss in (losses.supcon, losses.simclr):
        with pytest.raises(HeadError, match=rf"{loss.__name__} needs embeddings \(2N, D\) of two crops"):
            loss(torch.zeros(shape), labels)


@pytest.mark.parametrize("target", [torch.zeros(3, dtype=torch.long), torch.rand(6, 10), torch.zeros(6)])
def test_supcon_needs_a_label_for_each_crop(target: Tensor) -> None:
    with pytest.raises(HeadError, match=r"needs class indices \(integers\) of shape \(6,\).*torch\.cat\(\[y, y\]\)"):
        losses.supcon(torch.zeros(6, 8), target)
