"""Methods whose branches are held against the labels, and the controls without branches."""

from __future__ import annotations

import math
from collections.abc import Mapping

from deepsup.errors import ConfigError, LayerError
from deepsup.heads.continuation import stages
from deepsup.layers.selectors import select
from deepsup.losses import describe
from deepsup.methods.method import Method, Preset, Scene, between, positive
from deepsup.terms import Gate

KAYA = (15, 30, 45, 60, 75, 90)  # percent of the compute


def none() -> Method:
    """The plain model."""
    return Method(
        name="none",
        summary="no branches: the plain model, as the baseline of a comparison",
        formula="L = L_main",
        source="-",
        bare=True,
    )


def label_smoothing(*, smoothing: float = 0.1) -> Method:
    """The plain model with softened labels: what a method must beat that gains by softening targets."""
    between("label-smoothing", 0, 1, smoothing=smoothing)
    return Method(
        name="label-smoothing",
        summary="control: the plain model with softened labels, as many epochs",
        formula="L = CE(main, (1 - s) y + s / C),  s = 0.1",
        source="Inception-v3 (Szegedy et al. 2016, sec. 7)",
        bare=True,
        main_loss=f"cross_entropy(smoothing={smoothing})",
    )


def equal_compute() -> Method:
    """The plain model, trained as much longer as the method in `like` costs more."""
    return Method(
        name="equal-compute",
        summary="control: the plain model, trained for as many FLOPs as the arm in `like` (more epochs)",
        formula="L = L_main;  epochs * (trunk + heads FLOPs of the other arm) / trunk FLOPs",
        source="-",
        deviations="only in configurations: the comparison must say which arm's compute is to be matched",
        bare=True,
    )


def aux(*, weight: float = 0.3) -> Method:
    """Light classifiers at layers of your choice."""
    between("aux", 0, math.inf, weight=weight)
    return Method(
        name="aux",
        summary="auxiliary classifiers with a constant weight, dropped at test",
        formula="L = L_main + sum_k w_k L_k,  w = 0.3",
        source="GoogLeNet (Szegedy et al. 2015, sec. 5; w = 0.3), PSPNet (Zhao et al. 2017; w = 0.4)",
        deviations="the head is pooling and one linear layer; GoogLeNet's own is method `googlenet`",
        weight=f"constant({weight})",
    )


def googlenet(*, weight: float = 0.3, bn: bool = False) -> Method:
    """The auxiliary classifiers of GoogLeNet, on any network."""
    between("googlenet", 0, math.inf, weight=weight)
    return Method(
        name="googlenet",
        summary="GoogLeNet's auxiliary classifiers: pool, 1x1 conv 128, FC 1024, dropout 0.7, dropped at test",
        formula="L = L_main + 0.3 L_1 + 0.3 L_2",
        source="Szegedy et al. 2015, sec. 5; batch normalisation in the head: Inception-v3, Szegedy et al. 2016, sec. 4",
        deviations="pools to 4x4 whatever the size, as torchvision does, where the paper has 5x5 stride 3 at 224 pixels. "
        "Places itself in GoogLeNet (4a, 4d) and Inception-v3 (6e), else after the stages; torchvision's own "
        "auxiliary branches are then best left out: aux_logits=False. Inception-v3's recipe has weight 0.4",
        head=f"googlenet(bn={bn})" if bn else "googlenet",
        weight=f"constant({weight})",
        places=_inception_places,
        where="4a and 4d of GoogLeNet, 6e of Inception-v3, elsewhere after every stage but the last",
    )


def _inception_places(scene: Scene) -> Mapping[str, str]:
    for published in (("inception4a", "inception4d"), ("Mixed_6e",)):
        if all(name in scene.seen.layers for name in published):
            return {name: name for name in published}
    return inner_stages(scene)


