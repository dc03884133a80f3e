"""Many trainings: what is varied, and what their numbers say."""
