"""Operations, and which input planes each of their output planes needs.

"Planes" are slices along the axis that is streamed: here always dimension 2 of (1, C, Z,
Y, X), however the scan lies. Each operation computes any range of its output planes from
a range of input planes, exactly as over the whole axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as nnf

__all__ = [
    "Convolution",
    "Crop",
    "Narrow",
    "Operation",
    "Pad",
    "Pointwise",
    "Pool",
    "Resize",
    "Transposed",
]

Range = tuple[int, int]
LAYOUT = torch.channels_last_3d
"""Planes lie one after the other, all channels of a voxel together: a range of planes is one
block of memory, and oneDNN convolves it without copying."""


@dataclass
class Operation:
    """One operation.

    Attributes
    ----------
    inputs
        Planes of each input.
    planes
        Planes of the output.
    """

    inputs: tuple[int, ...]
    planes: int

    outside: ClassVar[float | None] = None
    """Value of the planes before the first and after the last, where `window` asks for them."""
    joins: ClassVar[bool] = False
    """Whether the inputs are taken side by side, as channels of one."""

    def needs(self, lo: int, hi: int) -> Range:
        """Input planes (low, high) that output planes ``lo`` to ``hi`` are made of."""
        a, b = self.window(lo, hi)
        return max(0, a), min(self.inputs[0], b)

    def window(self, lo: int, hi: int) -> Range:
        """Input planes that `run` wants: `needs`, or beyond the ends."""
        return lo, hi

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Compute output planes ``lo`` to ``hi`` from those of `window`, starting at `first`."""
        raise NotImplementedError

    def to(self, device: torch.device, dtype: torch.dtype) -> Operation:
        """Return a copy whose tensors lie on a device."""
        twin = copy(self)
        for name in ("weight", "bias"):
            value = getattr(self, name, None)
            if isinstance(value, Tensor):
                value = value.to(device, dtype)
                setattr(twin, name, laid_out(value) if name == "weight" else value)
        if isinstance(twin, Pointwise):
            twin.constants = tuple(c.to(device, dtype) for c in twin.constants)
        return twin


def laid_out(x: Tensor) -> Tensor:
    """Return a (N, C, z, y, x) tensor as one block of memory in `LAYOUT`."""
    x = x.contiguous(memory_format=LAYOUT)
    if x.shape[1] == 1:
        # With one channel torch calls any strides right; oneDNN is up to 60 times as slow
        # (measured) unless they say that channels come last.
        _, _, z, y, w = x.shape
        x = x.as_strided(x.shape, (z * y * w, 1, y * w, w, 1))
    return x


@dataclass
class Pointwise(Operation):
    """Works on each plane by itself; `call` takes the inputs' planes, then `constants`."""

    call: Callable[..., Tensor] = field(default=lambda *a: a[0])
    constants: tuple[Tensor, ...] = ()

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Apply the function."""
        return self.call(*parts, *self.constants)


@dataclass
class _Window(Operation):
    """Output plane ``o`` covers input planes ``o * stride - padding`` and on, by the kernel."""

    kernel: tuple[int, ...] = (1, 1, 1)
    stride: tuple[int, ...] = (1, 1, 1)
    padding: tuple[int, ...] = (0, 0, 0)
    dilation: tuple[int, ...] = (1, 1, 1)

    joins = True

    def window(self, lo: int, hi: int) -> Range:
        """Planes under the kernels, beyond the ends too."""
        s, p = self.stride[0], self.padding[0]
        return lo * s - p, (hi - 1) * s - p + self.dilation[0] * (self.kernel[0] - 1) + 1


@dataclass
class Convolution(_Window):
    """Convolution with what follows it folded in: a norm, perhaps a (leaky) ReLU."""

    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: Tensor | None = None
    groups: int = 1
    slope: float | None = None
    """Of the activation for negative values; None: there is no activation."""

    outside = 0.0

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Convolve a slab; planes beyond the ends are in it already."""
        (x,), padding = parts, [0, *self.padding[1:]]
        stride, dilation = list(self.stride), list(self.dilation)
        if in_onednn(x):
            # Always oneDNN (torch.convolution leaves it for small samples), activation included.
            about: dict[float | None, Any] = {None: ("none", []), 0.0: ("relu", [])}
            act, scalars = about.get(self.slope, ("leaky_relu", [self.slope]))
            out: Tensor = torch.ops.mkldnn._convolution_pointwise(
                *(x, self.weight, self.bias, padding, stride, dilation, self.groups),
                *(act, scalars, ""),
            )
            return out
        out = torch.convolution(
            *(x, self.weight, self.bias, stride, padding, dilation, False, [0] * 3, self.groups)
        )
        if self.slope is None:
            return out
        return out.relu_() if self.slope == 0 else nnf.leaky_relu_(out, self.slope)


def in_onednn(x: Tensor) -> bool:
    if x.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if x.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and x.dtype == torch.float32


