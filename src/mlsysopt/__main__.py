"""`python -m mlsysopt` is `mlsysopt`."""

from mlsysopt.cli.main import entry

if __name__ == "__main__":
    entry()
