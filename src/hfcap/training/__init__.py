"""Training: arguments, collators, packing, loss, strategies and the trainer."""
