"""What a recorder consists of: one record after the other, on one process or many."""
