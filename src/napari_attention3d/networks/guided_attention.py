"""Multi-scale guided attention in 3D (Sinha & Dolz 2019, arXiv:1906.02849).

The data flow reads top down in `GuidedAttentionNet.forward`; docs/networks.md sets each
equation beside its name here, and lists where published code differs from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .base import MapSpec, NetworkOutput, SegmentationNetwork
from .blocks import ConvNormAct, Norm, Size3, kaiming_, pad_to_multiple, triple
from .guided_module import CODE_STRIDE, GuidanceTrace, GuidedModule, SemanticAutoencoder, magnitude
from .refinement import RefinementHead
from .registry import register
from .resnet import ResNetEncoder, Shortcut, upsample_centred
from .self_attention import ChannelMode, Combine, PositionRecord

__all__ = ["GuidedAttentionNet", "Variant"]

Variant = Literal["refined", "paper", "simplified"]
SCALES = 4

# What each variant means, where the caller does not say otherwise.
VARIANTS: dict[str, dict[str, Any]] = {
    # Ours: boundaries at full resolution, norms that see the scan, bounded channel attention.
    "refined": {
        "features": 16,
        "stem_kernel": 5,
        "norm": "instance",
        "autoencoder": (1, 2),
        "channel_attention": "cosine",
        "combine": "residual",
        "steps": 2,
        "head_width": 16,
        "sides": "grid",
    },
    # As published: masks drawn at a quarter of the resolution.
    "paper": {
        "features": 64,
        "stem_kernel": 7,
        "norm": "batch",
        "autoencoder": (2, 4),
        "channel_attention": "danet",
        "combine": "residual",
        "steps": 2,
        "head_width": 0,
        "sides": "image",
    },
    # As tutorials describe it: attention multiplied with its input, a single step.
    "simplified": {
        "features": 16,
        "stem_kernel": 5,
        "norm": "instance",
        "autoencoder": (1, 2),
        "channel_attention": "softmax",
        "combine": "multiply",
        "steps": 1,
        "head_width": 16,
        "sides": "grid",
    },
}

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "depth": 10,
        "widths": (16, 32, 64, 128),
        "features": 16,
        "kv_pool": 2,
        "head_width": 8,
    },
    "base": {"depth": 18, "widths": (32, 64, 128, 256), "features": 32, "kv_pool": 2},
    "large": {"depth": 18, "widths": (64, 128, 256, 512), "features": 64, "autoencoder": (2, 4)},
    "paper": {"variant": "paper", "depth": 50, "widths": (64, 128, 256, 512)},
    "simplified": {
        "variant": "simplified",
        "depth": 10,
        "widths": (16, 32, 64, 128),
        "kv_pool": 2,
        "head_width": 8,
    },
}


@register("guided-attention", PRESETS)
class GuidedAttentionNet(SegmentationNetwork):
    """Residual encoder whose fused scales are refined by guided attention, step by step.

    Parameters
    ----------
    in_channels, num_classes
        Channels of the scan; classes with the background.
    variant
        "refined" (default), "paper" or "simplified": what the arguments that are None
        below stand for; see docs/networks.md.
    depth, widths, strides, stem_stride, stem_pool, shortcut, dilated
        Of the encoder, see `ResNetEncoder`. Scans with thick slices take
        ``stem_stride=(1, 2, 2)`` and the like. The grid of the attention has the stride
        ``stem_stride * stem_pool``.
    features
        C, the width of the scales' features.
    stem_kernel
        Of the encoder's first convolution.
    norm
        "instance" (scan-calibrated at inference, see `ScanNorm3d`), "batch" or "group".
    autoencoder
        Multipliers of the semantic autoencoder's widths.
    channel_attention
        "cosine", "danet" or "softmax", see `channel_matrix`.
    kv_pool, window
        Of the position attention, see `PositionAttention`.
    combine
        "residual": attention is added with a learned weight; "multiply": it multiplies
        its input.
    steps
        Refinement steps per scale, at least 1.
    attention_act
        Of A where it multiplies the fused features: "none" or "sigmoid".
    head_width
        Width of the refinement head, which redraws the mask at full resolution; 0: none,
        the mask is interpolated from the grid.
    sides
        Where side logits are given in training: at the attention's "grid", or
        interpolated to the "image" as published.

    Raises
    ------
    ValueError
        If a name is not known or sizes do not fit together.
    """

    locality = "global"

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        variant: Variant = "refined",
        depth: int = 10,
        widths: Sequence[int] = (16, 32, 64, 128),
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
        stem_stride: int | Sequence[int] = 2,
        stem_pool: int | Sequence[int] = 2,
        shortcut: Shortcut = "B",
        dilated: bool = False,
        features: int | None = None,
        stem_kernel: int | Sequence[int] | None = None,
        norm: Norm | None = None,
        autoencoder: Sequence[int] | None = None,
        channel_attention: ChannelMode | None = None,
        kv_pool: int | Sequence[int] = 1,
        window: int | Sequence[int] | None = None,
        combine: Combine | None = None,
        steps: int | None = None,
        attention_act: Literal["none", "sigmoid"] = "none",
        head_width: int | None = None,
        sides: Literal["grid", "image"] | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r} is not known; use {', '.join(VARIANTS)}")
        given = {
            "features": features,
            "stem_kernel": stem_kernel,
            "norm": norm,
            "autoencoder": autoencoder,
            "channel_attention": channel_attention,
            "combine": combine,
            "steps": steps,
            "head_width": head_width,
            "sides": sides,
        }
        chosen = VARIANTS[variant] | {k: v for k, v in given.items() if v is not None}
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; background counts, so at least 2")
        if in_channels < 1:
            raise ValueError(f"in_channels is {in_channels}; it must be at least 1")
        if chosen["steps"] < 1:
            raise ValueError(f"steps is {chosen['steps']}; it must be at least 1")
        if attention_act not in ("none", "sigmoid"):
            raise ValueError(f"attention_act {attention_act!r}: use none or sigmoid")
        if chosen["sides"] not in ("grid", "image"):
            raise ValueError(f"sides {chosen['sides']!r}: use grid or image")
        self.in_channels, self.num_classes = in_channels, num_classes
        self.variant, self.attention_act = variant, attention_act
        self.steps, self.sides = int(chosen["steps"]), str(chosen["sides"])
        self._config: dict[str, Any] = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "variant": variant,
            "depth": depth,
            "widths": [int(w) for w in widths],
            "strides": [list(triple(s)) for s in strides],
            "stem_stride": list(triple(stem_stride)),
            "stem_pool": list(triple(stem_pool)),
            "shortcut": shortcut,
            "dilated": dilated,
            "kv_pool": list(triple(kv_pool)),
            "window": None if window is None else list(triple(window)),
            "attention_act": attention_act,
            **chosen,
            "stem_kernel": list(triple(chosen["stem_kernel"])),
            "autoencoder": [int(m) for m in chosen["autoencoder"]],
        }
        self._build()
        kaiming_(self)

    def _build(self) -> None:
        c = self._config
        style: dict[str, Any] = {"norm": c["norm"]}
        self.encoder = ResNetEncoder(
            self.in_channels,
            c["depth"],
            c["widths"],
            stem_kernel=c["stem_kernel"],
            stem_stride=c["stem_stride"],
            stem_pool=c["stem_pool"],
            strides=c["strides"],
            shortcut=c["shortcut"],
            dilated=c["dilated"],
            **style,
        )
        strides = self.encoder.feature_strides
        self.grid_stride: Size3 = strides[0]
        self.factors: tuple[Size3, ...] = tuple(
            (s[0] // g[0], s[1] // g[1], s[2] // g[2])
            for s, g in zip(strides, [self.grid_stride] * SCALES, strict=True)
        )
        width = int(c["features"])

        def conv(a: int, kernel: int) -> ConvNormAct:
            return ConvNormAct(a, width, kernel=(kernel,) * 3, act="prelu", **style)

        self.project = nn.ModuleList(conv(w, 1) for w in self.encoder.out_channels)
        self.fuse = nn.Sequential(conv(SCALES * width, 3), conv(width, 3), conv(width, 1))
        self.autoencoders = nn.ModuleList(
            SemanticAutoencoder(2 * width, c["autoencoder"], scales=SCALES, **style)
            for _ in range(self.steps)
        )
        attention: dict[str, Any] = {
            "kv_pool": triple(c["kv_pool"]),
            "window": None if c["window"] is None else triple(c["window"]),
            "channel_attention": c["channel_attention"],
            "combine": c["combine"],
        }
        self.refine = nn.ModuleList(
            nn.ModuleList(GuidedModule(width, **style, **attention) for _ in range(self.steps))
            for _ in range(SCALES)
        )
        k = self.num_classes
        self.feature_heads = nn.ModuleList(nn.Conv3d(width, k, 1) for _ in range(SCALES))
        self.attention_heads = nn.ModuleList(nn.Conv3d(width, k, 1) for _ in range(SCALES))
        self.head = (
            RefinementHead(
                self.in_channels,
                k,
                grid_channels=(SCALES + 1) * width + k,
                stem_channels=self.encoder.stem_channels,
                stem_stride=self.encoder.stem_stride,
                pool_stride=self.encoder.pool_stride,
                width=int(c["head_width"]),
                **style,
            )
            if c["head_width"]
            else None
        )

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this network."""
        return dict(self._config)

    @property
    def total_stride(self) -> Size3:
        """Stride of the encoder's deepest level."""
        return self.encoder.feature_strides[-1]

    def padded_size(self, size: Sequence[int]) -> Size3:
        """Two voxels along each axis at the deepest level: a norm over one would wipe it out.

        In a dilated encoder the autoencoder's code is deeper than the encoder.
        """
        deepest = self.total_stride
        if self.config["dilated"]:
            pairs = zip(deepest, self.grid_stride, strict=True)
            z, y, x = (max(total, CODE_STRIDE * grid) for total, grid in pairs)
            deepest = z, y, x
        z, y, x = (max(int(n), s + 1 if s > 1 else 1) for n, s in zip(size, deepest, strict=True))
        return z, y, x

    @property
    def tile_multiple(self) -> Size3:
        """Stride of the attention's grid: deeper levels see other voxels in each tile anyway."""
        return self.grid_stride

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        """Strength of the refined attention per scale and step, on the attention's grid."""
        specs = {}
        for step in reversed(range(self.steps)):
            for scale in range(SCALES):
                name = f"guided-scale-{scale + 1}-step-{step + 1}"
                specs[name] = MapSpec(
                    name=name,
                    title=f"guided attention, scale {scale + 1}, step {step + 1}",
                    stride=self.grid_stride,
                    offset=(0.0, 0.0, 0.0),
                    value_range=(0.0, None),
                    description=(
                        "Strength of the refined attention features (Euclidean norm over "
                        "channels); compare places within one map, not maps with each other."
                    ),
                    primary=step == self.steps - 1,
                )
        return specs

    def forward(
        self,
        x: Tensor,
        return_maps: bool = False,
        keep: dict[str, PositionRecord] | None = None,
    ) -> NetworkOutput:
        """Segment a batch of any size.

        Parameters
        ----------
        x
            (B, C, Z, Y, X).
        return_maps
            Whether to return the maps of `map_specs`, each (B, 1, z, y, x).
        keep
            Gets the queries and keys of each position attention under its map's name.

        Returns
        -------
        NetworkOutput
            Logits of the input's size; in training also side logits (those of the
            features F'_s first, then those of the refined A_s) and the trace.
        """
        size = tuple(x.shape[2:])
        x = pad_to_multiple(x, (1, 1, 1), self.padded_size(size))
        stem, *levels = self.encoder(x)
        grid = levels[0].shape[2:]
        features = [
            upsample_centred(project(level), factor, grid)
            for project, level, factor in zip(self.project, levels, self.factors, strict=True)
        ]
        fused = self.fuse(torch.cat(features[::-1], dim=1))
        steps = self._attend(features, fused, keep)
        refined = steps[-1].attention
        coarse = [head(a) for head, a in zip(self.attention_heads, refined, strict=True)]
        mean = torch.stack(coarse).mean(0)
        logits = upsample_centred(mean, self.grid_stride, x.shape[2:])
        if self.head is not None:
            logits = logits + self.head(x, stem, torch.cat((*refined, fused, mean), dim=1))
        maps = self._maps(steps, size) if return_maps else {}
        sides: tuple[Tensor, ...] = ()
        trace = None
        if self.training:
            plain = [head(f) for head, f in zip(self.feature_heads, features, strict=True)]
            sides = tuple(self._side(side, size) for side in (*plain, *coarse))
            trace = GuidanceTrace(
                tuple(tuple(s.inputs) for s in steps),
                tuple(tuple(s.latents) for s in steps),
                tuple(tuple(s.reconstructions) for s in steps),
                tuple(magnitude(a.detach()).mean() for a in refined),
            )
        return NetworkOutput(logits[:, :, : size[0], : size[1], : size[2]], maps, sides, trace)

    def _attend(
        self, features: Sequence[Tensor], fused: Tensor, keep: dict[str, PositionRecord] | None
    ) -> list[_Step]:
        """Refine every scale, step after step (``in_t = [F'_s, G_t]``)."""
        steps = []
        guides = [fused] * SCALES  # G_1 = F_MS
        for number in range(self.steps):
            inputs = [torch.cat(pair, dim=1) for pair in zip(features, guides, strict=True)]
            # One autoencoder serves all scales: they go through it as one batch.
            code, rebuilt = self.autoencoders[number](torch.cat(inputs))
            step = _Step(inputs, code.chunk(SCALES), rebuilt.chunk(SCALES), [])
            for scale, (x, r) in enumerate(zip(inputs, step.reconstructions, strict=True)):
                records: list[PositionRecord] | None = None if keep is None else []
                module = self.refine[scale].get_submodule(str(number))
                step.attention.append(module(x, r, records))
                if keep is not None and records:
                    keep[f"guided-scale-{scale + 1}-step-{number + 1}"] = records[0]
            steps.append(step)
            squash = torch.sigmoid if self.attention_act == "sigmoid" else torch.nn.Identity()
            guides = [squash(a) * fused for a in step.attention]  # G_t+1 = A_s^(t) . F_MS
        return steps

    def _side(self, logits: Tensor, size: tuple[int, ...]) -> Tensor:
        grid = [-(-n // s) for n, s in zip(size, self.grid_stride, strict=True)]
        logits = logits[:, :, : grid[0], : grid[1], : grid[2]]
        if self.sides == "image":
            logits = upsample_centred(logits, self.grid_stride, size)
        return logits

    def _maps(self, steps: Sequence[_Step], size: tuple[int, ...]) -> dict[str, Tensor]:
        z, y, x = (-(-n // s) for n, s in zip(size, self.grid_stride, strict=True))
        maps = {}
        for name in self.map_specs:
            scale, step = (int(part) - 1 for part in name.split("-")[2::2])
            maps[name] = magnitude(steps[step].attention[scale])[:, :, :z, :y, :x]
        return maps


class _Step(NamedTuple):
    """Tensors of one refinement step, an entry per scale."""

    inputs: Sequence[Tensor]
    latents: Sequence[Tensor]
    reconstructions: Sequence[Tensor]
    attention: list[Tensor]
