"""From logits to numbers."""
