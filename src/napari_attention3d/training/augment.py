"""Augmentation of real scans, by MONAI's transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Augmenter"]


class Augmenter:
    """Random flips, pose, noise, blur, contrast and resolution, as nnU-Net's defaults.

    Image and labels move together; labels are sampled nearest. The same seed gives the
    same result.

    Parameters
    ----------
    flip
        Axes (z, y, x) that may be mirrored.
    rotate
        "all", or "in-plane": about z only, for thick slices.
    """

    def __init__(
        self, flip: Sequence[bool] = (True, True, True), rotate: Literal["all", "in-plane"] = "all"
    ) -> None:
        from monai import transforms as mt  # slow to import

        both, modes = ["image", "label"], ("bilinear", "nearest")
        angles = (0.26, 0.26, 0.26) if rotate == "all" else (0.26, 0.0, 0.0)
        flips = [mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3) if flip[axis]]
        self.transforms = mt.Compose(
            [
                *flips,
                mt.RandAffined(
                    both,
                    prob=0.3,
                    rotate_range=angles,
                    scale_range=(0.2, 0.2, 0.2),
                    mode=modes,
                    padding_mode="border",
                ),
                mt.RandGaussianNoised(["image"], prob=0.15, std=0.1),
                mt.RandGaussianSmoothd(["image"], prob=0.1),
                mt.RandScaleIntensityd(["image"], factors=0.25, prob=0.15),
                mt.RandSimulateLowResolutiond(["image"], prob=0.15, zoom_range=(0.5, 1.0)),
            ]
        )

    def __call__(self, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Augment.

        Parameters
        ----------
        image
            (C, Z, Y, X) float.
        label
            (Z, Y, X) integer.
        seed
            Decides everything.

        Returns
        -------
        image, label
            Of the same shapes and types.
        """
        self.transforms.set_random_state(seed)
        out = self.transforms({"image": image, "label": label[None].float()})
        new_image = torch.as_tensor(out["image"]).as_subclass(Tensor)  # type: ignore[arg-type]
        new_label = torch.as_tensor(out["label"]).as_subclass(Tensor)  # type: ignore[arg-type]
        return new_image.float().contiguous(), new_label[0].round().to(label.dtype).contiguous()
