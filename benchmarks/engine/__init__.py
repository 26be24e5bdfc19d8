"""Parts of the engine's benchmark: what is computed, by whom, how it is measured and told."""
