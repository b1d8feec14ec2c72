"""The consumer's process: `timestamp-consumer`."""

import gc
import os
import signal
import sys
import traceback

from timestamp_service import settings
from timestamp_service.consumer.health import HealthBackend
from timestamp_service.consumer.loop import Loop
from timestamp_service.consumer.projection import Projection
from timestamp_service.consumer.state import State
from timestamp_service.consumer.writer import Writer
from timestamp_service.kafka.dead_letters import DeadLetters
from timestamp_service.kafka.partitions import PartitionsError
from timestamp_service.runtime import logs, systemd
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.start import EXIT_BAD_SETTING, read_settings
from timestamp_service.server.thread import HealthServer
from timestamp_service.traces import tracer as tracing
from timestamp_service.traces.nginx import NginxLines
from timestamp_service.web.app import make_app

SERVICE = "timestamp-consumer"

# A batch is tens of thousands of objects without a reference cycle: searching for cycles after every 700 new
# objects, the default, takes a tenth of the time.
_GARBAGE_OBJECTS = 100_000


def main() -> None:
    """Project the log into the database until SIGTERM, and exit 0 then."""
    config = read_settings(SERVICE, settings.read_consumer)
    log = Log(SERVICE, config.server.log_level)
    logs.take_over_libraries(log)
    notifier = systemd.from_environment(os.environ)
    state = State()
    tracer = tracing.of(SERVICE, config.traces, log)
    try:
        health = HealthServer(config.server.port, make_app(HealthBackend(state), {}, log, notifier, tracer))
    except OSError as error:
        log.error("port_taken", port=config.server.port, message=error.strerror)
        sys.exit(1)
    if tracer is not None and config.nginx_socket is not None:
        try:
            NginxLines(config.nginx_socket, tracer).start()
        except OSError as error:
            log.error(
                "bad_setting", setting="TRACES_NGINX_SOCKET", message=f"cannot be made: {error.strerror}"
            )
            sys.exit(EXIT_BAD_SETTING)
    projection = Projection(config.database, log)
    dead_letters = DeadLetters(config.kafka, config.dead_letter_topic, log)
    writer = Writer(projection, dead_letters, state, log, tracer)
    loop = Loop(config, writer, projection, state, notifier, log)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: loop.stop())
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
    health.start()
    log.info("started", topic=config.topic, group_id=config.group_id)
    code, ended = 0, False
    try:
        ended = loop.run()
    except PartitionsError as error:
        log.error("wrong_partitions", message=str(error))
        notifier.stopping()
        health.stop()
        # Without waiting for threads of the library: see below.
        os._exit(EXIT_BAD_SETTING)
    except Exception as error:
        code = 1
        log.error("unexpected_error", exception="".join(traceback.format_exception(error)))
    notifier.stopping()
    health.stop()
    if not ended:
        log.warning("left_without_the_broker")
        # Python would wait for the library's threads, which wait for the broker. The next process reads again
        # what they have not committed, which changes nothing.
        os._exit(code)


if __name__ == "__main__":
    main()
