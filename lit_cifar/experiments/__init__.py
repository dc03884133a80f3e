"""Many trainings instead of one: what is tried, what comes of it, and how that is shown."""
