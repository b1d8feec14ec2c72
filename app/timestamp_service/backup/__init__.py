"""Backup: the log as compressed files, and the log made anew from them, offset by offset."""
