"""What a probe measured: a row a weight-bearing layer; prints as a table, is stored as JSON, says where to put branches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepsup import documents, heads
from deepsup.errors import ConfigError, DeepsupError
from deepsup.features import Feature
from deepsup.files import write_atomically
from deepsup.heads.cost import aligned
from deepsup.probes.magnitudes import Magnitudes, average
from deepsup.probes.placement import Point, Recommendation, Weighted, choose, recommend

PAPER_THRESHOLD = 1e-7  # CNDS, section 3; on float16's floor, so everything is computed in float32
FORMAT = 1


@dataclass(frozen=True)
class LayerGradient:
    """One weight-bearing layer, measured in each iteration, and the tap point that follows it."""

    layer: str
    tap: str | None  # None behind the last tap point: the classifier
    depth: float
    weight: Magnitudes  # |gradient| of its weight
    output: Magnitudes | None = None  # |gradient| at what it gives out; None where none can be read
    activation: tuple[float, ...] = ()  # mean |value| of what it gives out, on the way up

    @property
    def gradients(self) -> tuple[float, ...]:
        """Mean |gradient| of the weight in each iteration."""
        return self.weight.mean

    @property
    def mean(self) -> float:
        """Mean |gradient| of the weight over the iterations."""
        return average(self.weight.mean)


@dataclass(frozen=True)
class Probe:
    """What `probe` measured: one row a weight-bearing layer, in the order in which they run."""

    model: str
    rows: tuple[LayerGradient, ...]
    iterations: int
    threshold: float = PAPER_THRESHOLD  # under which a value counts as vanished
    points: tuple[Point, ...] = ()  # where branches can go
    classes: int | None = None  # of the main output; None where it has no axis for them
    branches: tuple[str, ...] = ()  # layers that were supervised while measuring

    def means(self) -> dict[str, float]:
        """Layer -> mean |gradient| of its weight over the iterations."""
        return {r.layer: r.mean for r in self.rows}

    def recommend(
        self, rule: str = "threshold", *, threshold: float | None = None, factor: float = 10.0, count: int = 2
    ) -> list[str]:
        """The layers to supervise, ready for `plan(at=...)`; empty when no gradient vanishes by this rule.

        `"threshold"`, the paper's: one branch, after the deepest layer whose mean gradient is under `threshold` (that
        of the probe, if not given). `"drop"`: walking down from the last layer before the classifier, one branch
        wherever the mean gradient has fallen below 1/`factor` of what it was at the branch above (at first: at the start).
        Both judge a layer by the largest mean gradient among itself and the layers before it: where one of those is
        healthy the signal gets through. `"evenly"`: `count` branches at even distances in depth. Raises `ConfigError`.
        """
        limit = self.threshold if threshold is None else threshold
        return choose(rule, self._weighted(), self.points, threshold=limit, factor=factor, count=count)

    def recommendation(
        self,
        rule: str = "threshold",
        *,
        threshold: float | None = None,
        factor: float = 10.0,
        count: int = 2,
        head: str | Mapping[str, str] = heads.AUTO,
    ) -> Recommendation:
        """What `recommend` says, with the reason in a sentence and every tap point ranked and priced; prints as a table.

        `head` is the one that is priced: a text, or one by layer (others are priced with `"auto"`).
        """
        limit = self.threshold if threshold is None else threshold
        options: dict[str, Any] = {"threshold": limit, "factor": factor, "count": count, "classes": self.classes}
        return recommend(self.model, rule, self._weighted(), self.points, **options, head=head)

    def _weighted(self) -> list[Weighted]:
        return [Weighted(r.layer, r.tap, r.depth, r.mean) for r in self.rows if r.tap is not None]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        points = [
            {
                "layer": p.layer,
                "depth": p.depth,
                "stride": p.stride,
                "shape": p.feature.shape,
                "layout": p.feature.layout,
            }
            for p in self.points
        ]
        whole = {"format": FORMAT, **{k: v for k, v in vars(self).items() if k not in ("rows", "points")}}
        found: dict[str, Any] = json.loads(
            json.dumps(whole | {"points": points, "rows": [asdict(r) for r in self.rows]})
        )
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Probe:
        """The probe that `to_dict` wrote. Raises `ConfigError` for another format or a damaged one."""
        if data.get("format") != FORMAT:
            raise ConfigError(
                f"this is not a probe of format {FORMAT}: found format {data.get('format')!r}. Probe again."
            )
        try:
            return cls(
                model=data["model"],
                rows=tuple(_read_row(r) for r in data["rows"]),
                iterations=data["iterations"],
                threshold=data["threshold"],
                points=tuple(
                    Point(p["layer"], p["depth"], p["stride"], Feature(tuple(p["shape"]), p["layout"]))
                    for p in data["points"]
                ),
                classes=data["classes"],
                branches=tuple(data["branches"]),
            )
        except KeyError as error:
            raise ConfigError(f"the probe is damaged: {error} is missing. Probe again.") from None
        except (DeepsupError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"the probe is damaged: {type(error).__name__}: {error}. Probe again.") from None

    def save(self, path: str | Path) -> None:
        """Write the probe as JSON."""
        text = json.dumps(self.to_dict()) + "\n"
        write_atomically(Path(path), lambda file: file.write_text(text))

    @classmethod
    def load(cls, path: str | Path) -> Probe:
        """Read a probe that `save` wrote. Raises `ConfigError` when the file is not one."""
        try:
            data = documents.parsed(documents.content(path))
        except FileNotFoundError:
            raise ConfigError(f"there is no file {path} to read a probe from.") from None
        except ValueError as error:  # no JSON, or no text at all
            raise ConfigError(
                f"{path} is not a probe: it is no valid JSON ({error}). Probe again and save it."
            ) from None
        if not isinstance(data, dict):
            raise ConfigError(f"{path} is not a probe: it holds {type(data).__name__}, not an object.")
        return cls.from_dict(data)

    def __str__(self) -> str:
        by = f"top loss and branches at {', '.join(self.branches)}" if self.branches else "top loss only"
        lines = [f"{self.model}: |gradient| of each layer's weights, {self.iterations} iterations, {by}"]
        table = [["layer", "depth", "mean", "5th perc.", "vanished", "activation", "tap after"]]
        for r in self.rows:
            figures = [f"{r.mean:.1e}", f"{average(r.weight.p5):.1e}", f"{average(r.weight.vanished):.0%}"]
            table.append([r.layer, f"{r.depth:.0%}", *figures, f"{average(r.activation):.1e}", r.tap or "-"])
        lines += aligned(table, right=range(1, 6))
        for rule in ("threshold", "drop"):
            lines.append(f"  at={self.recommend(rule)}  by rule {rule!r}")
        return "\n".join(lines)


def _read_row(data: Mapping[str, Any]) -> LayerGradient:
    def magnitudes(part: Mapping[str, list[float]]) -> Magnitudes:
        return Magnitudes(**{k: tuple(map(float, part[k])) for k in ("mean", "median", "p5", "vanished")})

    output = None if data["output"] is None else magnitudes(data["output"])
    activation = tuple(map(float, data["activation"]))
    return LayerGradient(data["layer"], data["tap"], data["depth"], magnitudes(data["weight"]), output, activation)
