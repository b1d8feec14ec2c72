"""What PostgreSQL answers to clients that it must refuse, as JSON; run on a web node by our Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psycopg2

FOLDER = Path("/etc/timestamp-service")
CONSUMER, QUERY = "timestamp_consumer", "timestamp_query"
PASSWORD_FILES = {
    CONSUMER: FOLDER / "timestamp-consumer.db_password_file",
    QUERY: FOLDER / "timestamp-query.db_password_file",
}
INSERT = "INSERT INTO timestamp_records VALUES (gen_random_uuid(), now(), 0, now())"


def attempt(
    host: str,
    user: str,
    statement: str,
    *,
    tls: str = "verify-full",
    password: str = "",
    database: str = "timestamps",
) -> str:
    """Log in and run a statement without committing it; returns the error's first line, or "" if it may."""
    secret = password or (PASSWORD_FILES[user].read_text().strip() if user in PASSWORD_FILES else "none")
    try:
        connection = psycopg2.connect(
            host=host,
            dbname=database,
            user=user,
            password=secret,
            sslmode=tls,
            sslrootcert=str(FOLDER / "ca.crt"),
            connect_timeout=5,
        )
        try:
            connection.cursor().execute(statement)
            connection.rollback()
        finally:
            connection.close()
    except psycopg2.Error as error:
        return str(error).strip().splitlines()[0]
    return ""


def main(host: str) -> None:
    """Try all and print what each was answered with."""
    write = "SET TRANSACTION READ WRITE; "
    results = {
        "wrong password": attempt(host, QUERY, "SELECT 1", password="wrong" * 8),
        "without TLS": attempt(host, QUERY, "SELECT 1", tls="disable"),
        "superuser": attempt(host, "postgres", "SELECT 1"),
        "owner": attempt(host, "timestamp_owner", "SELECT 1"),
        "another database": attempt(host, QUERY, "SELECT 1", database="postgres"),
        "query reads": attempt(host, QUERY, "SELECT * FROM timestamp_records LIMIT 1"),
        "query writes": attempt(host, QUERY, INSERT),
        "query writes all the same": attempt(host, QUERY, write + INSERT),
        "query makes a table": attempt(host, QUERY, write + "CREATE TABLE intruder ()"),
        "query becomes the owner": attempt(host, QUERY, "SET ROLE timestamp_owner"),
        "query reads a file": attempt(host, QUERY, "SELECT pg_read_file('/etc/passwd')"),
        "consumer writes": attempt(host, CONSUMER, INSERT),
        "consumer reads records": attempt(host, CONSUMER, "SELECT * FROM timestamp_records LIMIT 1"),
        "consumer deletes": attempt(host, CONSUMER, "DELETE FROM timestamp_records"),
        "consumer changes": attempt(host, CONSUMER, "UPDATE timestamp_records SET event_nanoseconds = 1"),
        "consumer drops": attempt(host, CONSUMER, "DROP TABLE timestamp_records"),
        "consumer runs a program": attempt(host, CONSUMER, "COPY (SELECT 1) TO PROGRAM 'true'"),
    }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
