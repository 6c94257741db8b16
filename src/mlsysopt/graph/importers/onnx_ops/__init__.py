"""One small function for each ONNX operator, grouped by what it does."""

__all__: list[str] = []