def dsn(
    *,
    alpha: float = 1.0,
    gamma: float = 0.1,
    norm: float = 2e-5,
    loss: str = "squared_hinge",
    decay: str = "linear",
) -> Method:
    """Deeply-Supervised Nets as the paper writes them."""
    positive("dsn", alpha=alpha)
    between("dsn", 0, math.inf, gamma=gamma, norm=norm)
    schedules = {
        "linear": f"linear({alpha}, 0)",
        "iterated": f"dsn({alpha}, {{epochs}})",
        "constant": f"constant({alpha})",
    }
    if decay not in schedules:
        raise ConfigError(f"method 'dsn' has no decay {decay!r}. Choose: {', '.join(schedules)}.")
    describe(loss)
    return Method(
        name="dsn",
        summary="a linear SVM on every stage; a branch that is good enough falls silent, and all fade out",
        formula="L = l(main) + sum_m alpha_m [norm |w_m|² + l(m) - gamma]+,  l = squared hinge, alpha_m = alpha (1 - t/N)",
        source="Lee, Xie, Gallagher, Zhang, Tu 2015 (AISTATS), eq. 3",
        deviations="the paper's values of alpha and gamma are not known: 1 and 0.1 are ours. Its loss is a sum over the "
        "training samples, ours a mean, so |w|² has the weight 1/50,000; |w_out|² is left to weight decay. Its rule alpha <- "
        "alpha 0.1 (1 - t/N), read literally, is over after three epochs: dsn(decay='iterated'). loss='cross_entropy' is the "
        "softmax variant, which the authors used for more than 10 classes, loss=\"squared_hinge(form='one-vs-rest')\" the "
        "released classifier. The main output has the same loss. Squared hinges of large "
        "heads are steep: give them a smaller rate, as the authors did (optimizer.head_lr_factor=0.001). What was released has "
        "neither alpha nor gamma: `dsn-released`",
        head="linear",
        loss=loss,
        weight=schedules[decay],
        gate=Gate(gamma, norm),
        main_loss=loss,
        places=_dsn_places,
        where="NIN's three 5x5 and 3x3 convolutions before their ReLU, elsewhere after every stage but the last",
    )


def dsn_released(*, loss: str = "squared_hinge(form='one-vs-rest')", until: float = 0.3333) -> Method:
    """Deeply-Supervised Nets as the released prototxt files train them."""
    return Method(
        name="dsn-released",
        summary="DSN as released: constant weight 1, heads deleted by hand after 50,000 of 150,000 iterations",
        formula="L = l(main) + sum_m l(m) until a third of the training, l = one-vs-rest squared hinge",
        source="github.com/s9xie/DSN at 065e498, examples/best_cifar10_9.65",
        deviations="deleting the heads is a weight that falls to 0. The heads' learning rate of 0.001 of the trunk's is "
        "optimizer.head_lr_factor",
        head="linear",
        loss=loss,
        weight=f"until(constant(1), {until})",
        main_loss=loss,
        places=_dsn_places,
        where="NIN's three 5x5 and 3x3 convolutions before their ReLU, elsewhere after every stage but the last",
    )


def _dsn_places(scene: Scene) -> Mapping[str, str]:
    """NIN's convolutions, before their ReLU, as published; else the ends of the stages."""
    published = ("conv1", "conv2", "conv3")
    if scene.seen.model == "NIN":
        return {name: name for name in published}
    return inner_stages(scene)


def cnds(*, alpha: float = 0.3, reading: str = "iterated") -> Method:
    """CNDS as the paper writes it."""
    between("cnds", 0, math.inf, alpha=alpha)
    shown = "" if reading == "iterated" else f", reading={reading!r}"
    return Method(
        name="cnds",
        summary="one convolutional branch where gradients vanish, its weight decaying to zero",
        formula="L = L_main + alpha_t L_s,  alpha_t = 0.3 prod_{s<=t} (1 - s/N)",
        source="CNDS (Wang, Lee, Tu, Lazebnik 2015, arXiv 1505.02496)",
        deviations="the branch follows the released network (1x1 conv 64, FC 1024 twice); the released solver keeps "
        "the weight constant at 0.4 (`cnds-released`), here it decays as in the paper; cnds(reading='linear') is the other "
        "reading. at='auto' places it by the paper's probe, elsewhere than conv3_2 say where",
        head="cnds",
        weight=f"cnds({alpha}, {{epochs}}{shown})",
        rule="threshold",
    )


