"""Who reads the output of a layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepsup.layers.dry_run import trace
from deepsup.layers.readers import nodes_above, sequence_number


class Adding(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem, self.part, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.place = nn.Parameter(torch.zeros(4))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.part(x)
        return self.fc(
            {"update": lambda: x + y, "plain": lambda: y, "place": lambda: y + self.place, "both": lambda: (x + y) * y}[
                self.how
            ]()
        )


@pytest.mark.parametrize(("how", "added"), [("update", True), ("plain", False), ("place", False), ("both", False)])
def test_an_update_is_only_added_to_what_it_was_made_of(how: str, added: bool) -> None:
    layers = trace(Adding(how), torch.randn(2, 4)).layers
    assert layers["part"].added == added
    assert not layers["stem"].added


def test_the_graph_above_an_output() -> None:
    before = sequence_number()
    x = torch.ones(2, requires_grad=True)
    y = (x * 2).sum()
    assert len(nodes_above(y)) == 3
    assert nodes_above(torch.ones(2)) == set()
    assert before < sequence_number()
