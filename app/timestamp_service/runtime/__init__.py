"""What every process does beside its work: start, log, count, and report to systemd."""
