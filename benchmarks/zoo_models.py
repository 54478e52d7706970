"""The architectures of five model zoos, each small, with random weights and without any download.

An `Entry` names one; `prepare(entry)` finds the smallest input it trains on and says how to build it again.
timm and torchvision are asked for their families when this runs; the other three zoos are the tables below.
"""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import zoo_tables as tables
from torch import Tensor, nn

from deepsup.features import main_prediction

CLASSES = tables.CLASSES
SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384)
BATCH = 2
ZOOS = ("torchvision", "timm", "transformers", "monai", "smp")


@dataclass(frozen=True)
class Entry:
    """One model of a zoo. `family` groups; `name` is what the zoo calls it, empty where the smallest is looked for."""

    zoo: str
    family: str
    name: str = ""

    @property
    def key(self) -> str:
        """`zoo:family:name`, by which rows are found and chosen."""
        return f"{self.zoo}:{self.family}:{self.name}"


@dataclass(frozen=True)
class Model:
    """How to build an entry (the same weights every time) and what to feed it."""

    name: str
    build: Callable[[], nn.Module]
    sample: Callable[[int, int], Any]  # (batch, seed) -> what the model is called with
    main: str | None = None  # where the prediction is, for models that return several and give none a usual name
    shape: tuple[int, ...] = ()

    def call(self, model: nn.Module, inputs: Any) -> Any:
        """Run the model or the net around it, with the warnings of the zoo switched off."""
        with quiet():
            return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


class PlainError(Exception):
    """The model does not train even without deepsup; the message is its own error."""


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of third parties: builders announce changes, forwards trace and deprecate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def seeded(seed: int) -> None:
    """Start every random stream that a model may draw from at `seed`."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def images(size: int, *, channels: int = 3, dims: int = 2) -> Callable[[int, int], Tensor]:
    """Standard normal images or volumes of one size."""

    def sample(batch: int, seed: int) -> Tensor:
        return torch.randn(batch, channels, *[size] * dims, generator=torch.Generator().manual_seed(seed))

    return sample


def _built(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """`make` from one seed and without warnings, so that two calls give one and the same model."""

    def build() -> nn.Module:
        seeded(7)
        with quiet():
            return make()

    return build


def catalogue(*, everything: bool = False) -> list[Entry]:
    """Every entry: one a family, or with `everything` every member of timm and torchvision."""
    return [e for zoo in ZOOS for e in CATALOGUES[zoo](everything)]


def prepare(entry: Entry) -> Model:
    """The entry as a model that trains. Raises `PlainError` with the model's own error where none does."""
    return PREPARERS[entry.zoo](entry)


def loss(prediction: Tensor, target: Any = None) -> Tensor:
    """Mean square distance from one: defined for scores, maps, boxes and embeddings, and not flat at zero."""
    return (prediction.float() - 1).square().mean()


def _try(model: Model) -> str:
    """Why the plain model cannot take a training step on its sample; empty where it can."""
    try:
        net = model.build().train()
        seeded(1)
        output = model.call(net, model.sample(BATCH, 0))
        value = loss(main_prediction(output, model.main or ()))
        value.backward()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return "" if torch.isfinite(value) else "the loss is not finite"


def _smallest(candidates: Iterator[Model]) -> Model:
    problem = ""
    for model in candidates:
        problem = _try(model)
        if not problem:
            return model
    raise PlainError(problem)


# --- timm -----------------------------------------------------------------------------------------------------------


def _timm_entries(everything: bool) -> list[Entry]:
    import timm

    if everything:
        return [Entry("timm", f, n) for f in timm.list_modules() for n in timm.list_models(module=f)]
    return [Entry("timm", f) for f in timm.list_modules() if timm.list_models(module=f)]


def _timm_smallest(family: str) -> str:
    """The member with the fewest parameters, counted without storage."""
    import timm

    def count(name: str) -> int:
        with quiet(), torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, num_classes=CLASSES).parameters())

    real = [n for n in timm.list_models(module=family) if not n.startswith("test_")]  # not timm's own test fixtures
    return min(real, key=count)


# Families whose smallest member is too large for a laptop are cut in depth: every block is still of the same kind.
TIMM_OPTIONS: dict[str, dict[str, Any]] = {"deepseek_vit": {"depth": 2}, "gemma4_vit": {"depth": 4}}


def _timm(entry: Entry) -> Model:
    import timm

    name = entry.name or _timm_smallest(entry.family)
    options = TIMM_OPTIONS.get(entry.family, {})
    default = timm.get_pretrained_cfg(name)
    native = default.input_size[-1] if default else 224
    channels = default.input_size[0] if default else 3

    def model(size: int, **more: Any) -> Model:
        build = _built(lambda: timm.create_model(name, pretrained=False, num_classes=CLASSES, **options, **more))
        return Model(name, build, images(size, channels=channels), shape=(BATCH, channels, size, size))

    def candidates() -> Iterator[Model]:
        for size in sorted({s for s in SIZES if s < native} | {native}):
            if size < native:
                yield model(size, img_size=size)
            yield model(size)

    return _smallest(candidates())


