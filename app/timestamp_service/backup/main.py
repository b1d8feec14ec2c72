"""The processes of backup and restore: `timestamp-backup` and `timestamp-restore`."""

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException

from timestamp_service import settings
from timestamp_service.backup import files, manifest, restoring, saving
from timestamp_service.backup.manifest import BackupError
from timestamp_service.backup.restoring import RestoreError
from timestamp_service.kafka.partitions import PartitionsError
from timestamp_service.kafka.topic import StoppedError, Topic, TopicError, open_topics
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.start import EXIT_BAD_SETTING, begin_job

_PROGRESS_SECONDS = 2.0


def backup() -> None:
    """Save the messages that the backup does not have yet. Exit 0 when they are saved, and after SIGTERM.

    With `--verify FOLDER`: read the backup in that folder, without Kafka, and exit 0 when it is complete.
    """
    parser = argparse.ArgumentParser(prog="timestamp-backup")
    parser.add_argument(
        "--verify", type=Path, metavar="FOLDER", help="save nothing; check that a backup is complete"
    )
    folder = parser.parse_args().verify
    if folder is not None:
        sys.exit(verify(folder))
    config, log, stopped, on_progress = _begin("timestamp-backup")

    def work(topics: list[Topic]) -> None:
        saved = saving.save(Path(config.folder), topics, on_progress)
        log.info(
            "saved",
            messages=saved.messages,
            files=len(saved.files),
            bytes=sum(file.bytes for file in saved.files),
            messages_in_all=saved.total,
        )

    sys.exit(_run(config, "timestamp-backup", log, stopped, work, "backup_failed"))


def restore() -> None:
    """Restore a backup to empty topics, or continue an interrupted restore.

    Exit 0 when everything is restored and compared. When it logs `refused`, nothing was changed.
    """
    config, log, stopped, on_progress = _begin("timestamp-restore")

    def work(topics: list[Topic]) -> None:
        started = time.monotonic()
        try:
            plan = restoring.check(Path(config.folder), topics)
        except (BackupError, TopicError) as error:
            log.error("refused", message=str(error))
            sys.exit(1)
        count = restoring.restore(Path(config.folder), plan, config.kafka, topics, stopped, on_progress)
        log.info("restored", messages=count, seconds=round(time.monotonic() - started, 3))

    sys.exit(_run(config, "timestamp-restore", log, stopped, work, "restore_failed"))


def verify(folder: Path) -> int:
    """Read a whole backup and log what is wrong with it; return 0 when nothing is, else 1."""
    log = Log("timestamp-backup", logging.INFO)
    try:
        known = manifest.read(folder)
    except BackupError as error:
        log.error("damaged", message=str(error))
        return 1
    if known is None:
        log.error("damaged", message=manifest.missing(folder))
        return 1
    damages = manifest.damages(folder, known.files)
    if not damages:
        for file in known.files:
            try:
                for _ in files.read(folder, file):
                    pass
            except BackupError as error:
                damages.append(str(error))
    for damage in damages:
        log.error("damaged", message=damage)
    if not damages:
        log.info(
            "verified",
            messages=sum(file.next - file.first for file in known.files),
            files=len(known.files),
            bytes=sum(file.bytes for file in known.files),
            next_offsets={topic: list(known.next_offsets(topic).values()) for topic in known.topics},
        )
    return int(bool(damages))


def _begin(
    service: str,
) -> tuple[settings.Backup, Log, Callable[[], bool], Callable[[str], None]]:
    config, log, stop, notifier = begin_job(service, settings.read_backup)
    log.info("started", topic=config.topic, folder=config.folder)
    reported_at = float("-inf")

    def on_progress(text: str) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at > _PROGRESS_SECONDS:
            reported_at = time.monotonic()
            notifier.status(text)
            log.info("progress", message=text)

    return config, log, stop.is_set, on_progress


def _run(
    config: settings.Backup,
    client: str,
    log: Log,
    stopped: Callable[[], bool],
    work: Callable[[list[Topic]], None],
    failed: str,
) -> int:
    try:
        names = config.topic, config.dead_letter_topic
        with open_topics(config.kafka, names, client, log, stopped) as topics:
            topics[0].require_partitions(config.partitions)
            work(topics)
        return 0
    except StoppedError:
        log.warning("cancelled")
        return 0
    except PartitionsError as error:
        log.error("wrong_partitions", message=str(error))
        return EXIT_BAD_SETTING
    except (BackupError, RestoreError, TopicError) as error:
        log.error(failed, message=str(error))
    except KafkaException as error:
        log.error(failed, message=f"Kafka: {error.args[0].str()}")
    except OSError as error:
        log.error(failed, message=f"{error.filename or config.folder}: {error.strerror}")
    except Exception as error:
        log.error("unexpected_error", exception="".join(traceback.format_exception(error)))
    return 1
