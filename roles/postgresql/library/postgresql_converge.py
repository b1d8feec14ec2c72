#!/usr/bin/python
"""Bring roles, databases and rights to what a list of conditional statements says, in one task."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import re
import secrets
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    psycopg2: Any = importlib.import_module("psycopg2")
    sql: Any = importlib.import_module("psycopg2.sql")
except ImportError:
    psycopg2 = sql = None

DOCUMENTATION = r"""
module: postgresql_converge
short_description: Run SQL statements whose conditions do not hold, and set passwords that differ
description:
  - Connects through the unix socket as the user that the task runs as.
  - Statements run one after the other, each outside of a transaction block of others. A password goes to the
    server only as a SCRAM-SHA-256 verifier, and is compared with the one that the server holds.
options:
  statements:
    description: What must be so.
    type: list
    elements: dict
    required: true
    suboptions:
      unless:
        description: Query that answers true when there is nothing to do.
        type: str
        required: true
      run:
        description: Statements that make it so, with a semicolon at the end of a line between them.
        type: str
        required: true
      database:
        description: Database to run in.
        type: str
        default: postgres
  passwords:
    description: Password of each login role, in printable ASCII.
    type: dict
    default: {}
author: timestamp-service developers
"""

EXAMPLES = r"""
- name: Have a role with a password
  become_user: postgres
  postgresql_converge:
    statements:
      - unless: SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reader')
        run: CREATE ROLE reader LOGIN
    passwords:
      reader: "{{ lookup('ansible.builtin.unvault', 'reader_password') | trim }}"
"""

RETURN = r"""
statements:
  description: What was run, or would be in check mode. Passwords and verifiers are never in it.
  type: list
  elements: str
  returned: success
"""

MAINTENANCE_DATABASE = "postgres"


@dataclass(frozen=True)
class Verifier:
    """What a server keeps of a SCRAM-SHA-256 password (RFC 5803), in PostgreSQL's form."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        """The text that stands in pg_authid and that ALTER ROLE takes."""
        salt, stored, server = (
            base64.b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"


def make_verifier(password: str, salt: bytes, iterations: int = 4096) -> Verifier:
    """The verifier of a password (RFC 5802, section 3). Raises ValueError unless it is printable ASCII.

    Printable ASCII is what SASLprep leaves as it is.
    """
    if not re.fullmatch(r"[ -~]+", password):
        raise ValueError("a password must be of printable ASCII characters")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return Verifier(
        iterations, salt, hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")
    )


def is_password(password: str, verifier: str | None) -> bool:
    """Whether a server's verifier is one of this password."""
    match = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$[^:]+:.+", verifier or "")
    if not match:
        return False
    expected = make_verifier(password, base64.b64decode(match[2]), int(match[1]))
    return hmac.compare_digest(str(expected), verifier or "")


def connect(database: str) -> Any:
    """A connection that writes no statement of this module to the server's log."""
    connection = psycopg2.connect(dbname=database, connect_timeout=10)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "SET log_statement = 'none';"
            " SET log_min_duration_statement = -1;"
            " SET log_min_error_statement = 'panic'"
        )
    return connection


def first_value(connection: Any, query: str, parameters: tuple[str, ...] = ()) -> Any:
    """The first column of a query's first row, or None without a row."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters or None)
        row = cursor.fetchone()
    return row[0] if row else None


def has_database(connection: Any, name: str) -> bool:
    """Whether the server has a database of that name."""
    return bool(first_value(connection, "SELECT true FROM pg_database WHERE datname = %s", (name,)))


def run_statements(connection: Any, text: str) -> None:
    """Run them one by one: CREATE DATABASE may not share a message with another."""
    with connection.cursor() as cursor:
        for statement in text.split(";\n"):
            cursor.execute(statement)


def converge_statements(statements: list[dict[str, str]], check_mode: bool) -> list[str]:
    """Run the statements whose condition does not hold; returns them."""
    connections: dict[str, Any] = {}
    done = []
    try:
        connections[MAINTENANCE_DATABASE] = connect(MAINTENANCE_DATABASE)
        for statement in statements:
            name = statement["database"]
            if name not in connections:
                # In check mode the statement that makes a database was not run.
                if check_mode and not has_database(connections[MAINTENANCE_DATABASE], name):
                    done.append(statement["run"])
                    continue
                connections[name] = connect(name)
            if check_mode:
                try:
                    holds = first_value(connections[name], statement["unless"])
                except psycopg2.Error:
                    holds = False
            else:
                holds = first_value(connections[name], statement["unless"])
            if holds is not True:
                if not check_mode:
                    run_statements(connections[name], statement["run"])
                done.append(statement["run"])
    finally:
        for connection in connections.values():
            connection.close()
    return done


def converge_passwords(passwords: dict[str, str], check_mode: bool) -> list[str]:
    """Set the passwords that differ; returns what was done, without them."""
    done = []
    with closing(connect(MAINTENANCE_DATABASE)) as connection:
        for role, password in passwords.items():
            kept = first_value(connection, "SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,))
            if is_password(password, kept):
                continue
            if not check_mode:
                verifier = make_verifier(password, secrets.token_bytes(16))
                with connection.cursor() as cursor:
                    cursor.execute(
                        sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                            sql.Identifier(role), sql.Literal(str(verifier))
                        )
                    )
            done.append(f"ALTER ROLE {role} PASSWORD")
    return done


def main() -> None:
    """Bring the server to what the task lists."""
    module = AnsibleModule(
        argument_spec={
            "statements": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "unless": {"type": "str", "required": True},
                    "run": {"type": "str", "required": True},
                    "database": {"type": "str", "default": MAINTENANCE_DATABASE},
                },
            },
            "passwords": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    if psycopg2 is None:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    try:
        done = converge_statements(module.params["statements"], module.check_mode)
        done += converge_passwords(module.params["passwords"], module.check_mode)
    except (psycopg2.Error, ValueError) as error:
        module.fail_json(msg=str(error).strip())
    after = "".join(f"{statement}\n" for statement in done)
    module.exit_json(changed=bool(done), statements=done, diff={"before": "", "after": after})


if __name__ == "__main__":
    main()
