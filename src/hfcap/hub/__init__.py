"""Run folders, model cards and publishing."""
