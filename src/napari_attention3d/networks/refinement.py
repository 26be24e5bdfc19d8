"""A light head that redraws a coarse mask at full resolution.

An output stride of 4 cannot draw a cortex of 2 to 4 mm. The head climbs from the
attention's grid over the stem's features to the voxels of the scan, as a U-Net's last
two levels do, and corrects the interpolated logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import ConvNormAct, ConvStack, Norm, Size3
from .resnet import upsample_centred

__all__ = ["RefinementHead"]


class RefinementHead(nn.Module):
    """Correction to logits that were interpolated from a coarse grid.

    Parameters
    ----------
    in_channels, num_classes
        Of the scan and of the mask.
    grid_channels, stem_channels
        Of the features on the coarse grid and of those of the encoder's stem.
    stem_stride, pool_stride
        From the scan to the stem's grid, and from there to the coarse one.
    width
        At full resolution; twice as much on the stem's grid.
    norm
        As in `blocks`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        grid_channels: int,
        stem_channels: int,
        stem_stride: Size3,
        pool_stride: Size3,
        width: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.stem_stride, self.pool_stride = stem_stride, pool_stride
        middle = 2 * width
        # 1x1x1 before upsampling commutes with it and costs a fraction.
        self.reduce_grid = nn.Conv3d(grid_channels, middle, 1, bias=False)
        self.merge_stem = ConvNormAct(middle + stem_channels, middle, norm=norm)
        self.reduce_stem = nn.Conv3d(middle, width, 1, bias=False)
        self.detail = ConvStack(in_channels, width, norm=norm)
        self.merge = ConvNormAct(2 * width, width, norm=norm)
        self.out = nn.Conv3d(width, num_classes, 1)

    def forward(self, x: Tensor, stem: Tensor, grid: Tensor) -> Tensor:
        """Correct.

        Parameters
        ----------
        x
            (B, C, Z, Y, X), the scan.
        stem
            Features of the stem before pooling.
        grid
            Features on the coarse grid.

        Returns
        -------
        Tensor
            (B, K, Z, Y, X), to be added to the interpolated logits.
        """
        up = upsample_centred(self.reduce_grid(grid), self.pool_stride, stem.shape[2:])
        h = self.merge_stem(torch.cat((up, stem), dim=1))
        up = upsample_centred(self.reduce_stem(h), self.stem_stride, x.shape[2:])
        h = self.merge(torch.cat((self.detail(x), up), dim=1))
        correction: Tensor = self.out(h)
        return correction
