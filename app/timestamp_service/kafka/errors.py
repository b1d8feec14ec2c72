"""What a Kafka client reports on its own: in the log now and then, and whether it can go on."""

from confluent_kafka import KafkaError

from timestamp_service.runtime.logs import Log, RateLimitedLog


class KafkaErrors:
    """Takes the errors of one client."""

    def __init__(self, log: Log) -> None:
        """Write by `log`."""
        self._repeated = RateLimitedLog(log)

    def report(self, error: KafkaError, event: str = "kafka_error") -> bool:
        """Log `error` unless it goes on; tell whether the client that reports it can do no more."""
        self._repeated.warning(event, error.name(), error=error.str(), name=error.name())
        # An error that is reported by its callback does not have the mark, but this code.
        return bool(error.fatal()) or error.code() == KafkaError._FATAL
