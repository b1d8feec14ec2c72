"""Rebuild: creates the table of records again from the log, and proves it, while the service goes on."""
