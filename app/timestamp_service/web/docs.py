"""The page that shows the OpenAPI document, and tries what it describes: one file, nothing from elsewhere."""

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Page:
    """A page as it is answered, with what a browser may do in it (Content-Security-Policy)."""

    content: bytes
    policy: str


def page() -> Page:
    """Read the page from the package."""
    content = (files("timestamp_service.web") / "docs.html").read_bytes()
    return Page(
        content,
        f"default-src 'none'; connect-src 'self'; img-src data:; script-src {_hash(content, b'script')}; "
        f"style-src {_hash(content, b'style')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    )


def _hash(content: bytes, element: bytes) -> str:
    """Return the source expression of the one inline `element` (CSP level 3, section 2.3.1)."""
    (text,) = re.findall(rb"<%s>(.*?)</%s>" % (element, element), content, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
