"""Parts of every training run: batches from a seed, saved states, logs, progress, signals."""
