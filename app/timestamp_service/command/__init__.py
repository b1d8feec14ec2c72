"""Command API: POST records an instant in the Kafka log."""
