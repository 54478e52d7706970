"""Methods whose branches are held against the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch.nn.modules.batchnorm import _NormBase

from deepsup import losses
from deepsup.layers.selectors import select
from deepsup.methods.method import BUILDERS, Biases, Method, NotNegative, Places, Positive, Preset, Scene
from deepsup.methods.published_networks import cnds_activations, nin_convolutions
from deepsup.methods.stage_ends import INNER_STAGES, inner_stages
from deepsup.schedules import End
from deepsup.specs import BELOW_ONE, one_of, show_call
from deepsup.terms import Bracket

DSN_RATE = (
    0.001  # of the companions, in rates of the trunk: blobs_lr in the released prototxt, whose loss is one-vs-rest
)
DSN_CLASSIFIER_RATE = 0.1  # of cccp6 there
HINGE_RATE = 0.002  # of SGD, ours: at 0.02 hinges of wide maps diverge, on WRN-16-2 and on the published net itself
HINGE_CLASSES = 10  # for which it is; hinges are summed over classes, and so are their slopes and curvatures
KAYA = (15, 30, 45, 60, 75, 90)  # percent of the compute


@BUILDERS.register
def aux(*, weight: NotNegative = 0.3) -> Method:
    """Auxiliary classifiers with a constant weight, dropped at test."""
    return Method(
        formula="L = L_main + sum_k w_k L_k,  w = 0.3",
        source="GoogLeNet (Szegedy et al. 2015, sec. 5; w = 0.3), PSPNet (Zhao et al. 2017; w = 0.4)",
        deviations="the head is pooling and one linear layer; GoogLeNet's own is method `googlenet`",
        weight=f"constant({weight})",
    )


@BUILDERS.register
def googlenet(*, weight: NotNegative = 0.3, bn: bool = False) -> Method:
    """GoogLeNet's auxiliary classifiers: pool, 1x1 conv 128, FC 1024, dropout 0.7, dropped at test."""
    return Method(
        formula="L = L_main + 0.3 L_1 + 0.3 L_2",
        source="Szegedy et al. 2015, sec. 5; batch normalisation in the head: Inception-v3, Szegedy et al. 2016, sec. 4",
        deviations="pools to 4x4 whatever the size, as torchvision does, where the paper has 5x5 stride 3 at 224 pixels. "
        "Places itself in GoogLeNet (4a, 4d) and Inception-v3 (6e), else after the stages; torchvision's own "
        "auxiliary branches are then best left out: aux_logits=False. Inception-v3's recipe has weight 0.4",
        head=f"googlenet(bn={bn})" if bn else "googlenet",
        weight=f"constant({weight})",
        places=_INCEPTION_OR_STAGES,
    )


def _inception_places(scene: Scene) -> Mapping[str, str]:
    for published in (("inception4a", "inception4d"), ("Mixed_6e",)):
        if all(name in scene.seen.layers for name in published):
            return {name: name for name in published}
    return inner_stages(scene)


_INCEPTION_OR_STAGES = Places(
    "4a and 4d of GoogLeNet, 6e of Inception-v3, elsewhere after every stage but the last", _inception_places
)


