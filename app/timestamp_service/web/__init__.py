"""The HTTP application: what both APIs and the consumer's health port have in common."""
