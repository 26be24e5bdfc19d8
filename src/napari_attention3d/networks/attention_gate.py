"""Additive attention gates (Oktay et al. 2018, arXiv:1804.03999, section 2.2).

Symbols of the paper and of the code: skip features x (`skip`), gating signal g
(`gating`), W_x (`theta`), W_g (`phi`), psi (`psi`), coefficients alpha (`alpha`).
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import Norm, Size3, norm_layer, resize

__all__ = ["AdditiveGate", "GridGate"]


class GridGate(nn.Module):
    """Grid attention gate: computed at the coarse grid of the gating signal.

    With s the stride between the two levels and U trilinear resizing::

        theta = W_x * x              kernel = stride = s, no bias
        f     = ReLU(theta + U(W_g g + b_g))
        a     = sigmoid(w_psi f + b_psi)
        alpha = U(a)                 one channel, at the size of x
        out   = Norm(W_out (alpha x))

    The sigmoid stands once, with no norm before it: a batch norm there would centre
    the logit and pin the mean of alpha near 0.5, whatever the network learned.

    Parameters
    ----------
    skip_channels, gating_channels
        Channels of x and g.
    inner_channels
        Channels of f; the paper takes those of x.
    stride
        Stride between the levels of x and g (z, y, x).
    norm
        Norm of the output transform.
    out_transform
        Whether W_out and its norm are there.
    psi_bias
        First value of b_psi; 3 alone lets 95 % through, a new network's gates about 90 %
        ("gates are initialised such that they pass everything").
    align_corners
        True only for weights trained with torch <= 0.3.
    out_bias
        Whether W_out has a bias, as in the authors' code; a norm takes it out again.
    """

    def __init__(
        self,
        skip_channels: int,
        gating_channels: int,
        *,
        inner_channels: int | None = None,
        stride: Size3 = (2, 2, 2),
        norm: Norm = "instance",
        out_transform: bool = True,
        psi_bias: float = 3.0,
        align_corners: bool = False,
        out_bias: bool = False,
    ) -> None:
        super().__init__()
        inner = inner_channels or skip_channels
        self.theta = nn.Conv3d(skip_channels, inner, stride, stride, bias=False)
        self.phi = nn.Conv3d(gating_channels, inner, 1)
        self.psi = nn.Conv3d(inner, 1, 1)
        self.out = (
            nn.Sequential(
                nn.Conv3d(skip_channels, skip_channels, 1, bias=out_bias),
                norm_layer(norm, skip_channels),
            )
            if out_transform
            else nn.Identity()
        )
        self.psi_bias = psi_bias
        self.align_corners = align_corners

    def reset_psi(self) -> None:
        """Open the gate: to be called after the network's own initialisation."""
        if self.psi.bias is not None:
            nn.init.constant_(self.psi.bias, self.psi_bias)

    def forward(self, skip: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        """Gate the skip connection.

        Parameters
        ----------
        skip
            (B, C_x, Z, Y, X).
        gating
            (B, C_g, z, y, x), coarser.

        Returns
        -------
        out
            (B, C_x, Z, Y, X).
        coefficients
            (B, 1, Z // s, Y // s, X // s), the raw map a in (0, 1).
        """
        theta = self.theta(skip)
        phi = resize(self.phi(gating), theta.shape[2:], self.align_corners)
        coefficients = (theta + phi).relu()
        coefficients = self.psi(coefficients).sigmoid()
        alpha = resize(coefficients, skip.shape[2:], self.align_corners)
        return self.out(alpha * skip), coefficients


class AdditiveGate(nn.Module):
    """The gate of MONAI's ``AttentionUnet``: x and g of the same size, norms throughout.

    ``alpha = sigmoid(N(psi(ReLU(N(W_g g) + N(W_x x)))))``, ``out = alpha x``.
    Its norm on psi pins the mean of alpha near 0.5: compare within a map only.
    """

    def __init__(
        self, skip_channels: int, gating_channels: int, *, inner_channels: int, norm: Norm
    ) -> None:
        super().__init__()
        self.phi = nn.Sequential(
            nn.Conv3d(gating_channels, inner_channels, 1), norm_layer(norm, inner_channels)
        )
        self.theta = nn.Sequential(
            nn.Conv3d(skip_channels, inner_channels, 1), norm_layer(norm, inner_channels)
        )
        self.psi = nn.Sequential(nn.Conv3d(inner_channels, 1, 1), norm_layer(norm, 1))

    def forward(self, skip: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, Z, Y, X) and gating of the same size; returns gated skip and alpha."""
        alpha = self.psi((self.phi(gating) + self.theta(skip)).relu()).sigmoid()
        return alpha * skip, alpha
