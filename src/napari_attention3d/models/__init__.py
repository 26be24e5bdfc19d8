"""A trained model: a network's configuration and weights, and the card that explains them."""

from .card import Channel, ModelCard, Normalisation, SegmentationClass
from .store import Model, ModelInfo, list_models, load_model, save_model, user_models_folder

__all__ = [
    "Channel",
    "Model",
    "ModelCard",
    "ModelInfo",
    "Normalisation",
    "SegmentationClass",
    "list_models",
    "load_model",
    "save_model",
    "user_models_folder",
]
