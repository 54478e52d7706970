"""Methods in which outputs also learn from one another: distillation, mutual learning, contrast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from deepsup.errors import ConfigError, LayerError
from deepsup.heads.continuation import hierarchical
from deepsup.methods.method import BUILDERS, Arrange, Method, NotNegative, Places, Positive, Preset, Scene, Share
from deepsup.methods.stage_ends import INNER_STAGES_AND_DEEPEST, all_stages
from deepsup.schedules import End, constant, parse
from deepsup.specs import FLAG, WHOLE, Limit, one_of, show_call
from deepsup.terms import ENSEMBLE, GATE, INPUT, PREVIOUS, Edge


def _at_least_whole(least: int) -> Limit:
    return Limit(f"a whole number of at least {least}", lambda v: WHOLE.fits(v) and v >= least)


Peers: TypeAlias = Annotated[int, _at_least_whole(1)]
DHM_BRANCHES = (
    "a branch repeats the rest of the trunk, by DHM's published tables where it has one (CIFAR ResNet, WRN, DenseNet, "
    "ImageNet ResNet), elsewhere, MobileNet included, by the rule behind them. Its CIFAR ResNets pool on their shortcuts: "
    "model_options.shortcut=pool, as in the recipes; with our default the outputs are those of another network"
)
SMOOTHED = (
    "The formula is the paper's; the released code first makes every probability (p + 1e-8) / (1 + C 1e-8), which bounds a term "
    "near 18.4 T², and so does {}(eps=1e-8)"
)


@BUILDERS.register
def dsl(*, weight: NotNegative = 1.0) -> Method:
    """Two branches that repeat the rest of the trunk, each with the labels.

    DHM's branches without the mimicry: plain deep supervision with big branches.
    """
    return Method(
        formula="L = sum_j CE(o_j, y)",
        source="Li, Chen 2020 (CVPR), the baseline of DHM; github.com/d-li14/DHM without --mimic",
        deviations=DHM_BRANCHES,
        weight=f"constant({weight})",
        **_HIERARCHICAL,
    )


@BUILDERS.register
def dks(*, weight: NotNegative = 1.0, eps: Share = 0.0) -> Method:
    """Two branches that repeat the rest of the trunk; every output teaches every other.

    Deeply-supervised Knowledge Synergy.
    """
    return Method(
        formula="L = sum_j CE(o_j, y) + sum_{j != k} KL(p_k || p_j), teachers p_k detached",
        source="Sun, Yao, Zhou, Zhao 2019 (CVPR, arXiv 1906.00675)",
        deviations=DHM_BRANCHES
        + ". For WRN these are DKS's own branches; its others were not released. "
        + SMOOTHED.format("dks"),
        **_HIERARCHICAL,
        edges=lambda names: _pairwise(["main", *names], _kl(1, eps), weight),
    )


@BUILDERS.register
def dhm(
    *,
    temperature: Positive = 1.0,
    weight: NotNegative = 1.0,
    dynamic: Annotated[bool, FLAG] = False,
    eps: Share = 0.0,
) -> Method:
    """Two branches that repeat the rest of the trunk; every output teaches every other, softened by T.

    Dynamic Hierarchical Mimicking.
    """
    return Method(
        formula="L = sum_j CE(o_j, y) + sum_{j != k} T² KL(softmax(o_k / T) || softmax(o_j / T)), teachers detached, T = 1",
        source="Li, Chen 2020 (CVPR, arXiv 2003.10739); github.com/d-li14/DHM at c67639d",
        deviations=DHM_BRANCHES
        + ". The random dropping of terms is in the released code, commented out: dhm(dynamic=True) turns "
        "it on. " + SMOOTHED.format("dhm"),
        **_HIERARCHICAL,
        edges=lambda names: _pairwise(["main", *names], _kl(temperature, eps), weight),
        dynamic=dynamic,
    )


def _hierarchical_places(scene: Scene) -> Mapping[str, str]:
    return {name: layer for name, (layer, _) in hierarchical(scene.model, scene.seen).items()}


def _hierarchical(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
    """DHM's heads at DHM's places; elsewhere the last branch is twice as wide and the others are as the trunk is."""
    try:
        published = dict(hierarchical(scene.model, scene.seen).values())
    except LayerError:  # no stages to go by, but the user said where
        published = {}
    last = list(layers)[-1] if layers else None
    found = {}
    for name, layer in layers.items():
        usual = "continuation(width=2)" if name == last and len(layers) > 1 else "continuation"
        found[name] = method.preset(layer, head=published.get(layer, usual))
    return found


_HIERARCHICAL: dict[str, Any] = {
    "places": Places("early and late: after the last stage but two and but one", _hierarchical_places),
    "heads": "continuation, with DHM's block counts; the late one twice as wide",
    "arrange": _hierarchical,
}


def _kl(temperature: float, eps: float = 0.0) -> str:
    said = {"temperature": f"{temperature:g}"} if temperature != 1 else {}
    said |= {"eps": f"{eps:g}"} if eps else {}
    return f"kl({', '.join(f'{k}={v}' for k, v in said.items())})" if said else "kl"


def _pairwise(names: Sequence[str], loss: str, weight: float) -> list[Edge]:
    """Every output learns from every other."""
    return [Edge(j, k, loss, constant(weight)) for j in names for k in names if j != k]


@BUILDERS.register
def dml(*, peers: Peers = 1, temperature: Positive = 1.0) -> Method:
    """A whole second network learns beside the model; each teaches the other.

    Deep Mutual Learning with whole networks.
    """
    return Method(
        formula="L = sum_i CE(o_i, y) + 1/(K-1) sum_{j != i} KL(p_j || p_i),  K = peers + 1",
        source="Zhang, Xiang, Hospedales, Lu 2018 (CVPR, arXiv 1706.00384)",
        deviations="all networks take one step together from one batch, where the paper updates them in turn and asks the "
        "peers again; peers are new copies of the model, or any network: head={'peer1': \"network(name='timm:resnet18')\"}. The "
        "released code sums the KL terms and smooths the labels: `dml-released`",
        head="continuation",
        places=_on_input(peers),
        arrange=_peers,
        edges=lambda names: _pairwise(["main", *names], _kl(temperature), 1 / len(names)),
    )


@BUILDERS.register
def dml_released(*, peers: Peers = 1) -> Method:
    """DML as released: KL terms summed, labels smoothed by 0.1."""
    return Method(
        formula="L = sum_i CE(o_i, (1 - s) y + s / C) + sum_{j != i} p_j log(p_j / (p_i + e) + e),  s = 0.1, e = 1e-8",
        source="github.com/YingZhangDUT/Deep-Mutual-Learning at 34a2058",
        deviations="one batch for all networks (released: one each)",
        head="continuation",
        loss="cross_entropy(smoothing=0.1)",
        places=_on_input(peers),
        arrange=_peers,
        edges=lambda names: _pairwise(["main", *names], "kl(eps=1e-08, ratio=True)", 1.0),
    )


@BUILDERS.register
def dml_shared(*, peers: Peers = 1) -> Method:
    """Peers that share the first stages with the model and go on by themselves."""
    return Method(
        formula="L = sum_i CE(o_i, y) + 1/(K-1) sum_{j != i} KL(p_j || p_i),  K = peers + 1",
        source="the special case of DML that DHM's author describes (Li, Chen 2020)",
        deviations="shares all stages but the last two, unless at= says where",
        head="continuation",
        places=Places("peer1, peer2, ... after the last stage but two", _last_but_two),
        arrange=lambda method, scene, layers: {
            f"{name}{i + 1}": method.preset(layer) for name, layer in layers.items() for i in range(peers)
        },
        edges=lambda names: _pairwise(["main", *names], "kl", 1 / len(names)),
    )


def _on_input(peers: int) -> Places:
    names = [f"peer{i + 1}" for i in range(peers)]
    return Places("peer1, peer2, ...: whole networks on the model's input", lambda scene: dict.fromkeys(names, INPUT))


def _last_but_two(scene: Scene) -> Mapping[str, str]:
    """Of two stages the first."""
    found = all_stages(scene)
    return {"peer": found[max(0, len(found) - 3)]}


def _peers(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
    """Branches on the input, and nowhere else."""
    wrong = [layer for layer in layers.values() if layer != INPUT]
    if wrong:
        raise ConfigError(
            f"method '{method.name}' trains whole networks on the model's input, not from layer '{wrong[0]}' on. Name the peers, "
            "at={'peer1': 'input'}, or use dml-shared for peers that share the first stages."
        )
    return {name: method.preset(layer) for name, layer in layers.items()}


@BUILDERS.register
def byot(*, alpha: Share = 0.1, temperature: Positive = 3.0, hint: NotNegative = 1.28e-4) -> Method:
    """A classifier after every stage; the deepest teaches them, in scores and in features.

    Be Your Own Teacher: the deepest output teaches the shallow ones, in scores and features.
    """
    return Method(
        formula="L = CE(main, y) + sum_i (1 - a) CE(o_i, y) + a T² KL(main || o_i) + h |F_i - F_main|²,  "
        "a = 0.1, T = 3, h = 0.000128",
        source="Zhang, Song, Gao, Chen, Bao, Ma 2019 (ICCV, arXiv 1905.08094)",
        deviations="a, T and h are those of the widely used re-implementation (luanyunteng at 8045079), which also weighs "
        "CE(main) by 1 - a and sums |F|² over a batch of 128 (its 1e-6 is our 1.28e-4, for a mean); the teacher is detached, as "
        "there. The authors' later code: `byot-released`",
        weight=f"constant({1 - alpha})",
        places=INNER_STAGES_AND_DEEPEST,
        arrange=_with_deepest("bottleneck"),
        heads="bottleneck; mean for the deepest",
        edges=lambda names: _from_deepest(names, f"kl(temperature={temperature:g})", alpha, hint),
    )


@BUILDERS.register
def byot_released(*, alpha: Share = 0.3, hint: NotNegative = 0.03) -> Method:
    """BYOT as the authors' journal code has it: attention, separable convolutions, adapted features, stronger terms."""
    return Method(
        formula="L = CE(main, y) + sum_i (0.7 CE(o_i, y) + 0.3 KL_{T=3}(main || o_i)) + sum_{i but the last} 0.03 |A_i F_i - "
        "F_main|,  |.| over the whole batch, not squared",
        source="github.com/ArchipLab-LinfengZhang/pytorch-self-distillation-final at 47ca93b",
        deviations="KL where the code has the cross-entropy of the softened scores, of the same gradient. Its comment leaves "
        " the shallowest branch out of the feature term, its index the deepest, as here, whose unused A_i is not built. "
        "Its test score is that of ds.ensemble, whose mean is of probabilities (there of scores)",
        weight=f"constant({1 - alpha})",
        places=INNER_STAGES_AND_DEEPEST,
        arrange=_with_deepest("sepconv", released=True),
        heads="sepconv(attention=True), adapted=True for all but the deepest; mean for the deepest stage",
        edges=lambda names: _from_deepest(names, "kl(temperature=3, squared=False)", alpha, hint, released=True),
    )


