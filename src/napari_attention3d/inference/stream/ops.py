"""Operations, and which input planes each of their output planes needs.

"Planes" are slices along the axis that is streamed. Each operation computes any range of
its output planes from a range of input planes, exactly as over the whole axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ...networks.blocks import SMALL_SAMPLE

__all__ = ["Convolution", "Crop", "Operation", "Pad", "Pointwise", "Pool", "Resize", "Transposed"]

Range = tuple[int, int]


@dataclass
class Operation:
    """One operation.

    Attributes
    ----------
    axis
        Dimension of the tensors that is streamed (2, 3 or 4).
    inputs
        Planes of each input.
    planes
        Planes of the output.
    """

    axis: int
    inputs: tuple[int, ...]
    planes: int

    def needs(self, lo: int, hi: int) -> Range:
        """Input planes (low, high) that output planes ``lo`` to ``hi`` are made of."""
        return lo, hi

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Compute output planes ``lo`` to ``hi`` from what `needs` names, starting at `first`."""
        raise NotImplementedError

    def to(self, device: torch.device, dtype: torch.dtype) -> Operation:
        """Return a copy whose tensors lie on a device."""
        twin = copy(self)
        for name in ("weight", "bias"):
            value = getattr(self, name, None)
            if isinstance(value, Tensor):
                setattr(twin, name, value.to(device, dtype))
        if isinstance(twin, Pointwise):
            twin.constants = tuple(c.to(device, dtype) for c in twin.constants)
        return twin

    def cut(self, x: Tensor, start: int, count: int) -> Tensor:
        """Return `count` planes of a tensor."""
        return x if count == x.shape[self.axis] else x.narrow(self.axis, start, count)


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
    outside: float = 0.0

    def _along(self) -> tuple[int, int, int]:
        a = self.axis - 2
        return self.stride[a], self.padding[a], self.dilation[a] * (self.kernel[a] - 1) + 1

    def needs(self, lo: int, hi: int) -> Range:
        """Window of the range, within the input."""
        s, p, reach = self._along()
        return max(0, lo * s - p), min(self.inputs[0], (hi - 1) * s - p + reach)

    def filled(self, lo: int, hi: int, first: int, x: Tensor) -> Tensor:
        """Return the input planes with the padding that the range meets at either end."""
        s, p, reach = self._along()
        want_lo, want_hi = lo * s - p, (hi - 1) * s - p + reach
        before, after = first - want_lo, want_hi - first - x.shape[self.axis]
        if before <= 0 and after <= 0:
            return x
        pad = [0] * 6
        pad[2 * (4 - self.axis)], pad[2 * (4 - self.axis) + 1] = max(0, before), max(0, after)
        return nnf.pad(x, pad, value=self.outside)

    def in_plane(self, values: tuple[int, ...]) -> list[int]:
        """Padding with none along the streamed axis."""
        return [0 if a == self.axis - 2 else v for a, v in enumerate(values)]


@dataclass
class Convolution(_Window):
    """Convolution with what follows it folded in: bias and, perhaps, a ReLU."""

    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: Tensor | None = None
    groups: int = 1
    relu: bool = False

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Convolve a slab."""
        x = self.filled(lo, hi, first, parts[0])
        # torch leaves oneDNN for single small volumes, see networks.blocks.Conv3d.
        twice = (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and 1 < max(self.kernel) <= 3
            and x.shape[0] == 1
            and x.shape[1] * x.shape[2] * x.shape[3] <= SMALL_SAMPLE
        )
        out = torch.convolution(
            x.expand(2, *x.shape[1:]) if twice else x,
            self.weight,
            self.bias,
            list(self.stride),
            self.in_plane(self.padding),
            list(self.dilation),
            False,
            [0, 0, 0],
            self.groups,
        )
        out = out[:1] if twice else out
        return out.relu_() if self.relu else out


@dataclass
class Pool(_Window):
    """Largest value of each window, or the mean."""

    largest: bool = True

    def __post_init__(self) -> None:
        """Padding never wins."""
        self.outside = -torch.inf if self.largest else 0.0

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Pool a slab."""
        x = self.filled(lo, hi, first, parts[0])
        kernel, stride, pad = list(self.kernel), list(self.stride), self.in_plane(self.padding)
        if self.largest:
            return nnf.max_pool3d(x, kernel, stride, pad)
        return nnf.avg_pool3d(x, kernel, stride, pad)


