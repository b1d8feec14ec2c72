"""Errors that a Kafka client reports: logged at a limited rate, fatal or not.

Most come by the callback. A fatal one is raised instead (KafkaException), by the call that polls or flushes.
"""

from confluent_kafka import KafkaError

from timestamp_service.runtime.logs import Log, RateLimitedLog


class KafkaErrors:
    """Logs the errors of one client."""

    def __init__(self, log: Log) -> None:
        """Log to `log`."""
        self._repeated = RateLimitedLog(log)

    def report(self, error: KafkaError, event: str = "kafka_error") -> bool:
        """Log `error`, repeated ones at a limited rate; return whether the client is unusable from now on."""
        self._repeated.warning(event, error.name(), error=error.str(), name=error.name())
        # One that a message or a delivery report has is not marked, but has this code.
        return bool(error.fatal()) or error.code() == KafkaError._FATAL