@BUILDERS.register
def dsn(
    *,
    alpha: Positive = 1.0,
    gamma: NotNegative = 0.1,
    norm: NotNegative = 2e-5,
    loss: str = "squared_hinge",
    decay: Annotated[str, one_of("linear", "iterated", "constant")] = "linear",
) -> Method:
    """A linear SVM on every stage; a branch that is good enough falls silent, and all fade out.

    Deeply-Supervised Nets as the paper writes them.
    """
    schedules = {
        "linear": f"linear({alpha}, 0)",
        "iterated": f"dsn({alpha}, {{epochs}})",
        "constant": f"constant({alpha})",
    }
    losses.check(loss)
    return Method(
        formula="L = l(main) + sum_m alpha_m [norm |w_m|² + l(m) - gamma]+,  l = squared hinge, alpha_m = alpha (1 - t/N)",
        source="Lee, Xie, Gallagher, Zhang, Tu 2015 (AISTATS), eq. 3",
        deviations="the paper's values of alpha and gamma are not known: 1 and 0.1 are ours. Its loss is a sum over the "
        "training samples, ours a mean, so |w|² has the weight 1/50,000; |w_out|² is left to weight decay. Its rule alpha <- "
        "alpha 0.1 (1 - t/N), read literally, is over after three epochs: dsn(decay='iterated'). loss='cross_entropy' is the "
        "softmax variant, which the authors used for more than 10 classes, loss=\"squared_hinge(form='one-vs-rest')\" the "
        "released classifier. The main output has the same loss. Heads begin with PyTorch's "
        "values, and the weight falls step by step (the paper's by epoch: weight='dsn(1, N, \"linear\")'). Squared hinges of "
        "large heads are steep: the main classifier's rate is the released one, the heads' a tenth of it (the released 0.001 is "
        "for one-vs-rest, and the multiclass form as many times as steep as there are classes), the trunk's is 0.002 where none "
        "is set (ours; less with more than 10 classes, over which hinges are summed: the authors took softmax there). Heads in "
        "networks with batch normalisation, which there was none of then, read normalised maps: stages of DenseNet and WRN end "
        "in sums of any size. |w|² stands in the loss in place of weight decay. What was released has "
        "neither alpha nor gamma: `dsn-released`",
        loss=loss,
        weight=schedules[decay],
        bracket=Bracket(gamma, norm),
        classifier_lr_factor=DSN_CLASSIFIER_RATE,
        head_weight_decay=0.0,
        **_companions(loss),
    )


@BUILDERS.register
def dsn_released(*, loss: str = "squared_hinge(form='one-vs-rest')", until: End = 0.3333) -> Method:
    """DSN as released: constant weight 1, heads deleted by hand after 50,000 of 150,000 iterations."""
    return Method(
        formula="L = l(main) + sum_m l(m) until a third of the training, l = one-vs-rest squared hinge",
        source="github.com/s9xie/DSN at 065e498, examples/best_cifar10_9.65",
        deviations="deleting the heads is a weight that falls to 0. The released rates of the heads fall further, by "
        "(1 + 0.0001 step)^-0.75, to 0.24 after 50,000 steps; not so here. The released rate is 0.025, for its own data and "
        "batches of 100; where none is set it is 0.002 (ours; less with more than 10 classes), at which other networks and "
        "data do not diverge. Heads read normalised maps in networks with batch normalisation, as of `dsn`",
        biases=Biases(2.0, 0.0),
        classifier_lr_factor=DSN_CLASSIFIER_RATE,
        loss=loss,
        weight=f"until(constant(1), {until})",
        **_companions(loss, start="released"),
    )