def _with_deepest(head: str, *, released: bool = False) -> Arrange:
    """Heads that bring a stage's map to the size and channels of the deepest, and a reader of the deepest map.

    `released`: each with attention, and all but the last with a feature that is adapted.
    """

    def arrange(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
        deepest = _deepest(method, scene)
        found = {}
        for i, (name, layer) in enumerate(layers.items(), 1):
            more = {"attention": True} | ({"adapted": True} if i < len(layers) else {}) if released else {}
            found[name] = method.preset(layer, head=_to_deepest(scene, layer, head, **more))
        return found | {"deepest": Preset(deepest, "mean", "none", "constant(0)", own=True)}

    return arrange


def _deepest(method: Method, scene: Scene) -> str:
    """The end of the last stage, which these methods read wherever their branches are."""
    try:
        return all_stages(scene)[-1]
    except LayerError:
        raise LayerError(
            f"method '{method.name}' brings the maps of its branches to the size of the deepest one, and the activations of "
            f"{scene.seen.model} keep their size. Choose a method that compares scores only, such as dhm or sdn."
        ) from None


def _to_deepest(scene: Scene, layer: str, head: str, **more: bool) -> str:
    here, there = (scene.seen.layers[name].feature for name in (layer, all_stages(scene)[-1]))
    assert here is not None
    assert there is not None
    smaller = max(here.size, default=1) / max(there.size, default=1)
    return show_call(head, {"channels": there.channels, "steps": max(1, round(math.log2(smaller))), **more})


def _from_deepest(names: Sequence[str], loss: str, alpha: float, hint: float, *, released: bool = False) -> list[Edge]:
    shallow = [name for name in names if name != "deepest"]
    edges = [Edge(name, "main", loss, constant(alpha)) for name in shallow]
    held, distance = (shallow[:-1], "hint(squared=False)") if released else (shallow, "hint")
    return edges + [Edge(f"{name}/feature", "deepest", distance, constant(hint)) for name in held]


@BUILDERS.register
def one(
    *, branches: Annotated[int, _at_least_whole(2)] = 3, temperature: Positive = 3.0, until: End = 0.2667
) -> Method:
    """Copies of the last stage beside the model's own; their gated mixture teaches them all.

    On-the-fly Native Ensemble: gated copies of the last stage, taught by their own mixture.
    """
    return Method(
        formula="L = sum_i CE(o_i, y) + CE(e, y) + w_t sum_i T² KL(e || o_i),  e = sum_i g_i o_i,  T = 3, "
        "w_t = exp(-5 (1 - t/80)²) over 80 of 300 epochs",
        source="Lan, Zhu, Gong 2018 (NeurIPS); github.com/Lan1991Xu/ONE_NeurIPS2018 at 54afde3",
        deviations="the ramp is 0.2667 of the training, whatever its length (released: 80 epochs, of 300), and moves from epoch "
        "to epoch, as released. Branches and gate are the released ones; so is the network where you ask "
        "for it: model_options.block=bottleneck for deepsup:resnet-110 (4,363,653 parameters with 100 classes), "
        "model_options.shortcut=project for deepsup:resnet-32",
        by_epoch=True,
        head="continuation",
        places=Places(
            "copy1, copy2 and the gate after the last stage but one", lambda scene: {"copy": all_stages(scene)[-2]}
        ),
        heads="continuation; gate",
        arrange=lambda method, scene, layers: _copies(method, layers, branches),
        edges=lambda names: _from_ensemble(names, f"kl(temperature={temperature:g})", f"rampup(1, {until})"),
    )


def _copies(method: Method, layers: Mapping[str, str], branches: int) -> Mapping[str, Preset]:
    if len(layers) != 1:
        raise ConfigError(
            f"method 'one' branches off at one layer; found {', '.join(layers.values())}. Give one, the last shared one."
        )
    name, layer = next(iter(layers.items()))
    stem = "copy" if name == layer else name
    found = {f"{stem}{i + 1}": method.preset(layer) for i in range(branches - 1)}
    return found | {GATE: Preset(layer, f"gate(outputs={branches})", "none", "constant(0)", own=True)}


def _from_ensemble(names: Sequence[str], loss: str, ramp: str) -> list[Edge]:
    outputs = ["main", *(name for name in names if name != GATE)]
    whole = Edge(ENSEMBLE, loss="cross_entropy", weight=constant(1))
    return [whole, *(Edge(name, ENSEMBLE, loss, parse(ramp)) for name in outputs)]


@BUILDERS.register
def cds(
    *,
    weight: Positive = 0.1,
    temperature: Positive = 0.07,
    loss: Annotated[str, one_of("supcon", "simclr")] = "supcon",
) -> Method:
    """Projection heads after the stages, trained to bring two crops (or one class) together.

    Contrastive Deep Supervision: the middle learns which images belong together, not which class they are.
    """
    return Method(
        formula="L = CE(main, y) + 0.1 sum_i SupCon_i + 0.1 SupCon_deepest,  temperature 0.07, two crops of each image",
        source="Zhang, Chen, Zhang, Ma 2022 (ECCV, arXiv 2207.05306); released code at 4093332",
        deviations="`train` takes two crops of each image by itself (data.views, and data.augment=standard), unless they are "
        "set; released is data.augment=contrastive. Cross-entropy is over both crops (released: the first). "
        "loss='simclr' is the released ImageNet variant, which leaves the labels out. The embedding has 128 "
        "numbers (released: no projection)",
        loss=f"{loss}(temperature={temperature:g})",
        main_loss="cross_entropy",
        weight=f"constant({weight})",
        places=INNER_STAGES_AND_DEEPEST,
        arrange=_embeddings,
        heads="embed; mean for the deepest",
        views=2,
    )


def _embeddings(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
    deepest = _deepest(method, scene)
    found = {name: method.preset(layer, head=_to_deepest(scene, layer, "embed")) for name, layer in layers.items()}
    return found | {"deepest": method.preset(deepest, head="mean")}


@BUILDERS.register
def dlb(*, alpha: NotNegative = 1.0, temperature: Positive = 3.0, forwards: Annotated[int, one_of(1, 2)] = 2) -> Method:
    """Half of each batch is the batch before; the model agrees with what it said of it then. No branches."""
    return Method(
        formula="L = CE(main, y) + alpha T² KL(p of the batch before || main),  alpha = 1, T = 3",
        source="Shen, Xu, Yang, Li, Guo 2022 (CVPR); github.com/Meta-knowledge-Lab/DLB, dlb.py",
        deviations="`train` and `fit` repeat every sample in the next batch by themselves (data.overlap), and each half has a "
        "forward of its own, the new samples first. Released is a second, independent augmentation of the repeated ones: "
        "data.views is 2 where data.augment is set, without augmentation they come back as they were. forwards=1 runs both "
        "halves in one, where batch normalisation sees both: the gradient of a ResNet-20 is then 17 to 36 % of its length away, "
        "at a cosine of 0.94 to 0.99 (benchmarks/dlb_forwards.py). In a loop of your own: ds.supervision.halves.outputs_of",
        bare=True,
        edges=lambda names: [Edge("main", PREVIOUS, f"kl(temperature={temperature:g})", constant(alpha))],
        overlap=True,
        forwards=forwards,
    )
