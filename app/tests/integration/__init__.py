"""Tests with a real Kafka broker and a real PostgreSQL server, as processes on loopback."""
