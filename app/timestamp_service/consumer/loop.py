"""The consumer's loop: it polls, gathers batches, and hands them to the writer.

While one batch is written, the next one is gathered. An offset is stored (and with that committed, twice
a second and at the end) only once its message is written or acknowledged as a dead letter.
"""

import json
import threading
import time
from concurrent.futures import Future, wait

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from timestamp_service import settings
from timestamp_service.consumer.batch import Batch
from timestamp_service.consumer.projection import Projection
from timestamp_service.consumer.state import State
from timestamp_service.consumer.writer import Writer
from timestamp_service.kafka.errors import KafkaErrors
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier

# How long a turn waits for messages, and for a batch that is being written.
_POLL_SECONDS = 0.2
_WRITE_POLL_SECONDS = 0.05
# A writer that is busy for longer has met an outage: fetching stops, polling goes on.
_PAUSE_SECONDS = 1.0
# The database is asked this often when there is nothing to write, for the readiness.
_PING_SECONDS = 2.0
# How long the end may wait for a batch that is being written.
_FINISH_SECONDS = 20.0
# An answer of the database that is this much overdue, though its connection was severed: we are stuck.
_STUCK_SECONDS = 15.0
# Leaving the group takes no longer than its patience with a member.
_CLOSE_SECONDS = 12.0
# Two processes that were given one place in the group would take it from each other all the time.
_ANEW_SECONDS = 1.0


class LostError(Exception):
    """The consumer cannot go on; a new one can."""