def _companions(loss: str, **options: str) -> dict[str, Any]:
    """Where companions are, what they read and at what rates they learn.

    The rate of SGD is that of hinges, for losses of slopes up to 1 the trainer's. A score of the right class stands in every
    summand of the multiclass form, which is so as many times as steep in it as there are classes, and as the released loss.
    """
    hinge = "hinge" in loss
    steep = HINGE_CLASSES if hinge and "one-vs-rest" not in loss else 1
    rates = {"head_lr_factor": DSN_RATE / steep} | (
        {"rate": HINGE_RATE, "rate_classes": HINGE_CLASSES} if hinge else {}
    )
    head = show_call("linear", options)

    def arrange(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
        """Maps as they are where a network does not normalise, as published; else normalised, as its own layers read them."""
        normalises = any(isinstance(layer, _NormBase) for layer in scene.model.modules())
        found = {}
        for name, layer in layers.items():
            feature = scene.seen.layers[layer].feature
            own = normalises and feature is not None and feature.layout in ("NCHW", "NHWC")
            found[name] = method.preset(
                layer, head=show_call("linear", {**options, "normalised": True}) if own else head
            )
        return found

    said = f"{head}, in networks with batch normalisation with normalised=True"
    return {"head": head, "heads": said, "arrange": arrange, "places": _NIN_OR_STAGES, **rates}


def _dsn_places(scene: Scene) -> Mapping[str, str]:
    """A network in network's wide convolutions, before their ReLU, as published; else the ends of the stages."""
    published = nin_convolutions(scene)
    return {name: name for name in published} or inner_stages(scene)


_NIN_OR_STAGES = Places(
    "in a network in network on its convolutions wider than 1x1, before their ReLU; elsewhere after every stage but the last",
    _dsn_places,
)


@BUILDERS.register
def cnds(*, alpha: NotNegative = 0.3, reading: Annotated[str, one_of("iterated", "linear")] = "iterated") -> Method:
    """One convolutional branch where gradients vanish, its weight decaying to zero.

    CNDS as the paper writes it.
    """
    shown = "" if reading == "iterated" else f", reading={reading!r}"
    return Method(
        formula="L = L_main + alpha_t L_s,  alpha_t = 0.3 prod_{s<=t} (1 - s/N)",
        source="CNDS (Wang, Lee, Tu, Lazebnik 2015, arXiv 1505.02496)",
        deviations="the branch has the layers of the released network (1x1 conv 64, FC 1024 twice) and PyTorch's initial "
        "values, the paper naming none; the released one keeps the weight constant at 0.4 (`cnds-released`), here it decays "
        "as in the paper; cnds(reading='linear') is the other reading. at='auto' places it by the paper's probe",
        head="cnds",
        weight=f"cnds({alpha}, {{epochs}}{shown})",
        rule="threshold",
        published=_CNDS,
    )


@BUILDERS.register
def cnds_released(*, weight: NotNegative = 0.4) -> Method:
    """CNDS as released: the branch after the fourth convolution, weight 0.4 throughout."""
    return Method(
        formula="L = L_main + 0.4 L_s",
        source="github.com/lwwang/Places_CNDS_model at abb3c10, train_val.prototxt",
        deviations="CNDS-8 alone was released: in other networks place it by name or by the probe. No solver was released",
        biases=Biases(2.0, 0.0),
        head="cnds(start='released')",
        weight=f"constant({weight})",
        rule="threshold",
        published=_CNDS,
    )


_CNDS = Places(
    "in a chain of 8 convolutions after the 4th and its ReLU, in one of 13 after the 4th, 7th and 10th",
    lambda scene: {name: name for name in cnds_activations(scene)},
)


@BUILDERS.register
def sdn() -> Method:
    """Six internal classifiers for early exit; the deeper one is, the more it may weigh in the end."""
    return Method(
        formula="L = L_main + sum_i tau_i L_i,  tau_i = min(C_i, 0.01 + t C_i),  C_i = depth of i",
        source="Shallow-Deep Networks (Kaya, Hong, Dumitras 2019, ICML)",
        deviations="depth counts weight-bearing layers, in the paper FLOPs; places that coincide in a shallow network are "
        "taken once",
        head="mixed",
        places=Places("at 15, 30, 45, 60, 75 and 90 % of the depth", _by_percent),
        arrange=_ramps,
    )


def _by_percent(scene: Scene) -> Mapping[str, str]:
    names = [name for percent in KAYA for name in select(scene.seen, f"{percent}%")]
    return {name: name for name in names}


def _ramps(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
    depths = {name: round(max(scene.seen.layers[layer].depth, 0.01), 4) for name, layer in layers.items()}
    return {name: method.preset(layer, weight=f"sdn({depths[name]})") for name, layer in layers.items()}


@BUILDERS.register
def adaloss(*, decay: Annotated[float, BELOW_ONE] = 0.9) -> Method:
    """Classifiers at all stages, each weighed by the inverse of the running mean of its loss."""
    return Method(
        formula="L = L_main + sum_i (m_main / m_i) L_i,  m <- 0.9 m + 0.1 L",
        source="AdaLoss (Hu, Dey, Hebert, Bagnell 2019, AAAI): w_i proportional to 1 / E[L_i]",
        deviations="weights are relative to main's, which stays 1, so that the learning rate keeps its meaning; in several "
        "processes each follows its own losses",
        weight=f"adaptive({decay})",
        places=INNER_STAGES,
    )


@BUILDERS.register
def equilibrium() -> Method:
    """Classifiers at all stages; where gradients meet, each output has an equal say."""
    return Method(
        formula="L = L_main + sum_i L_i,  with (m above + branch) / (m + 1) going down at each tap, m outputs above",
        source="gradient equilibrium of IMTA (Li, Zhang, Qi, Yang, Huang 2019, ICCV)",
        deviations="without IMTA's forward collaboration and one-for-all distillation",
        gradient="equilibrium",
        places=INNER_STAGES,
    )
