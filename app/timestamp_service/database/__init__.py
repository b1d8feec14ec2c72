"""What both the consumer and the query API know of PostgreSQL."""
