"""What a comparison is made of: arms and groups, laid over the settings that all its runs share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from deepsup.settings.arms import check_parts, check_seeds, completed, settings_of
from deepsup.settings.goals import check_comparable
from deepsup.settings.section import Settings, check, merge
from deepsup.settings.training import TrainConfig


class Cell(NamedTuple):
    """One run of a comparison: its place in the table and its full configuration."""

    group: str
    arm: str
    seed: int
    config: TrainConfig

    @property
    def run(self) -> str:
        """The run's name and its folder inside the comparison: `sgd/plain/seed0`."""
        return f"{self.group}/{self.arm}/seed{self.seed}"


class ComparisonConfig(Settings):
    """Arms, trained from the same seeds in every group; a run is `base`, its group and its arm, key by key."""

    name: str = Field(default="comparison", min_length=1)
    """What the comparison is called."""
    base: dict[str, Any] = Field(default={})
    """Settings of a run that all runs share."""
    groups: dict[str, dict[str, Any]] = Field(default={"all": {}})
    """What is compared in several settings, such as optimisers: the name of each and its settings."""
    methods: list[str | None] | dict[str, Any] | None = None
    """Arms in short: methods (`[none, dsl, dhm(temperature=2)]`), or names and what is under `supervise` in each."""
    vary: dict[str, list[Any]] | None = None
    """Arms in short: one key of a run and the values that it takes, `{supervise.weight: [0, 0.2, 0.4]}`; an arm each, named
    `weight=0.2`. A weight of 0 is the plain network, `none`."""
    arms: dict[str, dict[str, Any]] = Field(default={})
    """The things that are compared, two or more: the name of each and its settings, laid over those of `methods` and `vary`."""
    baseline: str = ""
    """The arm that every other one is measured against; `plain` if there is an arm of that name, else `none`; with
    `vary` alone the first value."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Each arm of each group is trained once from each of these."""
    until: Literal["decided"] | None = None
    """`decided`: go on with the next whole numbers as seeds until each arm helps or hurts, or there are `max_seeds`."""
    max_seeds: int | None = Field(default=None, ge=2, le=1000)
    """Of `until: decided`: how many seeds there may be, those of `seeds` among them."""
    jobs: int = Field(default=1, ge=1, le=1024)
    """Runs at a time, a process each."""
    minutes: float | None = Field(default=None, gt=0)
    """After so long no further seed is begun; the same command goes on with the next. Null is no limit."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of the interval around a mean difference, on which the verdict rests."""
    correction: Literal["holm", "bonferroni", "none"] = "holm"
    """For several verdicts at a time: wider intervals that hold all together with `confidence`, by `holm` no wider than needed
    or by `bonferroni` all alike; or `none`."""
    output: str = ""
    """The comparison's folder; `runs/NAME` with the comparison's `name` if not given."""

    @model_validator(mode="before")
    @classmethod
    def _what_follows_from_the_rest(cls, data: Any) -> Any:
        return completed(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _is_a_comparison(self) -> ComparisonConfig:
        check_parts(self.base, self.groups, self.arms, baseline=self.baseline)
        check_seeds(self.seeds, until=self.until, most=self.max_seeds)
        cells = self.expand()  # so that a wrong key in a group or an arm is found before anything runs
        check_comparable({cell.config.score_name for cell in cells})
        return self

    @property
    def score_name(self) -> str:
        """What the score is called by which the arms are judged."""
        return self.expand()[0].config.score_name

    @property
    def candidates(self) -> tuple[str, ...]:
        """The arms that are measured against the baseline."""
        return tuple(arm for arm in self.arms if arm != self.baseline)

    def expand(self) -> list[Cell]:
        """Every run, seed by seed, the arms of a seed side by side: wherever it is cut off, what is there is paired."""
        return [
            Cell(group, arm, seed, self._cell(group, arm, seed))
            for seed in self.seeds
            for group in self.groups
            for arm in (self.baseline, *self.candidates)
        ]

    def _cell(self, group: str, arm: str, seed: int) -> TrainConfig:
        run = f"{group}/{arm}/seed{seed}"
        data = settings_of(arm, self.arms, merge(self.base, self.groups[group]))
        data = {**data, "name": run, "seed": seed, "output": str(Path(self.output) / run)}
        return check(TrainConfig, data, where=f"base + groups.{group} + arms.{arm}")
