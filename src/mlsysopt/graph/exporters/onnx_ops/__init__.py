"""One small function for each op of ours that is written as ONNX nodes, grouped by what it does."""

__all__: list[str] = []