@dataclass
class Transposed(Operation):
    """Transposed convolution."""

    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: Tensor | None = None
    stride: tuple[int, ...] = (1, 1, 1)
    padding: tuple[int, ...] = (0, 0, 0)
    output_padding: tuple[int, ...] = (0, 0, 0)
    dilation: tuple[int, ...] = (1, 1, 1)
    groups: int = 1

    def needs(self, lo: int, hi: int) -> Range:
        """Inputs whose kernels reach the range."""
        a = self.axis - 2
        s, p = self.stride[a], self.padding[a]
        reach = self.dilation[a] * (self.weight.shape[self.axis] - 1)
        low = -((reach - lo - p) // s)
        high = min(self.inputs[0], (hi - 1 + p) // s + 1)
        # At least one, also where no kernel reaches: it still carries the bias.
        return min(max(0, low), high - 1), high

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Spread a slab and cut the range out of it."""
        a = self.axis - 2
        padding = [0 if i == a else v for i, v in enumerate(self.padding)]
        # Room at the high end, for the range may end past the last kernel.
        room = [self.stride[a] - 1 if i == a else v for i, v in enumerate(self.output_padding)]
        spread = torch.convolution(
            parts[0],
            self.weight,
            self.bias,
            list(self.stride),
            padding,
            list(self.dilation),
            True,
            room,
            self.groups,
        )
        # Plane j of `spread` is output plane first * stride + j - padding.
        start = lo + self.padding[a] - first * self.stride[a]
        return self.cut(spread, start, hi - lo)


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

    def needs(self, lo: int, hi: int) -> Range:
        """Planes on both sides of each output's centre."""
        if self.inputs[0] == self.planes:
            return lo, hi
        last = self.inputs[0]
        return int(self._source(lo)), min(last, math.ceil(self._source(hi - 1)) + 1)

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Interpolate within planes by torch, between planes by hand."""
        x = parts[0]
        flat = list(self.size)
        flat[self.axis - 2] = x.shape[self.axis]
        # Linear interpolation is separable: along the streamed axis first, while it is small.
        if self.inputs[0] != self.planes:
            x = self._between(lo, hi, first, x)
            flat[self.axis - 2] = hi - lo
        if list(x.shape[2:]) == flat:
            return x
        return nnf.interpolate(x, size=flat, mode="trilinear", align_corners=self.align_corners)

    def _between(self, lo: int, hi: int, first: int, x: Tensor) -> Tensor:
        where = torch.tensor([self._source(o) for o in range(lo, hi)], dtype=torch.float64)
        low = where.floor().long()
        share = (where - low).to(x.dtype).reshape([-1 if a == self.axis else 1 for a in range(5)])
        high = (low + 1).clamp_max(first + x.shape[self.axis] - 1)  # weighs 0 where it clamps
        device = x.device
        a = x.index_select(self.axis, (low - first).to(device))
        b = x.index_select(self.axis, (high - first).to(device))
        return torch.lerp(a, b, share.to(device))


@dataclass
class Crop(Operation):
    """Planes ``start`` onwards."""

    start: int = 0

    def needs(self, lo: int, hi: int) -> Range:
        """Shifted range."""
        return lo + self.start, hi + self.start

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Pass through."""
        return parts[0]


@dataclass
class Pad(Operation):
    """Padding by repeating the outermost planes."""

    pads: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    """As `torch.nn.functional.pad` counts them: last dimension first."""

    def _before(self) -> int:
        return self.pads[2 * (4 - self.axis)]

    def needs(self, lo: int, hi: int) -> Range:
        """Planes within the input."""
        last, before = self.inputs[0] - 1, self._before()
        low, high = (min(max(v - before, 0), last) for v in (lo, hi - 1))
        return low, high + 1

    def run(self, lo: int, hi: int, first: int, parts: Sequence[Tensor]) -> Tensor:
        """Repeat planes, then pad within them."""
        x, last = parts[0], self.inputs[0] - 1
        index = [min(max(o - self._before(), 0), last) - first for o in range(lo, hi)]
        if index != list(range(x.shape[self.axis])):
            x = x.index_select(self.axis, torch.tensor(index, device=x.device))
        rest = list(self.pads)
        rest[2 * (4 - self.axis)] = rest[2 * (4 - self.axis) + 1] = 0
        return nnf.pad(x, rest, mode="replicate") if any(rest) else x
