"""What a run comes to, in words."""

from __future__ import annotations

from pathlib import Path

import deepsup as ds
from tests.support.training_runs import some_batches, supervised_net


def test_a_result_prints_in_one_line(tmp_path: Path):
    result = ds.fit(supervised_net(), some_batches, validation=some_batches, epochs=1, folder=tmp_path)
    assert str(result).startswith("1 epoch, 1 step in ")
    assert "\n" not in str(result)
