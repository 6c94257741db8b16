"""The infrastructure below machine learning: tuning it, scaling it, watching it."""

__all__ = ["tune"]
