"""The consumer's loop: it polls, collects batches, and hands them to the writer.

While one batch is written, the next one is collected. An offset is stored, and then committed (twice a second
and at the end), only once its message is written or acknowledged as a dead letter.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from timestamp_service import settings
from timestamp_service.consumer.batch import Batch
from timestamp_service.consumer.projection import Projection
from timestamp_service.consumer.stall import Stall
from timestamp_service.consumer.state import State
from timestamp_service.consumer.writer import Writer
from timestamp_service.kafka import partitions
from timestamp_service.kafka.errors import KafkaErrors
from timestamp_service.kafka.statistics import FORGOTTEN, Brokers
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier

# How long one turn of the loop waits for messages, and for a batch that is being written.
_POLL_SECONDS = 0.2
_WRITE_POLL_SECONDS = 0.05
# A batch that takes longer has met an outage: fetching stops, polling continues.
_PAUSE_SECONDS = 1.0
# How often the database is asked when there is nothing to write, for the readiness.
_PING_SECONDS = 2.0
# How long to wait at the end for a batch that is being written.
_FINISH_SECONDS = 20.0
# We are stuck when an answer of the database is overdue for this long, although its connection was severed.
_STUCK_SECONDS = 15.0
# And when Kafka, which answers, has refused dead letters for this long. Waiting for Kafka is not being stuck.
_REFUSED_SECONDS = 60.0
# Leaving the group takes no longer than the session timeout.
_CLOSE_SECONDS = 12.0
# Giving the partitions up takes a commit.
_LEAVE_SECONDS = 3.0
# Two processes with one group.instance.id would exclude each other all the time.
_REPLACE_SECONDS = 1.0
# How long to wait for the number of partitions, and when to ask again.
_METADATA_SECONDS = 1.0
_METADATA_AGAIN_SECONDS = 2.0
# A batch gathers no more from this size on, however few messages it has. It may exceed it by as much as the
# library's queue holds, which is added at once.
_BATCH_BYTES = 16 * 1024 * 1024
_FETCH_BYTES = 16 * 1024 * 1024


class LostError(Exception):
    """The consumer is unusable; a new one can continue."""


class Loop:
    """Consumes the topic until it is stopped."""

    def __init__(
        self,
        config: settings.Consumer,
        writer: Writer,
        projection: Projection,
        state: State,
        notifier: Notifier,
        log: Log,
        connect: Callable[[dict[str, Any]], Consumer] = Consumer,
        admin: Callable[[dict[str, Any]], AdminClient] = AdminClient,
    ) -> None:
        """Read as `config` says; `writer` writes to `projection`; the last two take librdkafka's settings."""
        self._topic = config.topic
        self._partitions_expected = config.partitions
        # When (monotonic) to ask for their number; None: it is known.
        self._partitions_due: float | None = None
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
        # The partitions that are not fetched until the batch that is being written is.
        self._paused: set[int] = set()
        self._last_fed = 0.0
        self._lost: str | None = None
        self._stall = Stall(lambda: admin(config.kafka.client()), log)
        self._config = config
        self._connect = connect
        self._consumer = self._new_consumer()

    def stop(self) -> None:
        """Make `run` finish the batch that is being written and return. May be called by a signal handler."""
        self._stop.set()

    def run(self) -> bool:
        """Consume until stopped; then finish the batch, commit and leave the group.

        Returns False when the broker keeps us from leaving: the library's threads never end then. Raises
        PartitionsError, after the same end.
        """
        try:
            while not self._stop.is_set():
                try:
                    self._subscribe()
                    while not self._stop.is_set():
                        self._turn()
                except LostError as error:
                    self._log.error("consumer_lost", error=str(error))
                    self._replace_consumer()
        finally:
            closed = self._finish()
        return closed

    def _new_consumer(self) -> Consumer:
        self._brokers = Brokers()
        return self._connect(
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
                # By the next one a member learns that it gets the partitions of one that has left.
                "heartbeat.interval.ms": 1_000,
                "partition.assignment.strategy": "cooperative-sticky",
                # We store the offsets of what is written, and the library commits them.
                "enable.auto.offset.store": False,
                "enable.auto.commit": True,
                "auto.commit.interval.ms": 500,
                "fetch.error.backoff.ms": 100,
                "fetch.queue.backoff.ms": 10,
                # Both bound the memory: the queue may exceed its limit by one answer of a broker.
                "queued.max.messages.kbytes": _FETCH_BYTES // 1024,
                "fetch.max.bytes": _FETCH_BYTES,
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

    def _replace_consumer(self) -> None:
        """Replace an unusable consumer by a new one, which continues after the committed offsets."""
        self._state.joined = False
        if self._writing is not None:
            self._writing[0].next_offsets.clear()
        self._batch = Batch()
        self._paused = set()
        if not self._close():
            raise RuntimeError("the lost consumer does not close: only a new process can continue")
        self._stop.wait(_REPLACE_SECONDS)
        self._lost = None
        self._consumer = self._new_consumer()

    def _turn(self) -> None:
        self._watch_writer()
        self._feed_watchdog()
        if self._lost is not None:
            raise LostError(self._lost)
        self._check_partitions()
        self._check_stall()
        self._settle()
        self._state.oldest_ms = (self._batch if self._writing is None else self._writing[0]).oldest_ms
        if self._writing is None and (self._batch.count or self._writer.idle_seconds() > _PING_SECONDS):
            self._start_writing()
        if self._writing is None or not self._batch.count:
            self._gather(_POLL_SECONDS)
            return
        # The batch is written soon, and then the next one must be handed over without delay.
        _, future, since = self._writing
        if time.monotonic() - since > _PAUSE_SECONDS:
            self._pause()
            self._gather(_POLL_SECONDS)
            return
        if self._batch.count < self._batch_max and self._batch.bytes < _BATCH_BYTES:
            self._gather(0)
        wait([future], _WRITE_POLL_SECONDS)

    def _check_partitions(self) -> None:
        """After each assignment, which follows each change of their number. Raises PartitionsError."""
        if self._partitions_due is None or time.monotonic() < self._partitions_due:
            return
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=_METADATA_SECONDS)
            number = partitions.number(metadata, self._topic)
        except KafkaException as error:
            number = None
            self._log.debug("kafka_does_not_answer", error=str(error))
        if number is None:
            self._partitions_due = time.monotonic() + _METADATA_AGAIN_SECONDS
            return
        partitions.require(self._topic, number, self._partitions_expected)
        self._partitions_due = None
        self._state.joined = True

    def _check_stall(self) -> None:
        """Raise LostError when messages of a partition wait and none comes: a new consumer may read them."""
        partitions = self._stall.check(self._consumer, paused=bool(self._paused))
        if partitions:
            raise LostError(f"nothing is read of partitions {partitions}, though messages wait there")

    def _gather(self, seconds: float) -> None:
        """Add the messages that have arrived, waiting up to `seconds` for the first one."""
        try:
            message = self._consumer.poll(seconds)
            if message is None:
                return
            self._add([message])
            room = self._batch_max - self._batch.count
            if room > 0:
                self._add(self._consumer.consume(room, 0))
        except KafkaException as error:
            self._on_error(error.args[0])

    def _add(self, added: list[Message]) -> None:
        self._batch.add([message for message in added if message.error() is None])
        for message in added:
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
                # Another consumer has the partition now and writes these rows again, which changes nothing.
                self._log.warning("offset_not_stored", partition=partition, error=str(error))

    def _pause(self) -> None:
        """Stop fetching what cannot be written. Polling continues: it keeps us in the group."""
        assigned = self._consumer.assignment()
        if assigned and not self._paused:
            self._log.warning("paused", partitions=len(assigned))
        # At each turn, as partitions may have been added.
        self._consumer.pause(assigned)
        self._paused |= {partition.partition for partition in assigned}

    def _resume(self) -> None:
        """Fetch again what was paused: also partitions that were lost, which stay paused in the library."""
        if self._paused:
            self._consumer.resume([TopicPartition(self._topic, partition) for partition in self._paused])
            self._paused = set()
            self._log.info("resumed")

    def _watch_writer(self) -> None:
        if self._projection.overdue_seconds() > 0:
            self._projection.sever()

    def _feed_watchdog(self) -> None:
        every = self._notifier.watchdog_seconds
        now = time.monotonic()
        if every is None or now - self._last_fed < every / 3:
            return
        if (
            self._projection.overdue_seconds() < _STUCK_SECONDS
            and self._state.refused_seconds() < _REFUSED_SECONDS
        ):
            self._last_fed = now
            self._notifier.progress()

    def _finish(self) -> bool:
        if not self._state.database_answers or self._state.dead_letters_wait:
            self._writer.stop()
        deadline = time.monotonic() + _FINISH_SECONDS
        while self._writing is not None and time.monotonic() < deadline:
            wait([self._writing[1]], _WRITE_POLL_SECONDS)
            self._watch_writer()
            self._feed_watchdog()
            self._settle()
        self._projection.sever()
        self._writer.close()
        self._leave()
        return self._close()

    def _leave(self) -> None:
        """Give the partitions up at once, if this process is not soon followed by the next one.

        A member with a name stays in its group when it ends, and after the session timeout the others get its
        partitions. The library lets it leave only while it goes on (rd_kafka_cgrp_leave_maybe in its source).
        """
        file = self._config.leave_file
        if file is None or not Path(file).exists():
            return
        deadline = time.monotonic() + _LEAVE_SECONDS
        try:
            self._consumer.unsubscribe()
            # It has left once it is no member any more. What comes meanwhile is read by the next owner.
            while self._consumer.memberid() and time.monotonic() < deadline:
                self._consumer.poll(_WRITE_POLL_SECONDS)
        except KafkaException as error:
            self._errors.report(error.args[0])
        self._log.info("left_the_group")

    def _close(self) -> bool:
        """Leave the group; return whether that succeeded.

        It may block for ever when the broker hangs during a commit (librdkafka, issue 3740).
        """
        closing = threading.Thread(target=self._consumer.close, name="close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)
        return not closing.is_alive()

    def _on_assign(self, _consumer: Consumer, assigned: list[TopicPartition]) -> None:
        # We have joined once their number is known to be right.
        self._partitions_due = 0.0
        self._log.info("assigned", partitions=sorted(partition.partition for partition in assigned))

    def _on_revoke(self, _consumer: Consumer, revoked: list[TopicPartition]) -> None:
        # Usually the batch is written in a moment; then the next owner need not write it again.
        if self._writing is not None:
            wait([self._writing[1]], _PAUSE_SECONDS)
            self._settle()
        self._forget(revoked)
        self._log.info("revoked", partitions=sorted(partition.partition for partition in revoked))

    def _on_lost(self, _consumer: Consumer, lost: list[TopicPartition]) -> None:
        self._state.joined = False
        self._forget(lost)
        self._log.warning("lost", partitions=sorted(partition.partition for partition in lost))

    def _forget(self, given_up: list[TopicPartition]) -> None:
        """Store no offsets of partitions that have another owner now. To write their rows does no harm."""
        batches = [self._batch] if self._writing is None else [self._batch, self._writing[0]]
        for batch in batches:
            for partition in given_up:
                batch.next_offsets.pop(partition.partition, None)

    def _on_statistics(self, text: str) -> None:
        statistics = json.loads(text)
        self._state.update(statistics, self._topic)
        if self._brokers.forgotten(statistics):
            self._lost = FORGOTTEN

    def _on_error(self, error: KafkaError) -> None:
        if self._errors.report(error):
            # For example a member that was away for so long that the group refuses its commits.
            self._lost = error.str()

    def _on_commit(self, error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
        # _NO_OFFSET: nothing was stored since the last commit.
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            self._errors.report(error, "offsets_not_committed")
