"""A password becomes the verifier that RFC 5802 says, and is known again in the one that a server holds."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import RunModule, load_module

postgresql_converge = load_module("postgresql", "postgresql_converge")

# The exchange of RFC 7677, section 3.
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_FIRST = "n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
MESSAGE = ",".join((CLIENT_FIRST, SERVER_FIRST, CLIENT_FINAL)).encode()
PROOF = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
SERVER_SIGNATURE = base64.b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_verifier_accepts_the_exchange_of_the_rfc() -> None:
    verifier = postgresql_converge.make_verifier("pencil", SALT, 4096)
    assert hmac.digest(verifier.server_key, MESSAGE, "sha256") == SERVER_SIGNATURE
    signature = hmac.digest(verifier.stored_key, MESSAGE, "sha256")
    client_key = bytes(a ^ b for a, b in zip(PROOF, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == verifier.stored_key


def test_password_is_known_again() -> None:
    kept = str(postgresql_converge.make_verifier("pencil", b"salt", 5000))
    assert kept.startswith("SCRAM-SHA-256$5000:")
    assert postgresql_converge.is_password("pencil", kept)
    assert not postgresql_converge.is_password("pencils", kept)


@pytest.mark.parametrize("kept", [None, "", "md5a3556571e93b0d20722ba62be61e8c2d", "SCRAM-SHA-256$4096:"])
def test_what_is_no_verifier_is_no_password(kept: str | None) -> None:
    assert not postgresql_converge.is_password("pencil", kept)


@pytest.mark.parametrize("password", ["", "pass\nword", "pässword"])
def test_password_beyond_printable_ascii_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        postgresql_converge.make_verifier(password, b"salt")


class FakeServer:
    """A PostgreSQL of the test's own: its roles' verifiers, and what it was told to write."""

    def __init__(self) -> None:
        self.databases = {"postgres"}
        self.verifiers: dict[str, str | None] = {"reader": None}
        self.done: set[str] = set()
        self.written: list[tuple[str, str]] = []
        self.log: list[str] = []

    def connect(self, dbname: str, **_: Any) -> FakeConnection:
        if dbname not in self.databases:
            raise postgresql_converge.psycopg2.OperationalError(f'database "{dbname}" does not exist')
        return FakeConnection(self, dbname)


class FakeConnection:
    """A connection to it, with the server's settings for what goes to the log."""

    def __init__(self, server: FakeServer, database: str) -> None:
        self.server, self.database = server, database
        self.settings = {
            "log_statement": "'all'",
            "log_min_duration_statement": "0",
            "log_min_error_statement": "'error'",
        }
        self.autocommit = False
        self.row: tuple[Any] | None = None

    def cursor(self) -> FakeConnection:
        return self

    def __enter__(self) -> FakeConnection:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def fetchone(self) -> tuple[Any] | None:
        return self.row

    def execute(self, query: Any, parameters: tuple[str, ...] | None = None) -> None:
        parts = getattr(query, "seq", [query])
        text = "".join(str(getattr(part, "wrapped", getattr(part, "string", part))) for part in parts)
        if text.startswith("SELECT"):
            self.row = self.answer(text, parameters or ())
            return
        changed = dict(re.findall(r"SET (\w+) = ([^;]+)", text))
        if changed:
            self.settings |= changed
            return
        if self.settings["log_statement"] != "'none'" or self.settings["log_min_duration_statement"] != "-1":
            self.server.log.append(text)
        self.write(text)

    def answer(self, text: str, parameters: tuple[str, ...]) -> tuple[Any] | None:
        if "pg_database" in text:
            return (True,) if parameters[0] in self.server.databases else None
        if "pg_authid" in text:
            return (self.server.verifiers.get(parameters[0]),)
        return (text.removeprefix("SELECT ") in self.server.done,)

    def write(self, text: str) -> None:
        assert self.autocommit, "CREATE DATABASE cannot run in a transaction"
        assert ";" not in text, "CREATE DATABASE may not share a message with another"
        self.server.written.append((self.database, text))
        self.server.done.add(text)
        if text.startswith("CREATE DATABASE "):
            self.server.databases.add(text.split()[2])
        elif match := re.fullmatch(r"ALTER ROLE (\w+) PASSWORD (.*)", text):
            if match[1] not in self.server.verifiers:
                if self.settings["log_min_error_statement"] != "'panic'":
                    self.server.log.append(text)
                raise postgresql_converge.psycopg2.errors.UndefinedObject("role does not exist")
            self.server.verifiers[match[1]] = match[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    made = FakeServer()
    monkeypatch.setattr(postgresql_converge.psycopg2, "connect", made.connect)
    return made


Converge = Callable[..., dict[str, Any]]


@pytest.fixture
def converge(run_module: RunModule) -> Converge:
    """Return a function that runs the module with statements and a password."""
    statements = [
        {"unless": "SELECT CREATE DATABASE d", "run": "CREATE DATABASE d"},
        {"unless": "SELECT GRANT b", "run": "GRANT a;\nGRANT b", "database": "d"},
    ]

    def run(check_mode: bool = False, role: str = "reader", word: str = "pencil") -> dict[str, Any]:
        given = {"statements": statements, "passwords": {role: word}}
        return run_module(postgresql_converge, given, check_mode)

    return run


def test_what_is_missing_is_made_once(server: FakeServer, converge: Converge) -> None:
    assert converge()["changed"]
    assert server.written[:3] == [("postgres", "CREATE DATABASE d"), ("d", "GRANT a"), ("d", "GRANT b")]
    assert postgresql_converge.is_password("pencil", server.verifiers["reader"])
    server.written.clear()
    assert not converge()["changed"]
    assert server.written == []


def test_password_that_differs_is_replaced(server: FakeServer, converge: Converge) -> None:
    converge(word="pencils")
    assert converge()["statements"] == ["ALTER ROLE reader PASSWORD"]
    assert postgresql_converge.is_password("pencil", server.verifiers["reader"])


def test_check_mode_writes_nothing_and_says_what_it_would(server: FakeServer, converge: Converge) -> None:
    would = converge(check_mode=True)
    assert server.written == []
    assert would["changed"]
    assert would["statements"] == converge()["statements"]


def test_check_mode_writes_nothing_into_a_database_that_is_there(
    server: FakeServer, converge: Converge
) -> None:
    server.databases.add("d")
    assert converge(check_mode=True)["changed"]
    assert server.written == []


@pytest.mark.parametrize("role", ["reader", "nobody"])
def test_server_logs_no_statement(server: FakeServer, converge: Converge, role: str) -> None:
    answer = converge(role=role)
    assert answer.get("failed", False) == (role == "nobody")
    assert server.written[-1][1].startswith(f"ALTER ROLE {role} PASSWORD SCRAM-SHA-256$")
    assert server.log == []


def test_neither_password_nor_verifier_is_answered(server: FakeServer, converge: Converge) -> None:
    answer = str(converge()["statements"])
    assert server.verifiers["reader"] not in ("", None)
    assert "SCRAM" not in answer
    assert "pencil" not in answer


def test_each_verifier_has_a_salt_of_its_own(server: FakeServer, converge: Converge) -> None:
    server.verifiers["writer"] = None
    converge()
    converge(role="writer")
    salts = {str(verifier).split("$")[1] for verifier in server.verifiers.values()}
    assert len(salts) == 2
