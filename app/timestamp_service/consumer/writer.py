"""A thread that writes batches, so that the loop can go on polling, without which the group excludes it."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg2

from timestamp_service import correlation
from timestamp_service.consumer.batch import Batch, TracedRecord
from timestamp_service.consumer.projection import Projection
from timestamp_service.consumer.state import State
from timestamp_service.database.errors import reason
from timestamp_service.kafka.dead_letters import DeadLetters, NotDeliveredError
from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log
from timestamp_service.traces.tracer import Tracer

_BACKOFF_SECONDS = (0.2, 5.0)


class Writer:
    """Writes one batch at a time, its dead letters and its records, and retries until both are done."""

    def __init__(
        self,
        projection: Projection,
        dead_letters: DeadLetters,
        state: State,
        log: Log,
        tracer: Tracer | None = None,
    ) -> None:
        """Write to `projection` and `dead_letters`; report to `tracer` where there is one."""
        self._projection = projection
        self._dead_letters = dead_letters
        self._state = state
        self._log = log
        self._tracer = tracer
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "writer")
        self._last_answer = 0.0

    def submit(self, batch: Batch) -> "Future[bool]":
        """Write `batch`; the future is True once it is written, and False if `stop` came before that."""
        return self._pool.submit(self._persist, batch)

    def idle_seconds(self) -> float:
        """Return for how many seconds the database has not been asked."""
        return time.monotonic() - self._last_answer

    def stop(self) -> None:
        """Retry nothing from now on."""
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
                self._state.dead_letters_not_written(refused=not error.passing)
                self._log.warning("dead_letters_not_delivered", error=str(error), retry_seconds=delay)
            if self._stop.wait(delay):
                return False
            delay = min(delay * 2, _BACKOFF_SECONDS[1])

    def _write(self, batch: Batch) -> None:
        started = time.perf_counter()
        self._dead_letters.send(batch.bad)
        self._state.dead_letters_written()
        records = list(batch.records.values())
        written = 0
        if batch.count:
            written = self._projection.write(records, batch.spans())
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
            traced = correlation.from_kafka(message.headers)
            self._log.error(
                "dead_letter",
                correlationId=traced.identifier if traced else None,
                error=message.error,
                partition=message.partition,
                offset=message.offset,
            )
        if self._tracer is not None:
            self._tracer.consumed((record.correlation for record in records), seconds)
        self._log.each("recorded", [_members(record) for record in records])
        self._log.info(
            "batch",
            messages=batch.count,
            written=written,
            duplicates=duplicates,
            dead_letters=len(batch.bad),
            seconds=seconds,
        )


def _members(record: TracedRecord) -> str:
    traced = record.correlation
    if traced is None:
        return f'"command_id":"{record.identifier}"'
    if traced.traceparent is None:
        return f'"correlationId":"{traced.identifier}","command_id":"{record.identifier}"'
    return (
        f'"correlationId":"{traced.identifier}","traceparent":"{traced.traceparent}",'
        f'"command_id":"{record.identifier}"'
    )
