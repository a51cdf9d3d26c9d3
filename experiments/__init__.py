"""The programs that users run: `annyfit PROGRAM`, or `python -m experiments.PROGRAM`."""
