"""`python -m timestamp_service.backup`: the command `timestamp-backup`, where it is not installed."""

from timestamp_service.backup.main import backup

backup()
