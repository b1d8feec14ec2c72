"""Records instants in a Kafka log over HTTP, and reads them back from PostgreSQL."""

__version__ = "0.1.0"
