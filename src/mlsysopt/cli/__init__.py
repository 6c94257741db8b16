"""The command line: `mlsysopt ROOM VERB [WHAT] [--flags]`, one file per room."""
