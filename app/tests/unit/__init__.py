"""Tests without any other process."""
