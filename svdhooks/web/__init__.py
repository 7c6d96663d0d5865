"""What people see in a browser: pages that are made from a log. Does not import torch."""
