"""The topic: its messages, its dead letters, and the errors of its brokers."""
