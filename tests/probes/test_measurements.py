"""What a probe measured: printed as a table, stored whole as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from deepsup.errors import ConfigError
from deepsup.features import Feature
from deepsup.probes import Probe, probe
from tests.support.probing import batches, hand_made
from tests.support.small_nets import Plain, Residual


def test_a_probe_prints_as_a_table() -> None:
    lines = str(hand_made(5e-8, 2e-4, 1e-2, 2e-2)).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "Net: |gradient| of each layer's weights, 2 iterations, top loss only",
        "layer depth mean 5th perc. vanished activation tap after",
        "a 25% 5.0e-08 5.0e-09 50% 2.0e+00 tap_a",
        "b 50% 2.0e-04 2.0e-05 50% 2.0e+00 tap_b",
        "c 75% 1.0e-02 1.0e-03 50% 2.0e+00 tap_c",
        "d 100% 2.0e-02 2.0e-03 50% 2.0e+00 -",
        "at=['tap_a'] by rule 'threshold'",
        "at=['tap_a', 'tap_b'] by rule 'drop'",
    ]
    assert hand_made(1.0, 2.0).means() == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("kind", [Plain, Residual], ids=["short names", "long names"])
def test_the_columns_of_a_probe_stand_under_their_heads(kind: type[nn.Module]) -> None:
    seen = probe(kind(), batches(1), iterations=1) if kind is Residual else hand_made(5e-8, 2e-4, 1e-2, 2e-2)
    head, *rows = str(seen).splitlines()[1 : 2 + len(seen.rows)]
    for line, row in zip(rows, seen.rows, strict=True):
        assert line.index(row.layer) == head.index("layer")
        assert line.rindex(row.tap or "-") == head.index("tap after")


@pytest.mark.parametrize("kind", [Plain, Residual])
def test_everything_survives_json(kind: type[nn.Module], tmp_path: Path) -> None:
    seen = probe(kind(), batches(2), iterations=3, threshold=1e-3)
    assert Probe.from_dict(json.loads(json.dumps(seen.to_dict(), allow_nan=False))) == seen
    seen.save(tmp_path / "new" / "probe.json")
    assert Probe.load(tmp_path / "new" / "probe.json") == seen
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["probe.json"]
    assert seen.threshold == 1e-3
    assert seen.points[0].feature == Feature((8, 16, 16) if kind is Plain else (4, 8, 8), "NCHW")
    assert (seen.classes, seen.points[0].stride, seen.branches) == (5, 1 if kind is Plain else 2, ())


def test_a_stored_probe_recommends_what_the_fresh_one_does(tmp_path: Path) -> None:
    seen = probe(Residual(), batches(1), iterations=2)
    seen.save(tmp_path / "probe.json")
    stored = Probe.load(tmp_path / "probe.json")
    for rule, options in (("drop", {"factor": 1.5}), ("threshold", {"threshold": 1.0}), ("evenly", {"count": 3})):
        assert str(stored.recommendation(rule, **options)) == str(seen.recommendation(rule, **options))


def broken(*path: Any) -> dict[str, Any]:
    whole = probe(Plain(), batches(1), iterations=1).to_dict()
    part: Any = whole
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return whole


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no valid JSON"),
        ("\udcff", "no valid JSON"),
        ("[1]", "it holds list, not an object"),
        ('{"format": 99}', "not a probe of format 1: found format 99"),
        ('{"format": 1}', "the probe is damaged: 'model' is missing"),
        (("rows", 0, "weight", "p5"), "the probe is damaged: 'p5' is missing"),
        (("points", 0, "layout"), "the probe is damaged: 'layout' is missing"),
        (("points", 0, "shape", 0), "the probe is damaged: OutputError"),
    ],
)
def test_a_file_that_is_no_probe_is_a_config_error(text: Any, says: str, tmp_path: Path) -> None:
    text = text if isinstance(text, str) else json.dumps(broken(*text))
    (tmp_path / "probe.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=says):
        Probe.load(tmp_path / "probe.json")


def test_a_file_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        Probe.load(tmp_path / "probe.json")