def cnds_released(*, weight: float = 0.4) -> Method:
    """CNDS as the released prototxt trains it."""
    between("cnds-released", 0, math.inf, weight=weight)
    return Method(
        name="cnds-released",
        summary="CNDS as released: the branch after the fourth convolution, weight 0.4 throughout",
        formula="L = L_main + 0.4 L_s",
        source="github.com/lwwang/Places_CNDS_model at abb3c10, train_val.prototxt",
        deviations="places itself after conv3_2's ReLU in CNDS-8; in other networks by the probe or by name",
        head="cnds",
        weight=f"constant({weight})",
        rule="threshold",
    )


def sdn() -> Method:
    """Internal classifiers for early exit whose weights rise with training up to their depth."""
    return Method(
        name="sdn",
        summary="six internal classifiers for early exit; the deeper one is, the more it may weigh in the end",
        formula="L = L_main + sum_i tau_i L_i,  tau_i = min(C_i, 0.01 + t C_i),  C_i = depth of i",
        source="Shallow-Deep Networks (Kaya, Hong, Dumitras 2019, ICML)",
        deviations="depth counts weight-bearing layers, in the paper FLOPs; places that coincide in a shallow network are "
        "taken once",
        head="mixed",
        places=_by_percent,
        where="at 15, 30, 45, 60, 75 and 90 % of the depth",
        arrange=_ramps,
    )


def _by_percent(scene: Scene) -> Mapping[str, str]:
    names = [name for percent in KAYA for name in select(scene.seen, f"{percent}%")]
    return {name: name for name in names}


def _ramps(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
    depths = {name: round(max(scene.seen.layers[layer].depth, 0.01), 4) for name, layer in layers.items()}
    return {name: method.preset(layer, weight=f"sdn({depths[name]})") for name, layer in layers.items()}


def adaloss(*, decay: float = 0.9) -> Method:
    """Weights that follow the losses: the harder an output has it, the less it weighs."""
    return Method(
        name="adaloss",
        summary="classifiers at all stages, each weighed by the inverse of the running mean of its loss",
        formula="L = L_main + sum_i (m_main / m_i) L_i,  m <- 0.9 m + 0.1 L",
        source="AdaLoss (Hu, Dey, Hebert, Bagnell 2019, AAAI): w_i proportional to 1 / E[L_i]",
        deviations="weights are relative to main's, which stays 1, so that the learning rate keeps its meaning; in several "
        "processes each follows its own losses",
        weight=f"adaptive({decay})",
        places=inner_stages,
        where="after every stage but the last",
    )


def equilibrium() -> Method:
    """Classifiers of weight 1 whose gradients are balanced where they meet the trunk."""
    return Method(
        name="equilibrium",
        summary="classifiers at all stages; where gradients meet, each output has an equal say",
        formula="L = L_main + sum_i L_i,  with (m above + branch) / (m + 1) going down at each tap, m outputs above",
        source="gradient equilibrium of IMTA (Li, Zhang, Qi, Yang, Huang 2019, ICCV)",
        deviations="without IMTA's forward collaboration and one-for-all distillation",
        gradient="equilibrium",
        places=inner_stages,
        where="after every stage but the last",
    )


def all_stages(scene: Scene) -> list[str]:
    """The ends of the stages, the last one included. Raises `LayerError` where there are no two."""
    found = stages(scene.seen)
    if len(found) < 2:
        raise LayerError(
            f"this method places its branches after the stages of a network, and {scene.seen.model} has "
            f"{'none' if not found else 'only one'}: the activations on its way keep their size. Say where: at=['33%', '66%']."
        )
    return found


def inner_stages(scene: Scene) -> Mapping[str, str]:
    """After every stage but the last."""
    return {name: name for name in all_stages(scene)[:-1]}
