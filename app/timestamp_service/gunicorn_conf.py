"""gunicorn's configuration for both APIs: `gunicorn --config python:timestamp_service.gunicorn_conf …`."""

import logging
import os
import shutil
import sys
import tempfile
from typing import Any

from timestamp_service.runtime import ending, systemd
from timestamp_service.runtime.start import read_settings
from timestamp_service.settings import read_server

_server = read_settings("timestamp-gunicorn", read_server)
systemd.hide(os.environ)

# systemd's sockets, when it hands some over, take the place of this.
bind = [f"127.0.0.1:{_server.port}"]
workers = _server.workers
worker_class = "timestamp_service.server.worker.Worker"
logger_class = "timestamp_service.server.worker.GunicornLogger"
loglevel = logging.getLevelName(_server.log_level).lower()

# A wrong setting ends the master before it forks; workers share the memory of what is imported.
# The application starts neither thread nor connection before its lifespan begins in the worker.
preload_app = True

# A worker reports progress twice in this time: three times in the time that the watchdog waits.
_watchdog_seconds = systemd.from_environment(os.environ).watchdog_seconds or 30
timeout = max(2, int(min(_watchdog_seconds, 30) * 2 / 3))
# Longer than the last requests may take, and then what is still on its way to Kafka. systemd waits longer.
graceful_timeout = 40

# Longer than nginx keeps its connections: the side that sends requests shall close them.
keepalive = 90
backlog = 1024

# On by default since 25.1, and its folder is read-only in the hardened units.
control_socket_disable = True

# Workers' heartbeats are times of a file that must be in memory, not on a disk that may hang.
_shared_memory = "/dev/shm"  # noqa: S108 (gunicorn makes its files there safely)
worker_tmp_dir = os.environ.get("RUNTIME_DIRECTORY") or (
    _shared_memory if os.access(_shared_memory, os.W_OK) else None
)

# Before the application is imported: where its workers add their figures up.
_metrics_folder = tempfile.mkdtemp(prefix="timestamp-metrics-", dir=worker_tmp_dir)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folder


def child_exit(_server: Any, worker: Any) -> None:
    """Forget the gauges of a worker that has ended; what it counted stays."""
    # Not before the folder is named.
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Any) -> None:
    """Notify systemd that the master ends, whatever the reason."""
    systemd.from_environment(os.environ).stopping()
    shutil.rmtree(_metrics_folder, ignore_errors=True)
    # Else gunicorn exits with 0 after SIGTERM.
    if ending.exit_code():
        sys.exit(ending.exit_code())
