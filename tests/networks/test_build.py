"""Networks by name: what is built, and what is said when it cannot be built."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepsup import networks
from deepsup.errors import ConfigError, MissingPackageError

torch.set_num_threads(1)

FACTORIES = """
import functools
import os
import subprocess

import torch
from torch import nn

SEEN = {}
system = functools.partial(os.system, "false")
shout = print

def named(num_classes, in_channels, size):
    SEEN.update(num_classes=num_classes, in_channels=in_channels, size=size)
    return nn.Linear(in_channels * size * size, num_classes)

def open_ended(**anything):
    SEEN.update(anything)
    return nn.Identity()

def fixed():
    return nn.Identity()

def fussy(width, *, num_classes):
    return nn.Linear(width, num_classes)

def no_module():
    return 3

def broken():
    raise RuntimeError("inside the factory")

class Holder:
    make = staticmethod(fixed)

number = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = tmp_path / "somepackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(FACTORIES)
    (package / "lame.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "somepackage.nets"
    for name in [name for name in sys.modules if name.startswith("somepackage")]:
        del sys.modules[name]


class TestFactory:
    def test_gets_what_its_signature_names(self, factories: str) -> None:
        model = networks.build(f"{factories}:named", classes=5, in_channels=2, size=4)
        assert model(torch.zeros(1, 32)).shape == (1, 5)

    def test_an_open_signature_gets_the_classes_and_the_options(self, factories: str) -> None:
        networks.build(f"{factories}:open_ended", classes=5, in_channels=2, size=4, options={"depth": 3})
        assert sys.modules[factories].SEEN == {"num_classes": 5, "depth": 3}

    def test_a_closed_signature_gets_nothing(self, factories: str) -> None:
        assert isinstance(networks.build(f"{factories}:fixed", classes=5), nn.Identity)

    def test_options_fill_in_the_rest(self, factories: str) -> None:
        model = networks.build(f"{factories}:fussy", classes=5, options={"width": 8})
        assert model(torch.zeros(1, 8)).shape == (1, 5)

    def test_an_attribute_of_a_class(self, factories: str) -> None:
        assert isinstance(networks.build(f"{factories}:Holder.make", classes=5), nn.Identity)

    def test_its_own_errors_are_its_own(self, factories: str) -> None:
        with pytest.raises(RuntimeError, match="inside the factory"):
            networks.build(f"{factories}:broken", classes=5)

    def test_a_missing_import_inside_is_reported_as_it_is(self, factories: str) -> None:
        with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
            networks.build("somepackage.lame:make", classes=5)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fuzzy", r"has no 'fuzzy'. Closest: fussy"),
            ("fussy", r"signature \(width, \*, num_classes\).*missing a required argument: 'width'"),
            ("no_module", "returned int, not an nn.Module"),
            ("number", "'number' is neither a class of nn.Modules nor a function that makes one: 3"),
            ("Holder", "'Holder' is neither a class of nn.Modules nor"),
            ("os.system", "'os.system' is neither a class of nn.Modules nor"),
            ("subprocess.run", "'subprocess.run' is neither a class of nn.Modules nor"),
            ("system", "'system' is neither a class of nn.Modules nor"),
            ("shout", "'shout' is neither a class of nn.Modules nor"),
        ],
    )
    def test_says_why_not(self, factories: str, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            networks.build(f"{factories}:{name}", classes=5)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("resnet18", {}, "does not say where it comes from.*timm:NAME"),
        ("plain-12", {}, "Perhaps deepsup:plain-12"),
        ("wrn-28-10", {}, "Perhaps deepsup:wrn-28-10"),
        ("nin", {}, "Perhaps deepsup:nin"),
        ("deepsup:", {}, "does not say where it comes from"),
        ("deepsup:plane-12", {}, "Closest: deepsup:plain-12"),
        ("deepsup:plain-2", {}, "2 convolutions cannot fill 3 stages"),
        ("deepsup:plain-12", {"width": 3}, "no option width. It takes: widths"),
        ("deepsup:plain-12", {"widths": [0]}, "must be one or more channel counts"),
        ("deepsup:plain-12", {"widths": "big"}, "must be one or more channel counts"),
        ("timm:resnet81", {}, r"timm has no model called 'resnet81'. Closest: resnet18.*timm.list_models\(\)"),
        ("timm:resnet18", {"depht": 3}, "could not be built.*depht=3.*unexpected keyword"),
        ("timm:resnet18", {"in_chans": 1}, "take in_chans out"),
        ("timm:resnet18.no_such_tag", {}, "could not be built.*no_such_tag"),
        ("timm:resnet18", {"num_classes": 3}, "class count of 'timm:resnet18' is 10, from the data"),
        ("torchvision:resnet81", {}, r"Closest: resnet18.*torchvision.models.list_models\(\)"),
        ("torchvision:resnet18", {"weights": "V7"}, "no weights 'V7'. It has: IMAGENET1K_V1, DEFAULT"),
        ("torchvision:resnet18", {"weights": True}, "no weights True"),
        ("torchvision:resnet18", {"depth": 3}, "could not be built.*depth=3"),
        ("tim:resnet18", {}, "no module 'tim' can be imported. Closest: timm"),
        ("torch.no_such_part:net", {}, "no module 'torch.no_such_part'.*PYTHONPATH"),
        ("os:system", {"command": "false"}, "os is a module of Python itself, which makes no networks"),
        ("os.path:join", {}, r"os\.path is a module of Python itself"),
        ("subprocess:run", {"args": "false"}, "subprocess is a module of Python itself"),
        ("builtins:exec", {}, "builtins is a module of Python itself"),
    ],
)
def test_bad_specs_say_what_to_do(spec: str, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.build(spec, classes=10, options=options)


def test_the_current_folder_is_the_last_place_and_for_this_name_and_moment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    net = "import colorsys, here_beside\nfrom torch import nn\n\ndef net():\n    return nn.Identity()\n"
    for name, text in (("here_alone", net), ("here_beside", ""), ("yaml", "raise RuntimeError"), ("here_left", "")):
        (tmp_path / f"{name}.py").write_text(text)
    before = list(sys.path)
    assert isinstance(networks.build("here_alone:net", classes=3), nn.Identity)
    assert sys.path == before
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("here_left")
    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    with pytest.raises(ConfigError, match="'yaml' has no 'net'"):  # the installed one, not the file here
        networks.build("yaml:net", classes=3)
    for name in ("here_alone", "here_beside"):
        monkeypatch.delitem(sys.modules, name)


def test_class_count_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="classes=0"):
        networks.build("deepsup:plain-12", classes=0)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingPackageError, match=rf'{package}, which is not installed.*pip install "deepsup\[train\]"'
    ):
        networks.build(f"{package}:resnet18", classes=10)


@pytest.mark.parametrize(
    ("classes", "channels", "options"),
    [(10**13, 3, {}), (10, 10**13, {}), (10**30, 3, {}), (10, 3, {"widths": "x"}), (10, 3, {"widths": [10**9, 10**9]})],
)
def test_sizes_and_options_that_cannot_be_are_named(classes: int, channels: int, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"'deepsup:plain-4' cannot be built with|whole number|widths"):
        networks.build("deepsup:plain-4", classes=classes, in_channels=channels, options=options)


@pytest.mark.parametrize(("channels", "size"), [(3, -1), (3, 10**7), (10**30, 8)])
def test_an_input_that_cannot_be_is_named(channels: int, size: int) -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        networks.sample("deepsup:plain-4", channels=channels, size=size)
