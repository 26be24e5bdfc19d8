"""From a scan to logits on its own grid: device, preprocessing, tiles, prediction."""
