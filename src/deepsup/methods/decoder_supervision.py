"""Methods for networks that predict maps: where their branches go, with which head, loss and weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from deepsup.errors import LayerError
from deepsup.layers.dry_run import Layer
from deepsup.methods.method import BUILDERS, Arrange, Biases, Method, NotNegative, Places, Preset, Scene
from deepsup.specs import FLAG, one_of


@BUILDERS.register
def pspnet(*, weight: NotNegative = 0.4) -> Method:
    """PSPNet's auxiliary loss: a small FCN head on the last stage but one, dropped at test."""
    return Method(
        maps=True,
        formula="L = CE(main) + 0.4 CE(aux), both enlarged to the labels",
        source="Zhao, Shi, Qi, Wang, Jia 2017 (CVPR), sec. 3.3 and table 2; hszhao/semseg",
        deviations="the paper puts it after res4b22 of ResNet-101, the authors' later code after layer3, as here; the original "
        "shrinks labels bilinearly where its zoom factor is not 8, which makes classes up: not repeated",
        head="fcn",
        loss="cross_entropy(align_corners=True)",
        weight=f"constant({weight})",
        places=Places("after the last stage of the backbone but one", _last_but_one),
    )


@BUILDERS.register
def c1_deepsup(*, weight: NotNegative = 0.4) -> Method:
    """C1DeepSup's auxiliary loss: one 3x3 convolution on conv4, labels shrunk to the scores, dropped at test."""
    return Method(
        maps=True,
        formula="L = NLL(log softmax(main)) + 0.4 NLL(log softmax(aux)), at the resolution of the scores",
        source="CSAILVision/semantic-segmentation-pytorch, mit_semseg (Zhou et al. 2017, 2018)",
        deviations="log_softmax and NLL in one, which is cross-entropy; labels are shrunk here and not in the loader. "
        "The head begins as released; so does the decoder of deepsup:c1, and with another network what that has",
        head="c1",
        loss="cross_entropy(resize='nearest')",
        weight=f"constant({weight})",
        places=Places("after the last stage of the backbone but one (conv4)", _last_but_one),
    )


@BUILDERS.register
def ppm_deepsup(*, weight: NotNegative = 0.4) -> Method:
    """PPMDeepsup's auxiliary loss: one 3x3 convolution on conv4, labels shrunk to the scores, dropped at test."""
    return replace(c1_deepsup(weight=weight), head="c1(dropout=0.1)")


@BUILDERS.register
def nnunet(*, batch: Annotated[bool, FLAG] = True) -> Method:
    """Every level of a decoder is supervised at its own resolution, weights halve and sum to 1.

    Deep supervision of a decoder as nnU-Net has it. `batch`: Dice over the whole batch, as its plans say for 2-D, or of each
    sample, as they mostly say for 3-D.
    """
    return Method(
        maps=True,
        formula="L = sum_i w_i (Dice + CE)_i,  w_i = 2^-i / sum_j 2^-j, main is i = 0; the coarsest level has none",
        source="nnU-Net (Isensee et al. 2021), nnUNetTrainer of nnunetv2; SoftDiceLoss without the background, with absent "
        "classes, smoothed by 1e-5",
        deviations="a level of weight 0 (nnU-Net's coarsest; 1e-6 under DDP) is no branch here, unless it is the only one; "
        "Dice is 1 - theirs, of one gradient; batch=False is that of each sample (plans.json: batch_dice), and of several "
        "processes each sums its own part (theirs gathers). With weight= of your own, main's is 1",
        head="conv1x1",
        loss=f"dice_cross_entropy(resize='nearest', background=False, absent=True{'' if batch else ', batch=False'})",
        main_weight=lambda branches: halves(branches)[0],
        places=Places(
            "after every level of the decoder but the finest, which main reads, and the coarsest", _decoder_levels
        ),
        arrange=_halved,
    )


@BUILDERS.register
def monai(*, mode: Annotated[str, one_of("same", "exp", "two")] = "exp") -> Method:
    """Every level of a decoder is supervised at its own resolution, weights by MONAI's modes.

    Deep supervision of a decoder as MONAI's DeepSupervisionLoss weighs it.
    """
    return Method(
        maps=True,
        formula="L = sum_l w_l L_l, main is l = 0;  same: 1;  exp: max(0.5^l, 0.0625);  two: 1, 0.5, 0.5, ...",
        source="MONAI 1.6, losses/ds_loss.py (DeepSupervisionLoss) around losses/dice.py (DiceCELoss: Dice of each sample, with "
        "the background and absent classes, smoothed by 1e-5)",
        deviations="weights belong to branches by name, so that none is dropped in silence where counts differ. "
        'DiceCELoss\'s include_background and batch are background= and batch= of loss="dice_cross_entropy(...)"',
        head="conv1x1",
        loss="dice_cross_entropy(resize='nearest', batch=False, absent=True)",
        places=Places("after every level of the decoder but the finest, which main reads", _decoder_levels_all),
        arrange=_monai(mode),
    )


