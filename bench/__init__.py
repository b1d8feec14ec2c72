"""Measures how fast the service is: `python -m bench` (`make bench-app`)."""
