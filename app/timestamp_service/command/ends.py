"""When the end of a partition passed an offset: since when the record at that offset is there."""

from array import array
from bisect import bisect_right

# Samples of one partition, of 16 bytes each. So many tell the age of a record that waits for days to a tenth
# of it.
_MOST = 128


class Ends:
    """The end of one partition, as it was seen now and then."""

    def __init__(self) -> None:
        """Begin without a sample."""
        # When (monotonic, in s) each end was first seen. Both grow.
        self._times = array("d")
        self._ends = array("q")

    @property
    def last(self) -> int:
        """The newest end, the offset after the last record; 0 before any was seen."""
        return self._ends[-1] if self._ends else 0

    def add(self, now: float, end: int) -> None:
        """Note that the partition ends at `end`."""
        if end < self.last:
            # It is another log: nothing that was known of the old one holds.
            del self._times[:], self._ends[:]
        if not self._ends or end > self.last:
            if len(self._ends) == _MOST:
                self._thin(now)
            self._times.append(now)
            self._ends.append(end)

    def seconds(self, now: float, offset: int) -> float:
        """Return for how long the record at `offset` has been there at least; 0 if it is not.

        It came between two samples, and the later one counts. What was there at the first sample counts from
        that one.
        """
        index = bisect_right(self._ends, offset)
        return now - self._times[index] if index < len(self._times) else 0.0

    def forget(self, offset: int) -> None:
        """Forget what concerns only records before `offset`."""
        count = min(bisect_right(self._ends, offset), len(self._ends) - 1)
        del self._times[: max(count, 0)], self._ends[: max(count, 0)]

    def _thin(self, now: float) -> None:
        """Forget the sample that is missed least, by the error that this makes in the age of a record."""
        times = self._times
        index = min(
            range(1, _MOST - 1), key=lambda one: (times[one + 1] - times[one - 1]) / (now - times[one - 1])
        )
        del self._times[index], self._ends[index]
