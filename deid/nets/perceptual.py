"""LPIPS (Zhang et al. 2018), version 0.1, as the package `lpips` has it.

The package would download its backbone; here the backbone's weights come from a state dict, and
only the linear heads are the package's own files.
"""

import warnings
from typing import Literal

from torch import nn

Backbone = Literal["alex", "vgg"]


def lpips(net: Backbone, heads: bool = False) -> nn.Module:
    """`(a, b)`, each `[N,3,H,W]` RGB in [-1, 1] → distances `[N,1,1,1]`.

    The backbone is not yet filled. With `heads`, the linear layers are: those the package ships.
    """
    from lpips import LPIPS

    with warnings.catch_warnings():
        # The package still calls torchvision by arguments that were renamed.
        warnings.simplefilter("ignore", UserWarning)
        network: nn.Module = LPIPS(pretrained=heads, net=net, pnet_rand=True, verbose=False)
    return network
