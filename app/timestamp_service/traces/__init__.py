"""Traces: which requests are traced, and their spans on their way to a collector such as Zipkin."""
