"""Several processes of one run: who solves what, what is merged, who writes."""
