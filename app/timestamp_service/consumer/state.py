"""How the consumer is doing: written by its threads, read by its health port."""

from dataclasses import dataclass


@dataclass(slots=True)
class State:
    """What is known of the dependencies. Each field is set by one thread, and read by any."""

    # Set by the loop.
    joined: bool = False
    brokers_up: bool = False
    # Set by the writer.
    database_answers: bool = False

    def missing(self) -> str | None:
        """Name the dependency that does not answer, or None."""
        if not (self.joined and self.brokers_up):
            return "kafka"
        if not self.database_answers:
            return "database"
        return None
