"""How every process starts: its settings are right, or it ends with one line that says what is not."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from timestamp_service import settings
from timestamp_service.runtime import logs, systemd
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier

# EX_CONFIG of sysexits.h. The units do not restart a process that ends with it.
EXIT_BAD_SETTING = 78

Settings = TypeVar("Settings")


class _Logging(Protocol):
    @property
    def log_level(self) -> int: ...


LoggingSettings = TypeVar("LoggingSettings", bound=_Logging)


def read_settings(service: str, read: Callable[[settings.Environment], Settings]) -> Settings:
    """Return the settings of `service`, or end the process with one line that names the bad one."""
    try:
        return read(os.environ)
    except settings.SettingError as error:
        Log(service, logging.INFO).error("bad_setting", setting=error.name, message=str(error))
        sys.exit(EXIT_BAD_SETTING)


def begin_job(
    service: str, read: Callable[[settings.Environment], LoggingSettings]
) -> tuple[LoggingSettings, Log, threading.Event, Notifier]:
    """Begin a job, a process that does one thing and ends: return its settings, log, stop event and notifier.

    SIGTERM and SIGINT set the event. systemd is notified that the job has started.
    """
    config = read_settings(service, read)
    log = Log(service, config.log_level)
    logs.take_over_libraries(log)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    notifier = systemd.from_environment(os.environ)
    notifier.ready()
    return config, log, stop, notifier