@BUILDERS.register
def hed() -> Method:
    """Every side output, and their fusion, with a class-balanced loss of weight 1.

    Side outputs of one class, each with a balanced loss, as Holistically-nested Edge Detection has them.
    """
    return Method(
        maps=True,
        formula="L = l(fuse) + sum_m l(side_m),  l = -beta sum_{Y+} log p - (1 - beta) sum_{Y-} log(1 - p), beta = |Y-|/|Y|",
        source="Xie & Tu 2015 (ICCV), eq. 2 to 4; s9xie/hed",
        deviations="the loss is a mean over places where the original sums (its learning rate is 1e-6): of 321x481 pixels "
        "1/154,401 of it, and so is the gradient. Rates are the user's, in all layers alike. At test the fusion is main, and the "
        "paper's average of all outputs the ensemble. The released loss, rates and network: `hed-released`",
        head="identity",
        loss="balanced",
        main_loss="balanced",
        places=Places("at the side outputs of deepsup:hed", _side_outputs),
    )


@BUILDERS.register
def hed_released() -> Method:
    """HED as released: the loss summed over the image, with the released rates of every layer."""
    return replace(
        hed(),
        source="s9xie/hed at 912632b, train_val.prototxt, solver.prototxt and sigmoid_cross_entropy_loss_layer.cpp",
        deviations="its network is deepsup:hed with model_options.released=true, and the rates of layers are of deepsup:hed "
        "alone. There the batch is 1 image, and 10 are added up before a step: data.batch_size=10 of images of one size. "
        "Its rate falls to 0.1 every 10,000 of 30,001 steps, momentum 0.9, decay 0.0002: optimizer.schedule and the like are "
        "yours. Labels that are neither 0 nor 1 have no gradient here; the released backward, where there are none, gives "
        "them sigmoid minus label",
        loss="balanced(total=True)",
        main_loss="balanced(total=True)",
        released_rates=True,
        biases=Biases(2.0, 0.0),
        rate=1e-6,
    )


@BUILDERS.register
def unetpp() -> Method:
    """Every node of U-Net++'s top row predicts, all with weight 1; prune at one of them, or average all.

    Deep supervision of U-Net++: every node of the top row predicts at full size.
    """
    return Method(
        maps=True,
        formula="L = sum_j (BCE or CE + Dice)(X^{0,j}),  j = 1..4",
        source="Zhou, Siddiquee, Tajbakhsh, Liang 2018, 2020 (IEEE TMI), sec. III",
        deviations="the paper writes half the cross-entropy plus Dice, and means over the nodes; this is their sum, 1 each, and "
        "Dice of the classes that the batch has; the released loss: `unetpp-released`. "
        "Its mode 'accurate' is ds.ensemble, its mode 'fast' ds.early_exit",
        head="conv1x1",
        loss="dice_cross_entropy",
        main_loss="dice_cross_entropy",
        places=Places("at the nodes X^{0,1} to X^{0,3} of deepsup:unetpp; elsewhere as monai", _decoder_levels_all),
    )


@BUILDERS.register
def unetpp_released() -> Method:
    """U-Net++'s loss as released: half the cross-entropy, Dice with 1 added above and below, every node with weight 1."""
    loss = "dice_cross_entropy(entropy_weight=0.5, smooth=1, absent=True)"
    return replace(
        unetpp(),
        formula="L = sum_j 0.5 BCE(X^{0,j}) + 1 - (2 sum p y + 1) / (sum p + sum y + 1),  j = 1..4, sums over the batch",
        source="MrGiovanni/UNetPlusPlus at 2659ddc, keras/helper_functions.py (bce_dice_loss), for masks of one channel",
        deviations="there without the constant 1, with probabilities cut at Keras' 1e-7, and in one sum over all channels where "
        "there are several (ours: a softmax, and the mean over the classes)",
        loss=loss,
        main_loss=loss,
    )


def _last_but_one(scene: Scene) -> Mapping[str, str]:
    """The stage that the authors supervise: the network says, or it is the one that ResNets call layer3."""
    said = _said(scene, "stages")
    if said is not None and len(said) > 1:
        return {said[-2]: said[-2]}
    ran = [name for name, layer in scene.seen.layers.items() if layer.calls]
    found = [name for name in ran if name == "layer3" or name.endswith(".layer3")]
    if len(found) == 1:
        return {found[0]: found[0]}
    raise LayerError(
        f"this method supervises the last stage of a backbone but one, and {scene.seen.model} neither says its stages nor has "
        f"one layer called layer3 that runs ({len(found)} found). Say where: at=['LAYER']; list them with: deepsup layers MODEL."
    )


