"""The stages from a model to its executable, in order."""
