"""What changed? Generation, scorers and the statistics of their comparison."""
