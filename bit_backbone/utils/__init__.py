"""What every room uses and none of them is about: files, locks, progress, memory, processes."""
