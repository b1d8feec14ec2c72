"""Consumer: projects the Kafka log into PostgreSQL."""
