"""The words that every area shares; no domain word stands here, and importing it loads no torch.

- what may be chosen: `mlsysopt.core.space`
- what it really costs: `mlsysopt.core.target`, `mlsysopt.core.measure`
- what we do: `mlsysopt.core.search`, `mlsysopt.core.study`
- carried by: `store`, `executors`, `processes`, `datasets`, `report`, `stats`
"""