def _side_outputs(scene: Scene) -> Mapping[str, str]:
    said = _said(scene, "sides")
    if not said:
        raise LayerError(
            f"method 'hed' supervises side outputs, and {scene.seen.model} does not say which layers those are. Name them: "
            "at=['LAYER', ...], layers that give scores; or head='conv1x1' for any layers."
        )
    return {name: name for name in said}


def _decoder_levels(scene: Scene) -> Mapping[str, str]:
    """Without the coarsest, if there are others."""
    names = list(_decoder_levels_all(scene))
    return {name: name for name in (names[1:] if len(names) > 1 else names)}


def _decoder_levels_all(scene: Scene) -> Mapping[str, str]:
    """The levels of a decoder, coarse to fine, but for the finest, which main reads."""
    said = _said(scene, "levels")
    levels = _rising(scene) if said is None else said[:-1]
    if not levels:
        raise LayerError(
            f"this method supervises the levels of a decoder, and none was found in {scene.seen.model}: no map grows back "
            "step by step to the sizes that it had on the way down. Say where: at=['LAYER', ...]; list them with: deepsup "
            "layers MODEL."
        )
    return {name: name for name in levels}


def _said(scene: Scene, attribute: str) -> tuple[str, ...] | None:
    """Layers that the network names itself, as ours do, perhaps none; None where an attribute of that name is another thing."""
    said = getattr(scene.model, attribute, None)
    known = isinstance(said, tuple) and all(isinstance(n, str) and n in scene.seen.layers for n in said)
    return said if known else None


def _rising(scene: Scene) -> list[str]:
    """Of any network: the layers that end each resolution on the way back up, without the coarsest and the finest map.

    A resolution counts if the network had it on the way down as well: pools of a pyramid and squeezed channels are no levels.
    Of the layers that run at one after the coarsest map, the outermost is taken: blocks, and not what is in them.
    """
    main = scene.seen.output[scene.seen.main][2:]
    sizes: dict[tuple[int, ...], list[Layer]] = {}
    for layer in sorted(scene.seen.layers.values(), key=lambda layer: layer.order):
        if _can_be_level(layer) and layer.feature is not None and len(layer.feature.size) == len(main) >= 2:
            sizes.setdefault(layer.feature.size, []).append(layer)
    real = {size: found for size, found in sizes.items() if math.prod(size) > 1}
    if not real:
        return []
    turn = real[min(real, key=math.prod)][0].order  # from here on the way goes up
    rising = []
    for size in sorted(real, key=math.prod)[1:]:
        up = [layer for layer in real[size] if layer.order > turn]
        if up and up != real[size] and math.prod(size) < math.prod(main):
            rising.append(min(reversed(up), key=lambda layer: layer.name.count(".")))
    orders = [layer.order for layer in rising]
    return [layer.name for layer in rising] if orders == sorted(orders) else []


def _can_be_level(layer: Layer) -> bool:
    return layer.calls == 1 and layer.leads_to_output and layer.reads_input and not layer.problem and layer.depth > 0


def _halved(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
    """nnU-Net's weights: 1, 1/2, 1/4, ... from main down, divided by their sum, main's included."""
    return {
        name: method.preset(layers[name], weight=f"constant({weight})")
        for name, weight in zip(_fine_to_coarse(scene, layers), halves(len(layers))[1:], strict=True)
    }


def halves(branches: int) -> list[float]:
    """Of main and so many branches the weights 2^-i, divided by their sum."""
    powers = [0.5**i for i in range(branches + 1)]
    return [p / sum(powers) for p in powers]


def _monai(mode: str) -> Arrange:
    def weight(level: int) -> float:
        return {"same": 1.0, "exp": max(0.5**level, 0.0625), "two": 0.5}[mode]

    def arrange(method: Method, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
        ordered = _fine_to_coarse(scene, layers)
        return {n: method.preset(layers[n], weight=f"constant({weight(k)})") for k, n in enumerate(ordered, 1)}

    return arrange


def _fine_to_coarse(scene: Scene, layers: Mapping[str, str]) -> list[str]:
    """By size; of equal ones, as in U-Net++, what runs last comes first."""

    def places(name: str) -> tuple[int, int]:
        layer = scene.seen.layers[layers[name]]
        return (0 if layer.feature is None else math.prod(layer.feature.size), layer.order)

    return sorted(layers, key=places, reverse=True)
