"""Publishing to Kafka without a thread of our own: the event loop polls the producer.

A thread that polls and the event loop fight over the interpreter's lock, which costs a third of the
throughput and half of the latency. So, while messages are in flight, the loop itself polls at each turn.
A turn in which nothing new came waits within the library, which learns of an acknowledgement at once: a timer
of the loop comes a millisecond late, and with many in flight all of them would wait for it together.
"""

import asyncio
import json
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from timestamp_service import settings
from timestamp_service.command.acknowledgements import (
    Acknowledgement,
    Deadlines,
    DeliveryCallback,
    NotPublishedError,
)
from timestamp_service.command.failover import Failover
from timestamp_service.kafka import partitions, statistics
from timestamp_service.kafka.errors import KafkaErrors
from timestamp_service.kafka.partitions import PartitionsError
from timestamp_service.runtime import ending, metrics
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.metrics import HistogramBuffer
from timestamp_service.runtime.start import EXIT_BAD_SETTING

# With few in flight, turns of the loop are the fastest way to wait (a thread that sleeps is woken late), but
# once the last acknowledgement is this old they cost too much.
_SPIN_SECONDS = 0.002
_SPIN_MOST = 16
# The loop does nothing but wait for an acknowledgement for so long at most. The library counts milliseconds.
_WAIT_SECONDS = 0.001
# Messages are held while more are on their way, to be sent together, but no longer than this.
_HOLD_SECONDS = 0.005
_IDLE_POLL_SECONDS = 1.0
# Messages of one moment go to one partition: a few large batches cost the broker less than many small ones.
_MOMENTS_PER_SECOND = 200
# A delivery report is due by the acknowledgement's deadline; without one for this much longer, we are stuck.
_STUCK_SECONDS = 15.0
_METADATA_SECONDS = 2.0
# The most messages of one bulk: the queue has room for one bulk beyond what may be in flight.
BULK_MAX = 10_000
# After so many of a bulk the event loop has a turn: about a millisecond.
_BULK_TURN = 500

Headers = list[tuple[str, str | bytes | None]]


class OverloadedError(Exception):
    """Too many messages are in flight; this one was not sent."""


Report = Callable[[KafkaError | None, Message], None]
_Held = tuple[str, bytes, Headers, Report, Acknowledgement]


