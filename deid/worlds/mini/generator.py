"""The mini world's generator: a small StyleGAN2 whose z are the renderer's parameters."""

import torch

from deid.nets.style import MappingNetwork
from deid.nets.stylegan2 import StyleGAN2
from deid.worlds.mini.render.parameters import PARAMETERS

RESOLUTION = 64
W_DIM = 192
CHANNELS = {4: 160, 8: 160, 16: 128, 32: 64, 64: 32}


def mini_generator() -> StyleGAN2:
    """Untrained. The mapping keeps z's length (a parameter's size means something) and learns at
    the full rate, because a picture, not a discriminator, teaches it. Styles begin near 1, so that
    there is no random dependence on z to unlearn.
    """
    widths = [PARAMETERS, 512, 512, W_DIM]
    mapping = MappingNetwork(widths, rate=1.0, normalize=False, skip=True)
    net = StyleGAN2(RESOLUTION, CHANNELS, mapping, z_dim=PARAMETERS, w_dim=W_DIM)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("style.weight"):
                parameter.mul_(0.25)
    return net
