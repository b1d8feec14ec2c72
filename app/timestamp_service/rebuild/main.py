"""The process of a rebuild: `timestamp-rebuild`."""

import sys
import threading
import time
import traceback

import psycopg2

from timestamp_service import settings
from timestamp_service.database.errors import reason
from timestamp_service.kafka.partitions import PartitionsError
from timestamp_service.kafka.topic import StoppedError, TopicError, open_topics
from timestamp_service.rebuild.dead_letter_index import DeadLetterIndex
from timestamp_service.rebuild.progress import Progress
from timestamp_service.rebuild.rebuilding import RebuildError, Rebuilding
from timestamp_service.rebuild.table import NEW, BusyError, Table
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.start import EXIT_BAD_SETTING, begin_job

SERVICE = "timestamp-rebuild"


def main() -> None:
    """Rebuild the table from the log. Exit 0 when the new table is in use, and after SIGTERM."""
    config, log, stop, notifier = begin_job(SERVICE, settings.read_rebuild)
    sys.exit(_run(config, log, Progress(log, notifier), stop))


def _run(config: settings.Rebuild, log: Log, progress: Progress, stop: threading.Event) -> int:
    started = time.monotonic()
    log.info("started", topic=config.topic, strict=config.strict)
    table: Table | None = None
    try:
        names = config.topic, config.dead_letter_topic
        with open_topics(config.kafka, names, config.group_id, log, stop.is_set) as (topic, dead_letters):
            topic.require_partitions(config.partitions)
            table = Table(config.database)
            index = DeadLetterIndex(dead_letters)
            rebuilding = Rebuilding(config, topic, index, table, log, progress, stop.is_set)
            rebuilt = rebuilding.run()
            seconds = time.monotonic() - started
            log.info(
                "rebuilt",
                **rebuilt.proof.fields(),
                seconds=round(seconds, 3),
                writers_held_seconds=round(rebuilt.held_seconds, 3),
            )
            rebuilding.remove_old()
        return 0
    except StoppedError:
        log.warning("cancelled", message="the old table was not replaced")
        return 0
    except PartitionsError as error:
        log.error("wrong_partitions", message=str(error))
        return EXIT_BAD_SETTING
    except BusyError:
        log.error("rebuild_failed", message=f"another rebuild is going on: it holds the lock of {NEW}")
    except (RebuildError, TopicError) as error:
        log.error("rebuild_failed", message=str(error))
    except psycopg2.Error as error:
        log.error("rebuild_failed", message=f"PostgreSQL: {reason(error)}. Start the rebuild again.")
    except Exception as error:
        log.error("unexpected_error", exception="".join(traceback.format_exception(error)))
    finally:
        if table is not None:
            table.close()
    return 1


if __name__ == "__main__":
    main()
