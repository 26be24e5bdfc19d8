"""Position and channel attention in 3D (Fu et al. 2019, DANet; Sinha & Dolz 2019).

Position attention never builds the N x N matrix of all voxel pairs: it goes through
torch's fused kernel, whose memory grows with N. What one voxel attends to can be asked
for afterwards from the queries and keys alone (`PositionRecord`, attention/rows.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from .blocks import Size3, triple

__all__ = [
    "ChannelAttention",
    "ChannelMode",
    "Combine",
    "PositionAttention",
    "PositionRecord",
    "attending_within",
    "channel_matrix",
    "fused_attention",
]

ChannelMode = Literal["cosine", "danet", "softmax"]
Combine = Literal["residual", "multiply"]

_SHUT = -1e9
"""Logit of a key that only fills up a window; exp of it is 0."""


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k^T) v`` without scale, in float32 and in memory linear in N.

    torch takes its fused kernel only for 4-D contiguous tensors of one width (else it
    builds N x N without a word), so q and k are zero-padded, which changes no product.
    Logits are not scaled and so not bounded: autocast is off in here.

    Parameters
    ----------
    q
        (B, N, C_k) queries.
    k
        (B, M, C_k) keys.
    v
        (B, M, C_v) values.

    Returns
    -------
    Tensor
        (B, N, C_v) float32. Row ``i`` is a weighted mean of the values.
    """
    width = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8
    with torch.autocast(q.device.type, enabled=False):
        wide = [
            nnf.pad(t.float(), (0, width - t.shape[-1])).unsqueeze(1).contiguous()
            for t in (q, k, v)
        ]
        out = nnf.scaled_dot_product_attention(wide[0], wide[1], wide[2], scale=1.0)
    return out[:, 0, :, : v.shape[-1]]


@dataclass(frozen=True)
class PositionRecord:
    """Queries and keys of one position attention: enough to ask for any row or column.

    Attributes
    ----------
    queries
        (B, C_k, z, y, x), on the grid.
    keys
        (B, C_k, z', y', x'): the grid, or its cells if keys are pooled.
    kv_pool
        Grid voxels per cell along each axis.
    window
        Voxels attend to those in the same window of this size; None: to all.
    """

    queries: Tensor
    keys: Tensor
    kv_pool: Size3
    window: Size3 | None


def _tokens(x: Tensor) -> Tensor:
    """(B, C, z, y, x) to (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def _windows(x: Tensor, window: Size3) -> Tensor:
    """(B, C, z, y, x), sizes multiples of the window, to (B * windows, n, C)."""
    b, c = x.shape[:2]
    (z, y, w), (a, d, e) = x.shape[2:], window
    x = x.reshape(b, c, z // a, a, y // d, d, w // e, e)
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(-1, a * d * e, c)


def _unwindows(tokens: Tensor, window: Size3, batch: int, size: Sequence[int]) -> Tensor:
    """Inverse of `_windows`."""
    (z, y, w), (a, d, e) = size, window
    x = tokens.reshape(batch, z // a, y // d, w // e, a, d, e, tokens.shape[-1])
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(batch, -1, z, y, w)


class PositionAttention(nn.Module):
    """Every voxel gathers features from the voxels that it matches.

    ``Q = W_q X, K = W_k X, V = W_v X; P_ij = softmax_j(Q_i . K_j);
    Y_i = gamma * sum_j P_ij V_j + X_i`` with a learned scalar gamma that starts at 0.

    Parameters
    ----------
    channels
        Of input and output.
    key_channels
        C_k; default ``channels / 8``, at least 4.
    kv_pool
        Keys and values are averaged over cells of so many voxels: memory and time shrink
        by their number. Part of the architecture, not to be switched afterwards.
    window
        Attend within windows of this size only.
    combine
        "residual" as above, or "multiply": ``Y = (P V) * X``, no gamma.

    Raises
    ------
    ValueError
        If both pooling and windows are asked for, or a name is not known.
    """

    gamma: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        key_channels: int | None = None,
        *,
        kv_pool: int | Sequence[int] = 1,
        window: int | Sequence[int] | None = None,
        combine: Combine = "residual",
    ) -> None:
        super().__init__()
        self.kv_pool = triple(kv_pool)
        self.window = None if window is None else triple(window)
        self.field: Size3 | None = None  # see `attending_within`
        if self.window is not None and self.kv_pool != (1, 1, 1):
            raise ValueError("position attention has either pooled keys or windows, not both")
        if combine not in ("residual", "multiply"):
            raise ValueError(f"combine {combine!r} is not known; use residual or multiply")
        self.combine = combine
        width = key_channels or max(4, channels // 8)
        self.query = nn.Conv3d(channels, width, 1)
        self.key = nn.Conv3d(channels, width, 1)
        self.value = nn.Conv3d(channels, channels, 1)
        if combine == "residual":
            self.gamma = nn.Parameter(torch.zeros(1))
        else:
            self.register_parameter("gamma", None)

    def forward(self, x: Tensor, keep: list[PositionRecord] | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        x
            (B, C, z, y, x).
        keep
            Gets this call's queries and keys appended, if given.

        Returns
        -------
        Tensor
            Like `x`.
        """
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.window is None and self.field is not None:
            gathered = torch.empty(v.shape, device=x.device)
            for part in _parts(x.shape[2:], self.field):
                gathered[part] = self._gathered(q[part], k[part], v[part], None)
        else:
            gathered = self._gathered(q, k, v, keep)
        if self.gamma is None:
            return gathered.to(x.dtype) * x
        return (self.gamma * gathered).to(x.dtype) + x

    def _gathered(
        self, q: Tensor, k: Tensor, v: Tensor, keep: list[PositionRecord] | None
    ) -> Tensor:
        """``softmax(q k^T) v`` on the grid, float32."""
        shape = v.shape
        if self.kv_pool != (1, 1, 1):
            k, v = (
                nnf.avg_pool3d(
                    t, self.kv_pool, self.kv_pool, ceil_mode=True, count_include_pad=False
                )
                for t in (k, v)
            )
        if keep is not None:
            keep.append(PositionRecord(q.detach(), k.detach(), self.kv_pool, self.window))
        if self.window is None:
            gathered = fused_attention(_tokens(q), _tokens(k), _tokens(v)).transpose(1, 2)
        else:
            gathered = self._windowed(q, k, v, self.window)
        return gathered.reshape(shape)

    @staticmethod
    def _windowed(q: Tensor, k: Tensor, v: Tensor, window: Size3) -> Tensor:
        b, size = q.shape[0], q.shape[2:]
        extra = [(-n) % w for n, w in zip(size, window, strict=True)]
        pad = (0, extra[2], 0, extra[1], 0, extra[0])
        # One more channel carries the logit of the filling: 0 for voxels, _SHUT for filling.
        q = torch.cat((q, torch.ones_like(q[:, :1])), dim=1).float()
        k = torch.cat((k, torch.zeros_like(k[:, :1])), dim=1).float()
        q, v = nnf.pad(q, pad), nnf.pad(v, pad)
        k = torch.cat((nnf.pad(k[:, :-1], pad), nnf.pad(k[:, -1:], pad, value=_SHUT)), dim=1)
        out = fused_attention(*(_windows(t, window) for t in (q, k, v)))
        full = [n + e for n, e in zip(size, extra, strict=True)]
        whole = _unwindows(out, window, b, full)
        return whole[:, :, : size[0], : size[1], : size[2]]


