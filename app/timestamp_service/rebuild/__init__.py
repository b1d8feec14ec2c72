"""Rebuild: makes the table of records anew from the log, and proves it, while the service goes on."""
