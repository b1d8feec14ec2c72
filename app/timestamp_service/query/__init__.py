"""Query API: GET reads records back from PostgreSQL."""
