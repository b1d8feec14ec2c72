"""uvicorn's HTTP protocol, which answers what is no HTTP at all in the form of our other errors."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from timestamp_service import correlation, problems


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection."""

    def send_400_response(self, msg: str) -> None:
        """Answer a problem to what cannot be read, and close the connection."""
        identifier = correlation.new().identifier
        body = problems.render(400, msg, "/", identifier, {})
        self.logger.info("%s correlationId %s", msg, identifier)
        head = (
            f"content-type: {problems.MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\n"
            f"{correlation.HEADER}: {identifier}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[400] + head.encode("ascii") + body)
        self.transport.close()
