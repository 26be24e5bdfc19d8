"""Norms and activations folded into the convolutions before them, for tiles on a CPU.

Once a scan's statistics are frozen, a norm only scales and shifts. Folded networks call
oneDNN directly, channels last, activation included: torch leaves it for single small
samples (`Conv3d` of networks/blocks.py) and copies tensors that lie otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..networks.guided_module import ScaleConv
from ..networks.norm import ScanNorm3d
from ..networks.resnet import BasicBlock, Bottleneck, ResNetEncoder
from .stream.ops import LAYOUT, in_onednn, laid_out

__all__ = ["fold"]

_PAIRS: tuple[tuple[type[nn.Module], tuple[tuple[str, str], ...]], ...] = (
    (BasicBlock, (("conv1", "bn1"), ("conv2", "bn2"))),
    (Bottleneck, (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))),
    (ResNetEncoder, (("conv1", "bn1"),)),
)
"""Where a norm follows a convolution in modules that are not sequences."""
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)


class Folded(nn.Module):
    """A convolution with what followed it, by oneDNN.

    Parameters
    ----------
    conv
        Its weights are copied.
    norm
        With frozen statistics, or None.
    act
        ReLU, leaky ReLU, PReLU with one slope, or None.
    """

    def __init__(
        self, conv: nn.Conv3d, norm: nn.Module | None = None, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        weight, bias = conv.weight.detach().double(), conv.bias
        shift = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
        if norm is not None:
            scale, move = _affine(norm)
            weight, shift = weight * scale.view(-1, 1, 1, 1, 1), shift * scale + move
        self.weight = weight.float().contiguous(memory_format=LAYOUT)
        self.bias = shift.detach().float()
        self.settings = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]  # type: ignore[arg-type]
        self.after: tuple[str, list[float]] = ("none", [])
        if act is not None:
            slope = _slope(act)
            self.after = ("relu", []) if slope == 0 else ("leaky_relu", [slope])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, Z, Y, X)."""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            laid_out(x), self.weight, self.bias, *self.settings, *self.after, ""
        )
        return out


class _FoldedScales(nn.Module):
    """As `ScaleConv`, with weights for each scale."""

    def __init__(self, module: ScaleConv) -> None:
        super().__init__()
        norms, relu = module.norm.norms, nn.ReLU()
        self.convs = nn.ModuleList(Folded(module.conv, norm, relu) for norm in norms)

    def forward(self, x: Tensor) -> Tensor:
        """(scales * B, C, z, y, x), scale by scale."""
        parts = x.chunk(len(self.convs))
        out = [conv(part) for conv, part in zip(self.convs, parts, strict=True)]
        return out[0] if len(out) == 1 else torch.cat(out)


def fold(network: nn.Module) -> bool:
    """Fold what can be folded, in place; returns False where there is no oneDNN.

    Parameters
    ----------
    network
        A copy of its own in evaluation mode, on the CPU in float32. Norms whose statistics
        are not frozen stay, to be measured.
    """
    if not in_onednn(next(network.parameters())):
        return False
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            _fold_row(module)
        for kind, pairs in _PAIRS:
            for conv, norm in pairs if isinstance(module, kind) else ():
                _fold_pair(module, conv, norm)
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, ScaleConv) and all(map(_frozen, module.norm.norms)):
                setattr(parent, name, _FoldedScales(module))
            elif _plain(module):
                setattr(parent, name, Folded(module))
    return True


def _fold_row(row: nn.Sequential) -> None:
    """Fold within a sequence, whose modules run one after the other."""
    names = [*row._modules]
    for at, name in enumerate(names[:-1]):
        if not (_plain(row._modules[name]) and _frozen(row._modules[names[at + 1]])):
            continue
        after = row._modules[names[at + 2]] if at + 2 < len(names) else None
        act = after if _folds(after) else None
        row._modules[name] = Folded(row._modules[name], row._modules[names[at + 1]], act)  # type: ignore[arg-type]
        row._modules[names[at + 1]] = nn.Identity()
        if act is not None:
            row._modules[names[at + 2]] = nn.Identity()


def _fold_pair(module: nn.Module, conv: str, norm: str) -> None:
    one, two = getattr(module, conv), getattr(module, norm)
    if _plain(one) and _frozen(two):
        setattr(module, conv, Folded(one, two))
        setattr(module, norm, nn.Identity())


def _plain(module: Any) -> TypeGuard[nn.Conv3d]:
    """Whether a module is a convolution with zeros around."""
    return (
        isinstance(module, nn.Conv3d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _folds(module: Any) -> bool:
    return isinstance(module, _ACTIVATIONS) and (
        not isinstance(module, nn.PReLU) or module.num_parameters == 1
    )


def _frozen(norm: Any) -> bool:
    if isinstance(norm, ScanNorm3d):
        return norm.mean is not None
    return isinstance(norm, nn.BatchNorm3d) and norm.running_mean is not None


def _affine(norm: nn.Module) -> Sequence[Tensor]:
    """Scale and shift (float64) that a frozen norm is."""
    mean, var = (
        (norm.mean, norm.var)
        if isinstance(norm, ScanNorm3d)
        else (norm.running_mean, norm.running_var)
    )
    assert isinstance(mean, Tensor)
    assert isinstance(var, Tensor)
    scale = torch.rsqrt(var.double() + norm.eps)  # type: ignore[operator]
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()  # type: ignore[operator]
    shift = -mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()  # type: ignore[operator]


def _slope(act: nn.Module) -> float:
    if isinstance(act, nn.PReLU):
        return float(act.weight.detach())
    return float(act.negative_slope) if isinstance(act, nn.LeakyReLU) else 0.0
