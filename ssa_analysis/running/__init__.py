"""What to measure, where it runs, and where the scores are kept."""