# --- torchvision ----------------------------------------------------------------------------------------------------


# Frames and size of the clips; torchvision's other video models take minutes a step on a CPU.
VIDEO = {"r3d_18": (4, 32), "mc3_18": (4, 32), "r2plus1d_18": (4, 32), "swin3d_t": (4, 64)}


def _torchvision_entries(everything: bool) -> list[Entry]:
    import torchvision

    models = torchvision.models
    families: dict[str, list[str]] = {}
    for name in models.list_models(module=models):
        families.setdefault(models.get_model_builder(name).__module__.rpartition(".")[2], []).append(name)
    whole = [Entry("torchvision", f, n) for f, names in families.items() for n in names]
    small = [Entry("torchvision", f, _lightest(names)) for f, names in families.items()]
    maps = [Entry("torchvision", "segmentation", n) for n in models.list_models(module=models.segmentation)]
    return (whole if everything else small) + maps + [Entry("torchvision", "video", n) for n in VIDEO]


def _lightest(names: list[str]) -> str:
    """The member with the fewest parameters, as its published weights state them."""
    import torchvision

    return min(names, key=lambda n: next(iter(torchvision.models.get_model_weights(n))).meta["num_params"])


def _torchvision(entry: Entry) -> Model:
    import torchvision

    fixed = {"googlenet": {"init_weights": False}, "inception": {"init_weights": False}}.get(entry.family, {})
    maps = {"weights_backbone": None} if entry.family == "segmentation" else {}

    def model(size: int, **more: Any) -> Model:
        options = {"weights": None, "num_classes": CLASSES, **fixed, **maps, **more}
        build = _built(lambda: torchvision.models.get_model(entry.name, **options))
        return Model(entry.name, build, images(size), shape=(BATCH, 3, size, size))

    def video(frames: int, size: int) -> Model:
        def clips(batch: int, seed: int) -> Tensor:
            return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))

        return Model(entry.name, model(size).build, clips, shape=(BATCH, 3, frames, size, size))

    def candidates() -> Iterator[Model]:
        if entry.family == "video":
            yield video(*VIDEO[entry.name])
        for size in SIZES if entry.family != "video" else ():
            yield model(size)
            if entry.family == "vision_transformer":
                yield model(size, image_size=size)

    return _smallest(candidates())


# --- transformers, MONAI, segmentation-models-pytorch: see zoo_tables.py -----------------------------------------------


def _transformers(entry: Entry) -> Model:
    import transformers

    made = tables.TRANSFORMERS[entry.family]

    def configured(name: str, options: Mapping[str, Any]) -> Any:
        parts = {k: configured(v.config, v.options) if isinstance(v, tables.Part) else v for k, v in options.items()}
        return getattr(transformers, name)(
            **copy.deepcopy(parts)
        )  # some models reverse the lists of their configuration

    def build() -> nn.Module:
        config = configured(made.config, {"num_labels": CLASSES, **made.options})
        net: nn.Module = getattr(transformers, made.model)(config)
        return net

    pictures = images(made.size)
    shape = (BATCH, 3, made.size, made.size)
    model = Model(made.model, _built(build), lambda n, s: {"pixel_values": pictures(n, s)}, made.main, shape)
    return _smallest(iter([model]))


def _monai(entry: Entry) -> Model:
    import monai.networks.nets as nets

    made = tables.MONAI[entry.family]
    shape = (BATCH, 1, *[made.size] * made.dims)
    build = _built(lambda: getattr(nets, made.model)(**copy.deepcopy(made.options)))
    return _smallest(iter([Model(made.model, build, images(made.size, channels=1, dims=made.dims), shape=shape)]))


def _smp_entries(everything: bool) -> list[Entry]:
    with_own = [(d, o["encoder_name"]) for d, o in tables.SMP.items() if "encoder_name" in o]
    others = [d for d, o in tables.SMP.items() if "encoder_name" not in o]
    return [Entry("smp", d, e) for d in others for e in tables.SMP_ENCODERS] + [Entry("smp", d, e) for d, e in with_own]


def _smp(entry: Entry) -> Model:
    import segmentation_models_pytorch as smp

    options = {"encoder_name": entry.name, "encoder_weights": None, "classes": CLASSES, **tables.SMP[entry.family]}
    build = _built(lambda: getattr(smp, entry.family)(**options))
    return _smallest(Model(entry.name, build, images(s), shape=(BATCH, 3, s, s)) for s in (64, 128, 224))


CATALOGUES: dict[str, Callable[[bool], list[Entry]]] = {
    "torchvision": _torchvision_entries,
    "timm": _timm_entries,
    "transformers": lambda everything: [Entry("transformers", f, m.model) for f, m in tables.TRANSFORMERS.items()],
    "monai": lambda everything: [Entry("monai", f, m.model) for f, m in tables.MONAI.items()],
    "smp": _smp_entries,
}
PREPARERS: dict[str, Callable[[Entry], Model]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
    "monai": _monai,
    "smp": _smp,
}
