"""Inception-V3 twice: torchvision's (ImageNet) and the one FID is defined by (TensorFlow, 2015).

Both are torchvision's `Inception3` with the classifier taken off, so that they give the pooled
features. FID's has TensorFlow's pooling (padding is not counted in the mean, and the last block
takes the maximum), which torch-fidelity's blocks have.
"""

from torch import nn

DIM = 2048


def inception_v3() -> nn.Module:
    """torchvision's: `[N,3,299,299]` RGB in [-1, 1] → `[N,2048]`, the mean over the last map."""
    from torchvision.models.inception import Inception3

    trunk = Inception3(aux_logits=False, transform_input=False, init_weights=False)
    return _without_classifier(trunk)


def fid_inception() -> nn.Module:
    """The network of `pt_inception-2015-12-05`, in which FID is measured: `inception_v3`'s shapes.

    torch-fidelity's own extractor would download its weights and takes 8-bit pictures only, which
    stops gradients; so its blocks are put into torchvision's frame here.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity  # type: ignore[import-untyped]  # fmt: skip
    from torchvision.models.inception import Inception3, InceptionAux

    trunk = Inception3(
        aux_logits=False,
        transform_input=False,
        init_weights=False,
        inception_blocks=[
            fidelity.BasicConv2d,
            fidelity.InceptionA,
            fidelity.InceptionB,
            fidelity.InceptionC,
            fidelity.InceptionD,
            fidelity.InceptionE_1,
            InceptionAux,
        ],
    )
    trunk.Mixed_7c = fidelity.InceptionE_2(2048)
    return _without_classifier(trunk)


def _without_classifier(trunk: nn.Module) -> nn.Module:
    trunk.fc = nn.Identity()
    trunk.dropout = nn.Identity()
    return trunk
