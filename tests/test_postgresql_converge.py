"""A password becomes the verifier that RFC 5802 says, and is known again in the one that a server holds."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from conftest import load_module

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
