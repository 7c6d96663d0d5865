"""Healthy and collapsing trainings for `benchmarks/alarms.py`."""
