"""Modules for the `evaluate` library, one file a metric; `hfcap.metrics.path` gives their place."""