class Loop:
    """Takes messages from the topic for as long as it is not stopped."""

    def __init__(
        self,
        config: settings.Consumer,
        writer: Writer,
        projection: Projection,
        state: State,
        notifier: Notifier,
        log: Log,
    ) -> None:
        """Read as `config` says; `writer` writes to `projection`."""
        self._topic = config.topic
        self._batch_max = config.batch_max
        self._writer = writer
        self._projection = projection
        self._state = state
        self._notifier = notifier
        self._log = log
        self._errors = KafkaErrors(log)
        self._stop = threading.Event()
        self._batch = Batch()
        self._writing: tuple[Batch, Future[bool], float] | None = None
        self._paused = False
        self._last_told = 0.0
        self._lost: KafkaError | None = None
        self._config = config
        self._consumer = self._new_consumer()

    def stop(self) -> None:
        """Ask for the end: the batch that is being written is finished. May be called by a signal."""
        self._stop.set()

    def run(self) -> bool:
        """Go round until stopped; then finish the batch, commit and leave.

        Returns False when the broker does not let go: the library's threads never end by themselves then.
        """
        try:
            while not self._stop.is_set():
                try:
                    self._subscribe()
                    while not self._stop.is_set():
                        self._turn()
                except LostError as error:
                    self._log.error("consumer_lost", error=str(error))
                    self._begin_anew()
        finally:
            closed = self._finish()
        return closed

    def _new_consumer(self) -> Consumer:
        return Consumer(
            {
                **self._config.kafka.client(),
                **(
                    {"group.instance.id": self._config.group_instance_id}
                    if self._config.group_instance_id
                    else {}
                ),
                "client.id": "timestamp-consumer",
                "group.id": self._config.group_id,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 3_000,
                "partition.assignment.strategy": "cooperative-sticky",
                # What is stored is committed by the library; we store what is written.
                "enable.auto.offset.store": False,
                "enable.auto.commit": True,
                "auto.commit.interval.ms": 500,
                # A topic that is made after us is found soon.
                "topic.metadata.refresh.interval.ms": 5_000,
                "fetch.error.backoff.ms": 100,
                "fetch.queue.backoff.ms": 10,
                "queued.max.messages.kbytes": 16_384,
                "statistics.interval.ms": 1_000,
                "stats_cb": self._on_statistics,
                "error_cb": self._on_error,
                "on_commit": self._on_commit,
            }
        )

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _begin_anew(self) -> None:
        """Put a new consumer in the place of one that cannot go on; it begins after what is committed."""
        self._state.joined = False
        if self._writing is not None:
            self._writing[0].next_offsets.clear()
        self._batch = Batch()
        self._paused = False
        if not self._close():
            raise RuntimeError("the lost consumer does not end: only a new process can go on")
        self._stop.wait(_ANEW_SECONDS)
        self._lost = None
        self._consumer = self._new_consumer()

    def _turn(self) -> None:
        self._watch_writer()
        self._tell_progress()
        if self._lost is not None:
            raise LostError(self._lost.str())
        self._settle()
        self._state.oldest_ms = (self._batch if self._writing is None else self._writing[0]).oldest_ms
        if self._writing is None and (self._batch.count or self._writer.idle_seconds() > _PING_SECONDS):
            self._start_writing()
        if self._writing is None or not self._batch.count:
            self._gather(_POLL_SECONDS)
            return
        # What is being written ends soon, and then it is the next batch's turn: that must not be missed.
        _, future, since = self._writing
        if time.monotonic() - since > _PAUSE_SECONDS:
            self._pause()
            self._gather(_POLL_SECONDS)
            return
        if self._batch.count < self._batch_max:
            self._gather(0)
        wait([future], _WRITE_POLL_SECONDS)

    def _gather(self, seconds: float) -> None:
        """Take what has come, waiting up to `seconds` for the first message."""
        message = self._consumer.poll(seconds)
        if message is None:
            return
        self._take([message])
        room = self._batch_max - self._batch.count
        if room > 0:
            self._take(self._consumer.consume(room, 0))

    def _take(self, taken: list[Message]) -> None:
        self._batch.take([message for message in taken if message.error() is None])
        for message in taken:
            error = message.error()
            if error is not None:
                self._on_error(error)

    def _start_writing(self) -> None:
        batch, self._batch = self._batch, Batch()
        self._writing = batch, self._writer.submit(batch), time.monotonic()

    def _settle(self) -> None:
        """Store the offsets of a batch that is written."""
        if self._writing is None or not self._writing[1].done():
            return
        batch, future, _ = self._writing
        self._writing = None
        if future.result():
            self._store(batch)
            if batch.count:
                self._state.progress_at = time.monotonic()
        self._resume()

    def _store(self, batch: Batch) -> None:
        for partition, offset in batch.next_offsets.items():
            try:
                self._consumer.store_offsets(offsets=[TopicPartition(self._topic, partition, offset)])
            except KafkaException as error:
                # Another consumer has it now, and writes the same rows again: that changes nothing.
                self._log.warning("offset_not_stored", partition=partition, error=str(error))

    def _pause(self) -> None:
        """Stop fetching what cannot be written. Polling goes on: it keeps our place in the group."""
        assigned = self._consumer.assignment()
        if not self._paused:
            self._log.warning("paused", partitions=len(assigned))
            self._paused = True
        # Again at each turn: partitions may have been added.
        self._consumer.pause(assigned)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())
            self._log.info("resumed")

    def _watch_writer(self) -> None:
        if self._projection.overdue_seconds() > 0:
            self._projection.sever()

    def _tell_progress(self) -> None:
        every = self._notifier.watchdog_seconds
        now = time.monotonic()
        if every is None or now - self._last_told < every / 3:
            return
        if self._projection.overdue_seconds() < _STUCK_SECONDS:
            self._last_told = now
            self._notifier.progress()

    def _finish(self) -> bool:
        if not self._state.database_answers:
            self._writer.stop()
        deadline = time.monotonic() + _FINISH_SECONDS
        while self._writing is not None and time.monotonic() < deadline:
            wait([self._writing[1]], _WRITE_POLL_SECONDS)
            self._watch_writer()
            self._tell_progress()
            self._settle()
        self._projection.sever()
        self._writer.close()
        return self._close()

    def _close(self) -> bool:
        """Leave the group; tell whether that came to an end.

        It may never do when the broker hangs while a commit is on its way (librdkafka, issue 3740).
        """
        closing = threading.Thread(target=self._consumer.close, name="close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)
        return not closing.is_alive()

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._state.joined = True
        self._log.info("assigned", partitions=sorted(partition.partition for partition in partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Most often it is written in a moment; then the next owner need not do it again.
        if self._writing is not None:
            wait([self._writing[1]], _PAUSE_SECONDS)
            self._settle()
        self._forget(partitions)
        self._log.info("revoked", partitions=sorted(partition.partition for partition in partitions))

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._state.joined = False
        self._forget(partitions)
        self._log.warning("lost", partitions=sorted(partition.partition for partition in partitions))

    def _forget(self, partitions: list[TopicPartition]) -> None:
        """Leave the offsets to who has the partitions now. Writing the rows all the same does no harm."""
        batches = [self._batch] if self._writing is None else [self._batch, self._writing[0]]
        for batch in batches:
            for partition in partitions:
                batch.next_offsets.pop(partition.partition, None)

    def _on_statistics(self, text: str) -> None:
        self._state.see(json.loads(text), self._topic)

    def _on_error(self, error: KafkaError) -> None:
        if self._errors.report(error):
            # Such as a member that was away for long: its late commits make the group refuse it.
            self._lost = error

    def _on_commit(self, error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
        # With nothing stored since the last time there is nothing to commit.
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            self._errors.report(error, "offsets_not_committed")
