"""3D networks in pure torch: tensors in, logits and attention maps out."""

from .additive_attention_unet import AdditiveAttentionUNet
from .attention_unet import AttentionUNet
from .base import MapSpec, NetworkOutput, SegmentationNetwork
from .guided_attention import GuidedAttentionNet
from .norm import ScanNorm3d, calibrating, clear_calibration, load_calibration, read_calibration
from .oktay_attention_unet import OktayAttentionUNet
from .registry import build_network, network_names, network_presets, register

__all__ = [
    "AdditiveAttentionUNet",
    "AttentionUNet",
    "GuidedAttentionNet",
    "MapSpec",
    "NetworkOutput",
    "OktayAttentionUNet",
    "ScanNorm3d",
    "SegmentationNetwork",
    "build_network",
    "calibrating",
    "clear_calibration",
    "load_calibration",
    "network_names",
    "network_presets",
    "read_calibration",
    "register",
]
