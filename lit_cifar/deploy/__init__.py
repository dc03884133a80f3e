"""What becomes of a trained network: predictions, exported files, a page to try it."""
