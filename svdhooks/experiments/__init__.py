"""Small experiments, trained in seconds, that show what the measures see."""
