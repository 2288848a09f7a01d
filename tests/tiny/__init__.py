"""Tiny models, built in process, and tiny trainings: tests need no network, no GPU and no downloads."""
