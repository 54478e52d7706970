"""Network in network, as DSN trained it: Lin et al., ICLR 2014 (arXiv 1312.4400); Lee et al. 2015 (arXiv 1409.5185)."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import nn

from deepsup.networks.blocks import check_positive, check_share, gaussian
from deepsup.networks.families import family

STD = 0.05


@final
class Nin(nn.Sequential):
    """What `nin` builds: the layers run in the order of their names."""


@family("nin")
def nin(*, classes: int, in_channels: int = 3, dropout: float = 0.5) -> Nin:
    """Three convolutions, each followed by two 1x1 convolutions ("cccp", cascaded cross-channel parametric pooling).

    Example: `nin(classes=10)` has taps conv1, conv2 and conv3 of 192x32x32, 192x16x16 and 192x8x8 on 32x32 images.

    DSN reads the convolutions before their ReLU; no ReLU here works in place, so a tap on conv1, conv2 or conv3 sees
    just that. Layers are named as in the release: conv1, relu1, cccp1, relu_cccp1, cccp2, relu_cccp2, pool1, drop1,
    conv2, ..., cccp6, pool3, flatten. Poolings round up, as Caffe's do: 32, 16, 8 pixels. Input `(N, in_channels, H, W)`
    of at least 4x4, output `(N, classes)`: the last 1x1 convolution has one channel a class and no ReLU, and its global
    average is the score. `dropout` in [0, 1) follows the first two poolings. Weights from N(0, 0.05²), biases 0.

    Source: examples/best_cifar10_9.65/cifar-10.prototxt of the authors' release (s9xie/DSN). There the last 1x1
    convolution learns at a tenth of the rate of the others; that is the optimiser's business and not done here. The
    release has no prototxt for MNIST, SVHN or CIFAR-100; this network takes their sizes and class counts.
    """
    check_positive(classes=classes, in_channels=in_channels)
    check_share(dropout=dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for group, (kernel, widths) in enumerate([(5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192, classes))], 1):
        names = (f"conv{group}", f"cccp{2 * group - 1}", f"cccp{2 * group}")
        for name, width, size in zip(names, widths, (kernel, 1, 1), strict=True):
            layers[name] = nn.Conv2d(channels, width, size, padding=size // 2)
            layers[f"relu{group}" if name == names[0] else f"relu_{name}"] = nn.ReLU()
            channels = width
        if group < 3:
            layers[f"pool{group}"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            layers[f"drop{group}"] = nn.Dropout(dropout)
    del layers["relu_cccp6"]
    layers |= OrderedDict(pool3=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    return gaussian(Nin(layers), std=STD)