class Publisher:
    """A producer in the running event loop. Not to be shared by threads, nor made before a fork."""

    def __init__(
        self,
        config: settings.Command,
        log: Log,
        fail: Callable[[], None] | None = None,
        end_service: Callable[[int], bool] = ending.end_service,
    ) -> None:
        """Connect to the brokers of `config`, in the background.

        `fail` is called when no more can be sent, and `end_service` when no process of ours may send.
        """
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._errors = KafkaErrors(log)
        self._fail = fail or _end_process
        self._end_service = end_service
        self._topic = config.topic
        self._partitions_expected = config.partitions
        self._failover_seconds = config.failover_seconds
        self._failover = Failover(self._loop.time, config.acknowledge_seconds, config.failover_seconds)
        self._in_flight_max = config.in_flight_max
        self._partitions: list[int] = []
        self._deadlines = Deadlines(self._loop, self._failover.seconds, self._serve)
        self._held: list[_Held] = []
        self._held_since = 0.0
        self._in_flight = 0
        # Messages of bulks that are being sent.
        self._reserved = 0
        # Messages that came, ever, and by the last turn.
        self._taken = 0
        self._taken_before = 0
        # Delivery reports, ever.
        self._reported = 0
        # Since `measure` was called.
        self._produced = 0
        self._acknowledgement = HistogramBuffer(metrics.ACKNOWLEDGEMENT)
        self._last_report = 0.0
        self._poll_handle: asyncio.Handle | None = None
        self._failed = False
        self._brokers = statistics.Brokers()
        self._producer = Producer(
            {
                **config.kafka.client(),
                "client.id": "timestamp-command",
                "acks": "all",
                "enable.idempotence": True,
                # The broker's own deadline for its replicas ends before ours; until then we stay connected.
                "delivery.timeout.ms": int(config.failover_seconds * 1000),
                "request.timeout.ms": int(config.failover_seconds * 1000),
                "socket.timeout.ms": int(config.failover_seconds * 1000),
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                "retry.backoff.ms": 50,
                "queue.buffering.max.messages": config.in_flight_max + BULK_MAX,
                "statistics.interval.ms": 1_000,
                "stats_cb": self._on_statistics,
                "error_cb": self._on_error,
            }
        )
        self._poll_idle()

    def measure(self) -> None:
        """Update the gauges."""
        metrics.IN_FLIGHT.set(self._in_flight)
        produced, self._produced = self._produced, 0
        metrics.PRODUCED.inc(produced)

    @property
    def in_flight(self) -> int:
        """Messages without a delivery report so far."""
        return self._in_flight

    def publish(self, key: str, value: bytes, headers: Headers, *, by_key: bool) -> asyncio.Future[None]:
        """Send a message; the future ends when all in-sync replicas have it.

        `by_key`: to the partition of the key's hash (murmur2), else to any. Raises NotPublishedError (also
        from the future) and OverloadedError.
        """
        acknowledged: asyncio.Future[None] = self._loop.create_future()
        self._send(key, value, headers, acknowledged, by_key=by_key)
        return acknowledged

    def send(self, key: str, value: bytes, headers: Headers, then: Callable[[bool], None]) -> None:
        """Send a message to any partition, and call `then` with whether it was acknowledged in time.

        `then` may not raise. Raises as `publish` does, and does not call it then.
        """
        self._send(key, value, headers, DeliveryCallback(then), by_key=False)

    def _send(
        self,
        key: str,
        value: bytes,
        headers: Headers,
        acknowledged: Acknowledgement,
        *,
        by_key: bool,
    ) -> None:
        if self._failed or not self._partitions:
            raise NotPublishedError
        if self._in_flight + self._reserved >= self._in_flight_max:
            raise OverloadedError
        now = self._loop.time()

        def report(error: KafkaError | None, _message: Message) -> None:
            self._count(error)
            if acknowledged.done():
                return
            if error is None:
                self._acknowledgement.observe(self._loop.time() - now)
                acknowledged.set_result(None)
            else:
                self._log.warning("not_acknowledged", command_id=key, error=error.str())
                acknowledged.set_exception(NotPublishedError())

        if by_key or not self._in_flight:
            self._produce(key, value, headers, self._partition(by_key), report, now)
        else:
            if not self._held:
                self._held_since = now
            self._held.append((key, value, headers, report, acknowledged))
            self._in_flight += 1
            self._taken += 1
        self._deadlines.expect(acknowledged)

    async def publish_all(
        self, messages: Sequence[tuple[str, bytes]], headers: Headers, *, by_key: bool
    ) -> None:
        """Send up to BULK_MAX messages (key, value), and return when all in-sync replicas have all of them.

        Raises NotPublishedError, after which some may be in the log, and OverloadedError: none was sent.
        """
        if self._failed or not self._partitions:
            raise NotPublishedError
        if not messages:
            return
        # There is room for all of it, or nothing is sent.
        if self._in_flight + self._reserved + len(messages) > self._in_flight_max + BULK_MAX:
            raise OverloadedError
        acknowledged: asyncio.Future[None] = self._loop.create_future()
        left = len(messages)
        started = self._loop.time()

        def report(error: KafkaError | None, _message: Message) -> None:
            nonlocal left
            self._count(error)
            left -= 1
            if acknowledged.done():
                return
            if error is not None:
                self._log.warning("not_acknowledged", error=error.str(), messages=len(messages))
                acknowledged.set_exception(NotPublishedError())
            elif not left:
                self._acknowledgement.observe(self._loop.time() - started)
                acknowledged.set_result(None)

        partition = self._partition(by_key)
        unsent = len(messages)
        self._reserved += unsent
        try:
            for start in range(0, len(messages), _BULK_TURN):
                now, before = self._loop.time(), self._taken
                try:
                    for key, value in messages[start : start + _BULK_TURN]:
                        self._produce(key, value, headers, partition, report, now)
                finally:
                    sent = self._taken - before
                    self._reserved -= sent
                    unsent -= sent
                await asyncio.sleep(0)
        except BaseException as error:
            # Nobody is there to learn how it ends.
            acknowledged.cancel()
            if isinstance(error, OverloadedError) and unsent < len(messages):
                # Room was reserved: it does not come to this. But what is sent may be recorded.
                raise NotPublishedError from None
            raise
        finally:
            self._reserved -= unsent
        self._deadlines.expect(acknowledged)
        await acknowledged

    def _partition(self, by_key: bool) -> int:
        if by_key:
            return -1
        return self._partitions[int(self._loop.time() * _MOMENTS_PER_SECOND) % len(self._partitions)]

    def _produce(
        self,
        key: str,
        value: bytes,
        headers: Headers,
        partition: int,
        report: Report,
        now: float,
    ) -> None:
        try:
            self._producer.produce(
                self._topic, value, key, partition=partition, on_delivery=report, headers=headers
            )
        except BufferError:
            raise OverloadedError from None
        except KafkaException as error:
            self._log.error("not_produced", command_id=key, error=str(error))
            self._on_error(error.args[0])
            raise NotPublishedError from None
        if self._in_flight == 0:
            self._last_report = now
            self._poll_soon()
        self._in_flight += 1
        self._taken += 1
        self._failover.sent()

    def _count(self, error: KafkaError | None) -> None:
        """Count a delivery report."""
        self._in_flight -= 1
        self._reported += 1
        if error is None:
            self._produced += 1
            self._failover.acknowledged(self._in_flight)
        else:
            metrics.FAILED.inc()

    def _release(self) -> None:
        """Send what was held, to one partition: one batch costs us and the broker less than many."""
        held, self._held = self._held, []
        if not held:
            return
        partition, now = self._partition(by_key=False), self._loop.time()
        for key, value, headers, report, acknowledged in held:
            try:
                if not acknowledged.done():
                    self._produce(key, value, headers, partition, report, now)
            except (NotPublishedError, OverloadedError):
                acknowledged.set_exception(NotPublishedError())
            finally:
                # It was counted when it came, and is subtracted only now: at zero, polling would begin again.
                self._in_flight -= 1

    async def check(self) -> str | None:
        """Ask the brokers for the topic; return None when it can be written, else "kafka"."""
        if self._failed:
            return "kafka"
        try:
            # It blocks, but without the interpreter's lock.
            metadata = await self._loop.run_in_executor(None, self._list_topic)
        except KafkaException as error:
            self._log.debug("kafka_does_not_answer", error=str(error))
            # A broker that hangs is asked until the others have taken over.
            return None if self._failover.unanswered() else "kafka"
        self._failover.answered()
        number = partitions.number(metadata, self._topic)
        if number is not None and not self._is_expected(number):
            return "kafka"
        known = [] if number is None else metadata.topics[self._topic].partitions.values()
        led = sorted(partition.id for partition in known if partition.leader >= 0)
        if not led:
            self._log.debug("topic_is_missing", topic=self._topic)
            return "kafka"
        self._partitions = led
        self._failover.replicated = any(len(partition.replicas) > 1 for partition in known)
        # Brokers without a quorum still answer what they knew before.
        return "kafka" if self._in_flight and self._failover.over() else None

    def _is_expected(self, number: int) -> bool:
        try:
            partitions.require(self._topic, number, self._partitions_expected)
        except PartitionsError as error:
            self._failed = True
            if self._end_service(EXIT_BAD_SETTING):
                self._log.error("wrong_partitions", message=str(error))
            return False
        return True

    def _list_topic(self) -> Any:
        return self._producer.list_topics(self._topic, timeout=_METADATA_SECONDS)

    def progressing(self) -> bool:
        """Return whether delivery reports come by the time when they are due."""
        overdue = self._loop.time() - self._last_report - self._failover_seconds
        return self._in_flight == 0 or overdue < _STUCK_SECONDS

    async def close(self) -> None:
        """Wait until what is in flight is acknowledged, or its time is over."""
        self._release()
        self._deadlines.close()
        if self._poll_handle is not None:
            self._poll_handle.cancel()
        try:
            left = await self._loop.run_in_executor(None, self._producer.flush, self._failover_seconds)
        except KafkaException as error:
            self._on_error(error.args[0])
            left = self._in_flight
        if left:
            self._log.error("not_flushed", messages=left)

    def _poll_soon(self) -> None:
        if self._poll_handle is not None:
            self._poll_handle.cancel()
        self._poll_handle = self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        try:
            self._poll_once()
        except Exception as error:
            self._log.error("unexpected_error", exception="".join(traceback.format_exception(error)))
        # Whatever happened: without polling, no request would be answered any more.
        if self._in_flight == 0:
            self._poll_handle = self._loop.call_later(_IDLE_POLL_SECONDS, self._poll_idle)
        else:
            self._poll_handle = self._loop.call_soon(self._poll)

    def _poll_once(self) -> None:
        served = self._take_in(0)
        if not served and self._in_flight and self._taken == self._taken_before:
            served = self._wait()
        self._taken_before = self._taken
        if self._in_flight == 0:
            return
        now = self._loop.time()
        if served:
            self._last_report = now
        held = len(self._held)
        if held and (held >= self._in_flight - held or now - self._held_since > _HOLD_SECONDS):
            self._release()

    def _serve(self) -> int:
        """Take in the acknowledgements that have come; return how many."""
        try:
            served = self._take_in(0)
        except Exception as error:
            # A callback that fails must keep nobody from polling again.
            self._log.error("unexpected_error", exception="".join(traceback.format_exception(error)))
            return 0
        if served:
            self._last_report = self._loop.time()
        return served

    def _wait(self) -> int:
        """Wait for an acknowledgement, unless one is due within a few turns; return how many came."""
        if self._in_flight > _SPIN_MOST:
            # Nothing else comes that could be sent together with it.
            self._release()
        elif self._loop.time() - self._last_report < _SPIN_SECONDS:
            return 0
        return self._take_in(_WAIT_SECONDS)

    def _take_in(self, seconds: float) -> int:
        """Wait up to `seconds` for delivery reports; return how many came."""
        before = self._reported
        try:
            # What it returns counts statistics and errors too.
            self._producer.poll(seconds)
        except KafkaException as error:
            self._on_error(error.args[0])
        return self._reported - before

    def _poll_idle(self) -> None:
        # Errors of the connection are reported by polling too.
        self._serve()
        self._poll_handle = self._loop.call_later(_IDLE_POLL_SECONDS, self._poll_idle)

    def _on_statistics(self, text: str) -> None:
        news = json.loads(text)
        self._failover.connected = statistics.connected(news)
        if self._brokers.forgotten(news):
            self._give_up(statistics.FORGOTTEN)

    def _on_error(self, error: KafkaError) -> None:
        if self._errors.report(error):
            self._give_up(error.str())

    def _give_up(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._log.error("kafka_producer_failed", error=reason)
            self._fail()


def _end_process() -> None:
    # gunicorn puts a new worker in this one's place; what is in flight ends first.
    os.kill(os.getpid(), signal.SIGTERM)
