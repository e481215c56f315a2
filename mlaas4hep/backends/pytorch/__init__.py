"""Parts of the PyTorch backend: losses, the optimizer with its schedules, and averaged weights."""
