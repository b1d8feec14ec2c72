"""A thread that writes batches, so that the loop can go on polling: its place in the group depends on it."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg2

from timestamp_service import correlation
from timestamp_service.consumer.batch import Batch, Row
from timestamp_service.consumer.projection import Projection
from timestamp_service.consumer.state import State
from timestamp_service.database.errors import reason
from timestamp_service.kafka.dead_letters import DeadLetters, NotDeliveredError
from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log

_BACKOFF_SECONDS = (0.2, 5.0)


class Writer:
    """Writes one batch at a time: dead letters and rows, again and again until both are done."""

    def __init__(self, projection: Projection, dead_letters: DeadLetters, state: State, log: Log) -> None:
        """Write to `projection` and `dead_letters`."""
        self._projection = projection
        self._dead_letters = dead_letters
        self._state = state
        self._log = log
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "writer")
        self._last_answer = 0.0

    def submit(self, batch: Batch) -> "Future[bool]":
        """Write `batch`; the future tells whether it was before the end was asked for."""
        return self._pool.submit(self._persist, batch)

    def idle_seconds(self) -> float:
        """Tell for how long the database was not asked."""
        return time.monotonic() - self._last_answer

    def stop(self) -> None:
        """Give up what does not succeed at once."""
        self._stop.set()

    def close(self) -> None:
        """End the thread and close the connections."""
        self._stop.set()
        self._pool.shutdown(wait=True)
        self._projection.close()
        self._dead_letters.close()

    def _persist(self, batch: Batch) -> bool:
        delay = _BACKOFF_SECONDS[0]
        while True:
            try:
                self._write(batch)
                return True
            except psycopg2.Error as error:
                self._state.database_answers = False
                self._log.warning("database_write_failed", error=reason(error), retry_seconds=delay)
            except NotDeliveredError as error:
                self._log.warning("dead_letters_not_delivered", error=str(error), retry_seconds=delay)
            if self._stop.wait(delay):
                return False
            delay = min(delay * 2, _BACKOFF_SECONDS[1])

    def _write(self, batch: Batch) -> None:
        started = time.perf_counter()
        self._dead_letters.send(batch.bad)
        rows = list(batch.rows.values())
        written = 0
        if rows:
            written = self._projection.write(rows)
        else:
            self._projection.prepare()
        self._state.database_answers = True
        self._last_answer = time.monotonic()
        if not batch.count:
            return
        seconds = round(time.perf_counter() - started, 6)
        duplicates = batch.count - len(batch.bad) - written
        metrics.CONSUMED.inc(batch.count)
        metrics.WRITTEN.inc(written)
        metrics.DUPLICATES.inc(duplicates)
        metrics.DEAD_LETTERS.inc(len(batch.bad))
        metrics.BATCH_MESSAGES.observe(batch.count)
        metrics.BATCH_SECONDS.observe(seconds)
        for message in batch.bad:
            found = correlation.from_kafka(message.headers)
            self._log.error(
                "dead_letter",
                correlationId=found.identifier if found else None,
                error=message.error,
                partition=message.partition,
                offset=message.offset,
            )
        self._log.each("recorded", [_members(row) for row in rows])
        self._log.info(
            "batch",
            messages=batch.count,
            written=written,
            duplicates=duplicates,
            dead_letters=len(batch.bad),
            seconds=seconds,
        )


def _members(row: Row) -> str:
    found = row.correlation
    if found is None:
        return f'"command_id":"{row.identifier}"'
    if found.traceparent is None:
        return f'"correlationId":"{found.identifier}","command_id":"{row.identifier}"'
    return (
        f'"correlationId":"{found.identifier}","traceparent":"{found.traceparent}",'
        f'"command_id":"{row.identifier}"'
    )
