"""A trained model: a network's configuration and weights, and the card that explains them."""
