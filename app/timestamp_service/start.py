"""How every process starts: its settings are right, or it ends with one line that says what is not."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

from timestamp_service import logs, settings
from timestamp_service.logs import Log

# EX_CONFIG of sysexits.h. The units do not restart a process that ends with it.
EXIT_BAD_SETTING = 78

Settings = TypeVar("Settings")


def read_settings(service: str, read: Callable[[settings.Environment], Settings]) -> Settings:
    """Return the settings of `service`, or end the process with one line that names the bad one."""
    try:
        return read(os.environ)
    except settings.SettingError as error:
        Log(service, logs.LEVELS["info"]).error("bad_setting", setting=error.name, message=str(error))
        sys.exit(EXIT_BAD_SETTING)
