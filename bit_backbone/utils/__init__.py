"""Helpers that all rooms share: files, locks, progress, memory, processes."""
