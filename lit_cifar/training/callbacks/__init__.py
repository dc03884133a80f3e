"""What happens around the steps of a training: checkpoints, progress, and the end of one that diverges."""
