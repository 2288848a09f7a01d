"""Caption metrics, one file a metric, each an `evaluate` module."""
