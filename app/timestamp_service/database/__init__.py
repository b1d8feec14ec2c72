"""PostgreSQL, as every process that uses it sees it: connections, the table of records, and errors."""