@dataclass
class Pool(_Window):
    """Largest value of each window, or the mean."""

    largest: bool = True

    outside = -torch.inf

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Pool a slab."""
        kernel, stride, pad = list(self.kernel), list(self.stride), [0, *self.padding[1:]]
        pool = nnf.max_pool3d if self.largest else nnf.avg_pool3d
        return pool(parts[0], kernel, stride, pad)


@dataclass
class Transposed(Operation):
    """Transposed convolution, with a norm and, perhaps, a (leaky) ReLU folded in."""

    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: Tensor | None = None
    stride: tuple[int, ...] = (1, 1, 1)
    padding: tuple[int, ...] = (0, 0, 0)
    output_padding: tuple[int, ...] = (0, 0, 0)
    dilation: tuple[int, ...] = (1, 1, 1)
    groups: int = 1
    slope: float | None = None

    joins = True

    def window(self, lo: int, hi: int) -> Range:
        """Inputs whose kernels reach the range."""
        s, p = self.stride[0], self.padding[0]
        reach = self.dilation[0] * (self.weight.shape[2] - 1)
        low = -((reach - lo - p) // s)
        high = min(self.inputs[0], (hi - 1 + p) // s + 1)
        # At least one, also where no kernel reaches: it still carries the bias.
        return min(max(0, low), high - 1), high

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Spread a slab and cut the range out of it."""
        # Room at the high end, for the range may end past the last kernel.
        room = [self.stride[0] - 1, *self.output_padding[1:]]
        out = torch.convolution(
            *(parts[0], self.weight, self.bias, list(self.stride), [0, *self.padding[1:]]),
            *(list(self.dilation), True, room, self.groups),
        )
        # Plane j of `out` is output plane first * stride + j - padding.
        out = out.narrow(2, lo + self.padding[0] - first * self.stride[0], hi - lo)
        if self.slope is None:
            return out
        return out.relu_() if self.slope == 0 else nnf.leaky_relu_(out, self.slope)


@dataclass
class Resize(Operation):
    """Trilinear resizing to an explicit size."""

    size: tuple[int, ...] = (1, 1, 1)
    align_corners: bool = False

    def _source(self, out: int) -> float:
        n, m = self.inputs[0], self.planes
        if self.align_corners:
            return out * (n - 1) / (m - 1) if m > 1 else 0.0
        return max(0.0, (out + 0.5) * n / m - 0.5)

    def window(self, lo: int, hi: int) -> Range:
        """Planes on both sides of each output's centre."""
        if self.inputs[0] == self.planes:
            return lo, hi
        high = math.ceil(self._source(hi - 1)) + 1
        return int(self._source(lo)), min(self.inputs[0], high)

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Interpolate between planes, then within them: linear interpolation is separable."""
        (x,) = parts
        if self.inputs[0] != self.planes:
            x = self._between(lo, hi, first, x)
        if tuple(x.shape[3:]) == tuple(self.size[1:]):
            return x
        planes = x[0].transpose(0, 1)  # (Z, C, Y, X), channels last: torch's fastest
        flat = nnf.interpolate(
            planes, size=self.size[1:], mode="bilinear", align_corners=self.align_corners
        )
        return flat.transpose(0, 1)[None]

    def _between(self, lo: int, hi: int, first: int, x: Tensor) -> Tensor:
        """Each output plane is a mean of two, weighted: a product with a small matrix."""
        count = x.shape[2]
        weights = torch.zeros(hi - lo, count, dtype=torch.float64)
        for row, out in enumerate(range(lo, hi)):
            where = self._source(out)
            low = int(where)
            weights[row, low - first] += 1 - (where - low)
            weights[row, min(low + 1 - first, count - 1)] += where - low
        planes = x[0].permute(1, 2, 3, 0)  # (Z, Y, X, C), as it lies in memory
        flat = weights.to(x.device, x.dtype) @ planes.reshape(count, -1)
        return flat.reshape(hi - lo, *planes.shape[1:]).permute(3, 0, 1, 2)[None]


@dataclass
class Crop(Operation):
    """Planes ``start`` onwards."""

    start: int = 0

    def window(self, lo: int, hi: int) -> Range:
        """Shifted range."""
        return lo + self.start, hi + self.start

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Pass through."""
        return parts[0]


@dataclass
class Narrow(Operation):
    """A part of each plane, or of the channels."""

    dim: int = 1
    start: int = 0
    count: int = 1

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Cut it out."""
        return parts[0].narrow(self.dim, self.start, self.count)


@dataclass
class Pad(Operation):
    """Padding by repeating the outermost planes."""

    before: tuple[int, ...] = (0, 0, 0)
    after: tuple[int, ...] = (0, 0, 0)

    def window(self, lo: int, hi: int) -> Range:
        """Planes within the input."""
        last = self.inputs[0] - 1
        low, high = (min(max(v - self.before[0], 0), last) for v in (lo, hi - 1))
        return low, high + 1

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Repeat planes, then pad within them."""
        x, last = parts[0], self.inputs[0] - 1
        index = [min(max(o - self.before[0], 0), last) - first for o in range(lo, hi)]
        if index != list(range(x.shape[2])):
            x = x.index_select(2, torch.tensor(index, device=x.device))
        sides = zip(reversed(self.before[1:]), reversed(self.after[1:]), strict=True)
        pads = [n for pair in sides for n in pair]
        return nnf.pad(x, [*pads, 0, 0], mode="replicate") if any(pads) else x