def _parts(size: Sequence[int], field: Size3) -> Iterator[tuple[slice, ...]]:
    """Index of parts of (B, C, z, y, x) that are no larger than a field, and about equal."""
    cuts = []
    for n, f in zip(size, field, strict=True):
        count = -(-n // f)
        edges = [n * i // count for i in range(count + 1)]
        cuts.append([slice(a, b) for a, b in itertools.pairwise(edges)])
    for cut in itertools.product(*cuts):
        yield (slice(None), slice(None), *cut)


@contextmanager
def attending_within(network: nn.Module, field: Sequence[int]) -> Iterator[None]:
    """Within this block voxels attend to those of the same part of the grid only.

    For passes over more than a tile that are to see what tiles see.

    Parameters
    ----------
    network
        Its position attentions that have no windows of their own.
    field
        Largest size of a part (z, y, x), on the attention's grid.
    """
    modules = [m for m in network.modules() if isinstance(m, PositionAttention)]
    for module in modules:
        module.field = triple(field)
    try:
        yield
    finally:
        for module in modules:
            module.field = None


def channel_matrix(x: Tensor, mode: ChannelMode, tau: Tensor | None = None) -> Tensor:
    """Channel attention matrix.

    Parameters
    ----------
    x
        (B, C, N) float32 features X.
    mode
        "danet": ``softmax_j(max_k E_ik - E_ij)``, ``E = X X^T`` (the released code;
        favours the least similar channel); "softmax": ``softmax_j(E_ij)``, the paper's
        equation. Both saturate in 3D, as E grows with N. "cosine":
        ``softmax_j(tau * cos(X_i, X_j))`` of centred rows, independent of N.
    tau
        Inverse temperature of "cosine".

    Returns
    -------
    Tensor
        (B, C, C); rows are >= 0 and sum to 1.
    """
    if mode == "cosine":
        x = nnf.normalize(x - x.mean(dim=2, keepdim=True), dim=2, eps=1e-6)
        energy = torch.bmm(x, x.transpose(1, 2))
        return torch.softmax(energy if tau is None else tau * energy, dim=2)
    energy = torch.bmm(x, x.transpose(1, 2))
    if mode == "danet":
        energy = energy.amax(dim=2, keepdim=True) - energy
    return torch.softmax(energy, dim=2)


class ChannelAttention(nn.Module):
    """Every channel gathers from the channels that it matches: ``Y = gamma * A X + X``.

    Parameters
    ----------
    mode
        See `channel_matrix`. "cosine" has a learned temperature.
    combine
        "residual", or "multiply": ``Y = (A X) * X``, no gamma.

    Raises
    ------
    ValueError
        If a name is not known.
    """

    gamma: nn.Parameter | None
    log_tau: nn.Parameter | None

    def __init__(self, mode: ChannelMode = "cosine", *, combine: Combine = "residual") -> None:
        super().__init__()
        if mode not in ("cosine", "danet", "softmax"):
            raise ValueError(f"channel attention {mode!r}: use cosine, danet or softmax")
        self.mode = mode
        if combine == "residual":
            self.gamma = nn.Parameter(torch.zeros(1))
        else:
            self.register_parameter("gamma", None)
        if mode == "cosine":
            self.log_tau = nn.Parameter(torch.full((1,), math.log(math.e)))
        else:
            self.register_parameter("log_tau", None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, z, y, x) to the same shape."""
        # float32: in half precision E overflows (|E| near 1e6 at 24^3 voxels).
        with torch.autocast(x.device.type, enabled=False):
            flat = x.float().flatten(2)
            tau = None if self.log_tau is None else self.log_tau.exp()
            gathered = torch.bmm(channel_matrix(flat, self.mode, tau), flat).reshape(x.shape)
            if self.gamma is not None:
                gathered = self.gamma * gathered
        gathered = gathered.to(x.dtype)
        return gathered * x if self.gamma is None else gathered + x
