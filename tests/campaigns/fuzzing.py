"""Settings, command lines and calls that nobody would write: each is carried out or refused by name, none ends in a traceback."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import deepsup as ds
from deepsup import datasets, gradients, losses, methods, schedules
from deepsup.settings import configs
from deepsup.settings.section import flattened, merge, nested
from deepsup.settings.training import TrainConfig
from tests.campaigns.outcomes import Campaign, command, outcome_of, snapshot, touched
from tests.campaigns.started_runs import of_a_comparison, of_a_run, train_all
from tests.support.small_nets import Plain, images

EXAMPLES = 25  # a case
NAMES = [
    *(
        "linear(0.3, 0)",
        "kl(temperature=3)",
        "cnds(width=4)",
        "cosine(1, 0)",
        "scale(0.5)",
        "detach",
        "dhm(temperature=2)",
    ),
    *(
        "relu1",
        "50%",
        "stride:4",
        "type:ReLU",
        "layer[",
        "*",
        "deepsup:plain-4",
        "deepsup:resnet-8",
        "torchvision:nothing",
    ),
    *(
        "kl(",
        "kl)",
        "kl(temperature=)",
        "kl(3, 3)",
        "kl(x=1e999)",
        "f(" * 500,
        "warmup(3,0)",
        "linear(nan)",
        "a=b",
        "[x](y)",
    ),
    *(
        "shared(pool)",
        "network(name='os:system')",
        "imported(path='os:system')",
        "timm:../x",
        "deepsup:",
        ":",
        "auto",
        "-1",
    ),
]
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([10**9, 2**63, 10**400, -(2**63)]),
    st.floats(allow_nan=True, width=32),
    st.text(max_size=12),
    st.sampled_from(NAMES),
    st.dates(),
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
RUN, PAIR = of_a_run(Path("out")), of_a_comparison(Path("out"))
KEYS = sorted({key for key, _ in flattened(TrainConfig().model_dump())})


class Kinds(NamedTuple):
    place: Path
    counts: Counter[str]


def changed_settings(draw: Callable[[Any], Any]) -> dict[str, Any]:
    """Settings of a run or a comparison with some values replaced."""
    told = json.loads(json.dumps(draw(st.sampled_from([RUN, RUN, PAIR]))))
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(KEYS) | st.text(min_size=1, max_size=8).filter(lambda t: all(t.split("."))))
        prefix = draw(st.sampled_from(["", "", "base.", "arms.aux.", "groups.", "vary."])) if "arms" in told else ""
        told = merge(told, nested(prefix + key, draw(values)))
    return told


def settings_case(draw: Callable[[Any], Any], place: Path) -> list[str]:
    """A file of settings, whole or with some of its text replaced."""
    file = place / "fuzzed.yaml"
    text = yaml.dump(changed_settings(draw), allow_unicode=True, Dumper=yaml.SafeDumper)
    if draw(st.integers(0, 3)) == 0:
        begin = draw(st.integers(0, len(text)))
        new = draw(
            st.text(max_size=6)
            | st.sampled_from(["&a", "*a", "{", "]", "<<: ", "!!int ", "? ", "---\n", "\t", "\0", "%TAG"])
        )
        text = text[:begin] + new + text[begin + draw(st.integers(0, 8)) :]
    file.write_text(text, "utf-8", "surrogatepass")
    found = outcome_of(lambda: configs.load(file))
    return [f"{text!r}: {found.problem}"] if found.problem else []


def line_case(draw: Callable[[Any], Any], place: Path) -> list[str]:
    """A command with options and words; none that trains."""
    name = draw(
        st.sampled_from(
            ["layers", "plan", "doctor", "report", "predict", "strip", "score", "methods", "train", "probe"]
        )
    )
    options = OPTIONS.get(name, [])
    words = [name]
    some = ["deepsup:plain-4", "RUN", "image.png", "settings.yaml", "nothing", "[/x]", "notes.txt", "", "a b"]
    for _ in range(draw(st.integers(0, 3))):
        words += [draw(st.sampled_from(some) | st.text(max_size=6))]
    for _ in range(draw(st.integers(0, 3))):
        word = draw(st.sampled_from(options or ["--help"]))
        words += (
            [word]
            if draw(st.integers(0, 4)) == 0
            else [word, draw(st.sampled_from(NAMES) | st.integers(-2, 40).map(str))]
        )
    if name in ("train", "probe", "doctor"):
        key, value = draw(st.sampled_from(KEYS)), draw(plain)
        words += [f"{key}={value}"] if not key.startswith(("output", "epochs", "data.root")) else []
        words += [
            "data.name=digits",
            "data.limit=32",
            "model=deepsup:plain-4",
            *(["--dry-run"] if name == "train" else []),
        ]
    before = snapshot(place / "RUN")
    here = os.getcwd()
    os.chdir(place)
    try:
        found = command(*words)
    finally:
        os.chdir(here)
    wrong = [f"{words}: {found.problem}"] if found.problem else []
    names = [
        n for n in touched(before, snapshot(place / "RUN")) if n != "report.html" and not n.startswith("predictions/")
    ]
    return wrong + ([f"{words} touched {names}"] if names else [])


OPTIONS = {
    "layers": ["--size", "--channels", "--classes", "--all"],
    "plan": ["--at", "--method", "--head", "--weight", "--gradient", "--size", "--channels", "--classes"],
    "doctor": ["--at", "--method", "--head", "--weight", "--size", "--classes", "--batch-size"],
    "report": ["--of", "--group"],
    "predict": ["--branches", "--tile", "--stride"],
    "strip": ["--verify"],
    "probe": ["--rule", "--count"],
}


def call_case(draw: Callable[[Any], Any], place: Path) -> list[str]:
    """A public function with arguments of any kind."""
    model, value = Plain(), draw(values)
    some = st.sampled_from(["conv2", "relu3", "50%", "*"]) | plain
    options = draw(
        st.dictionaries(
            st.sampled_from(["method", "head", "weight", "loss", "branch_loss", "gradient", "main", "task"]),
            plain,
            max_size=2,
        )
    )
    asked = draw(
        st.dictionaries(st.sampled_from(FIT), values.filter(lambda v: not isinstance(v, int) or v < 4), max_size=2)
    )
    at = draw(st.lists(some, max_size=2) | st.dictionaries(st.text(max_size=4), some, max_size=2) | plain)
    calls: dict[str, Callable[[], Any]] = {
        "plan": lambda: ds.plan(model, images(2), at=at, **options),
        "plan again": lambda: ds.plan(model, images(2), at=["50%"], **options),
        "schedule": lambda: schedules.parse(value),
        "gradient": lambda: gradients.parse(value),
        "loss": lambda: losses.get(value),
        "method": lambda: methods.get(value),
        "from_dict": lambda: ds.Plan.from_dict(_with(PLAN, draw, value)),
        "objective": lambda: ds.Objective(loss=value)(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)),
        "fit": lambda: ds.fit(ds.attach(model, PLANNED), [(images(4), torch.arange(4) % 3)], **asked),
        "diagnose": lambda: ds.diagnose(model, images(2), at=at, **options),
        "load": lambda: datasets.load(value, limit=8),
        "settings": lambda: configs.parse(_with(RUN, draw, value)),
    }
    name = draw(st.sampled_from(sorted(calls)))
    found = outcome_of(calls[name])
    return [f"{name} {value!r} {at!r} {options!r} {asked!r}: {found.problem}"] if found.problem else []


def _with(told: dict[str, Any], draw: Callable[[Any], Any], value: Any) -> dict[str, Any]:
    """A copy with one value, at any depth, replaced."""
    whole = json.loads(json.dumps(told))
    here, key = whole, draw(st.sampled_from(sorted(told)))
    while isinstance(here[key], (dict, list)) and here[key] and draw(st.booleans()):
        here = here[key]
        key = draw(st.sampled_from(sorted(here))) if isinstance(here, dict) else draw(st.integers(0, len(here) - 1))
    here[key] = value
    return whole


PLANNED = ds.plan(Plain(), images(2), at=["50%"], method="dhm")
PLAN = PLANNED.to_dict()
FIT = [
    "epochs",
    "optimizer",
    "lr",
    "schedule",
    "seed",
    "metric",
    "engine",
    "log",
    "batch_size",
    "checkpoint_every",
    "validation",
]
CASES = (settings_case, line_case, call_case)


def prepare(place: Path) -> Kinds:
    """A finished run, an image, settings and notes to be named."""
    started = train_all(place / "started")
    os.rename(started.place / "finished", place / "RUN")
    os.rename(started.place / "image.png", place / "image.png")
    os.rename(started.place / "finished.yaml", place / "settings.yaml")
    (place / "notes.txt").write_text("mine")
    return Kinds(place, Counter())


def case(state: Kinds, number: int, place: Path) -> list[str]:
    """Some inputs of one kind, drawn from the number alone."""
    one, wrong = CASES[number % len(CASES)], list[str]()

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def examples(data: Any) -> None:
        state.counts[one.__name__.removesuffix("_case")] += 1
        wrong.extend(one(lambda strategy: data.draw(strategy), state.place))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        random.seed(number)
        torch.manual_seed(number)
        examples()
    return wrong


CAMPAIGN = Campaign("fuzzed inputs", prepare, case, target=90, short=3)
