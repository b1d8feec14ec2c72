"""A rebuild, from its start to the swap of the tables."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from timestamp_service.kafka import messages
from timestamp_service.kafka.dead_letters import BadMessage, DeadLetters, NotDeliveredError
from timestamp_service.kafka.topic import StalledError, StoppedError, Topic, TopicError
from timestamp_service.rebuild.dead_letter_index import DeadLetterIndex, Position
from timestamp_service.rebuild.loading import Loaded, load
from timestamp_service.rebuild.progress import Progress
from timestamp_service.rebuild.proof import Proof
from timestamp_service.rebuild.table import LockedError, SealedTable, Table, Written
from timestamp_service.runtime.logs import Log
from timestamp_service.settings import Rebuild

# Kafka that delivers nothing for this long counts as down; while writers are held, we wait less.
_STALL_SECONDS = 60.0
_STALL_HELD_SECONDS = 10.0
# The swap is tried when the new table is this close to the end of the log.
_NEAR_MESSAGES = 20_000
_SWAP_SECONDS = 300.0
_AGAIN_SECONDS = 1.0
_REMOVE_SECONDS = 60.0
# So many records of the old table that the new one does not have yet are looked at together.
_UNKNOWN_MOST = 10_000


class RebuildError(Exception):
    """The rebuild has failed and the old table is still in use; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A finished rebuild: its proof, and for how many seconds the writers were held."""

    proof: Proof
    held_seconds: float


class Rebuilding:
    """One rebuild. Its calls raise RebuildError, TopicError, StoppedError and psycopg2.Error."""

    def __init__(
        self,
        config: Rebuild,
        topic: Topic,
        dead_letters: DeadLetterIndex,
        table: Table,
        log: Log,
        progress: Progress,
        stopped: Callable[[], bool],
    ) -> None:
        """Load `topic` into `table`, which is new and empty."""
        self._config = config
        self._topic = topic
        self._dead_letters = dead_letters
        self._table = table
        self._log = log
        self._progress = progress
        self._stopped = stopped
        self._begins = _whole(topic)
        self._loaded = Loaded(dict(self._begins))
        self._proved = Written(0, 0)

    def run(self) -> Rebuilt:
        """Load the log, prove the new table, and swap it with the old one."""
        self._catch_up()
        self._require_dead_letters()
        with self._table.sealed() as table:
            self._progress.state("proving")
            # The whole table, for which the writers need not wait.
            self._proved = table.measure()
            self._prove(self._loaded.next_offsets)
            if not self._config.drop_unknown:
                self._require_known(table)
            return self._swap_in_time(table)

    def _swap_in_time(self, table: SealedTable) -> Rebuilt:
        deadline = time.monotonic() + _SWAP_SECONDS
        while True:
            self._catch_up()
            self._proved += table.measure_rest()
            self._require_dead_letters()
            try:
                return self._swap(table)
            except (LockedError, StalledError) as error:
                self._log.warning("swap_postponed", reason=str(error), retry_seconds=_AGAIN_SECONDS)
                if time.monotonic() > deadline:
                    raise RebuildError(
                        f"the tables could not be swapped within {_SWAP_SECONDS:g} s: {error}."
                        " End what holds the table (pg_stat_activity shows it), and start the rebuild again."
                    ) from None
            self._pause()

    def remove_old(self) -> None:
        """Remove the replaced table, once nobody reads it."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        while not self._table.remove_old():
            if self._stopped() or time.monotonic() > deadline:
                self._log.warning(
                    "replaced_table_stays", message="somebody reads it; the next rebuild removes it"
                )
                return

    def _catch_up(self) -> None:
        """Load the log until its end, which keeps moving, is near."""
        while True:
            ends = self._ends()
            done, total = _distance(self._begins, self._loaded.next_offsets), _distance(self._begins, ends)
            self._progress.begin(done, total)
            load(self._topic, self._table, self._loaded, ends, self._progress.add, _STALL_SECONDS)
            if total - done < _NEAR_MESSAGES:
                return

    def _require_known(self, table: SealedTable) -> None:
        """Refuse when the old table has records that the log does not have."""
        while True:
            unknown = table.unknown(_UNKNOWN_MOST)
            # The writers may be ahead of us; what they had written by now is in the log by now.
            self._catch_up()
            self._proved += table.measure_rest()
            missing = table.missing(unknown)
            if missing:
                raise RebuildError(
                    "the table has records that the log does not have, which would be lost, and nothing was"
                    f" swapped: {', '.join(missing[:10])}. Restore the log from its backup, or, if they are"
                    " not true, rebuild with REBUILD_DROP_UNKNOWN=true."
                )
            if len(unknown) < _UNKNOWN_MOST:
                return

    def _swap(self, table: SealedTable) -> Rebuilt:
        self._progress.state("swapping")
        loaded, proved = self._loaded.copy(), self._proved
        try:
            with table.writers_held():
                held_at = time.monotonic()
                # All that the writers have written by now is before these ends.
                ends = self._ends()
                load(self._topic, self._table, self._loaded, ends, lambda _count: None, _STALL_HELD_SECONDS)
                missing = self._without_dead_letter()
                if missing:
                    raise LockedError(f"{_named(missing)} has no dead letter yet")
                self._proved += table.measure_rest()
                proof = self._prove(ends)
                table.count(proof.rows, ends)
                table.exchange(self._stopped)
                return Rebuilt(proof, time.monotonic() - held_at)
        except BaseException:
            self._loaded, self._proved = loaded, proved
            raise

    def _prove(self, ends: dict[int, int]) -> Proof:
        loaded = self._loaded
        proof = Proof(
            messages=_distance(self._begins, ends),
            first=loaded.first,
            duplicates=loaded.duplicates,
            dead_letters=len(loaded.bad),
            log_total=loaded.total,
            rows=self._proved.rows,
            table_total=self._proved.total,
        )
        failures = proof.failures()
        if failures:
            raise RebuildError(
                f"the proof fails, and nothing was swapped: {'; '.join(failures)}."
                " Start the rebuild again; if it fails again, somebody else writes to the new table."
            )
        return proof

    def _require_dead_letters(self) -> None:
        """Wait until the consumer has dead-lettered each bad message; unless strict, do it ourselves."""
        deadline = time.monotonic() + self._config.dead_letters_seconds
        while missing := self._without_dead_letter():
            if not self._config.strict:
                self._send(missing)
                continue
            if time.monotonic() > deadline:
                raise RebuildError(
                    f"strict mode: {_named(missing)} cannot be projected and was never dead-lettered"
                    f" ({self._loaded.bad[missing[0]]}). If the consumer is not running, start it; if this"
                    " release reads less than the one before, go back; else rebuild with"
                    " REBUILD_STRICT=false, which dead-letters such messages."
                )
            self._progress.state("waiting for dead letters")
            self._pause()

    def _without_dead_letter(self) -> list[Position]:
        """Return the positions of the bad messages that have no dead letter yet."""
        if not self._loaded.bad:
            return []
        return sorted(self._loaded.bad.keys() - self._dead_letters.read())

    def _send(self, positions: list[Position]) -> None:
        producer = DeadLetters(self._config.kafka, self._config.dead_letter_topic, self._log)
        for partition, offset in positions:
            for chunk in self._topic.read({partition: offset}, {partition: offset + 1}):
                message = chunk[0]
                bad = BadMessage(
                    message.key(),
                    message.value(),
                    messages.headers(message),
                    self._loaded.bad[partition, offset],
                    partition,
                    offset,
                )
                try:
                    producer.send([bad])
                except NotDeliveredError as error:
                    raise RebuildError(
                        f"a dead letter was not delivered: {error}. Start the rebuild again."
                    ) from None
                self._log.error("dead_letter", error=bad.error, partition=partition, offset=offset)
        producer.close()

    def _ends(self) -> dict[int, int]:
        return {partition: end for partition, (_, end) in self._topic.spans().items()}

    def _pause(self) -> None:
        end = time.monotonic() + _AGAIN_SECONDS
        while time.monotonic() < end:
            if self._stopped():
                raise StoppedError
            time.sleep(0.1)


def _whole(topic: Topic) -> dict[int, int]:
    """Return the first offset of each partition, which must be 0. Raises TopicError."""
    begins = {partition: begin for partition, (begin, _) in topic.spans().items()}
    cut = {partition: begin for partition, begin in begins.items() if begin > 0}
    if cut:
        partition, begin = min(cut.items())
        raise TopicError(
            f"the log is not whole: {topic.name}[{partition}] begins at offset {begin}, and what was before"
            " would be lost. Restore the log from its backup first."
        )
    return begins


def _distance(begins: dict[int, int], ends: dict[int, int]) -> int:
    return sum(ends[partition] - begin for partition, begin in begins.items())


def _named(positions: list[Position]) -> str:
    partition, offset = positions[0]
    more = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
    return f"the message at partition {partition}, offset {offset}{more}"
