"""What happens around the steps of a training: checkpoints, progress, and an end when it diverges."""
