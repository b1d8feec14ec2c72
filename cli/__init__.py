"""The front door: one file for each command behind the Makefile, run as `python -m cli COMMAND`."""
