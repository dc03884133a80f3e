"""Convolutions that train faster on a CPU."""
