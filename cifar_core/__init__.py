"""A plain PyTorch library for classifying small pictures; usable without the rest of the project."""
