"""Backup: the log as compressed files, and the log restored from them, offset by offset."""
