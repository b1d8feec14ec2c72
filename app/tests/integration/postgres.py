"""A PostgreSQL server as a process on loopback, with the roles of the contract."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg2

from tests.integration.processes import Server, free_port

# The newest that is installed: Debian 12 has 15, Debian 13 has 17.
BINARIES = max(
    Path("/usr/lib/postgresql").glob("*/bin"),
    key=lambda path: int(path.parent.name),
    default=Path("/usr/bin"),
)
PASSWORDS = {
    "postgres": "test-superuser",
    "timestamp_consumer": "test-consumer",
    "timestamp_query": "test-query",
}

_SETTINGS = """
port = {port}
listen_addresses = '127.0.0.1'
unix_socket_directories = '{folder}'
"""
# Tests lose nothing that a crash of this computer would take.
_SMALL = """\
shared_buffers = 32MB
fsync = off
"""
_ROLES = f"""
CREATE ROLE timestamp_owner NOLOGIN;
CREATE ROLE timestamp_consumer LOGIN NOINHERIT PASSWORD '{PASSWORDS["timestamp_consumer"]}';
CREATE ROLE timestamp_query LOGIN PASSWORD '{PASSWORDS["timestamp_query"]}';
GRANT timestamp_owner TO timestamp_consumer;
"""
_RIGHTS = """
REVOKE ALL ON DATABASE {name} FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE {name} TO timestamp_consumer;
GRANT CONNECT ON DATABASE {name} TO timestamp_query;
ALTER SCHEMA public OWNER TO timestamp_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO timestamp_consumer, timestamp_query;
"""


class Postgres(Server):
    """A server. Its data stay when it is stopped and started again."""

    def __init__(self, folder: Path, settings: str = _SMALL) -> None:
        # It refuses to run as root.
        as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            shutil.chown(folder, user.pw_uid, user.pw_gid)
            as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self.port = free_port()
        password = folder / "password"
        password.write_text(PASSWORDS["postgres"])
        password.chmod(0o644)
        initdb = [
            str(BINARIES / "initdb"),
            f"--pgdata={folder}/data",
            "--username=postgres",
            "--encoding=UTF8",
        ]
        auth = ["--auth=scram-sha-256", f"--pwfile={password}"]
        subprocess.run(
            [*as_user, *initdb, *auth, "--no-locale", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        with (folder / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write(_SETTINGS.format(port=self.port, folder=folder) + settings)
        command = [*as_user, str(BINARIES / "postgres"), "-D", f"{folder}/data"]
        super().__init__("postgres", command, folder)
        self.start()
        self.run("postgres", _ROLES)

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        try:
            self.run("postgres", "SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End it, and the connections of its clients with it."""
        self.process.send(signal.SIGINT)
        self.process.wait()

    def freeze(self) -> None:
        """Let it answer no more, though its connections stay open."""
        self.process.send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_all(signal.SIGCONT)

    def run(
        self, database: str, statements: str, parameters: tuple[Any, ...] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser and return the rows of the last statement."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user="postgres",
            password=PASSWORDS["postgres"],
            connect_timeout=5,
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statements, parameters)
                return cursor.fetchall() if cursor.description is not None else []
        finally:
            connection.close()

    def make_database(self, name: str) -> None:
        """Make a database as the play does: without the table."""
        self.run("postgres", f"CREATE DATABASE {name}")
        self.run(name, _RIGHTS.format(name=name))

    def url(self, database: str) -> str:
        """Return libpq's URI of a database."""
        return f"postgresql://127.0.0.1:{self.port}/{database}"
