"""What every training run needs: batches from a seed, saved states, logs, progress, signals."""
