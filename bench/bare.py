"""The ruler for HTTP: a bare Falcon ASGI application that answers a constant."""

import falcon.asgi


class Constant:
    """Answers the same to all."""

    async def on_get(self, _request: falcon.asgi.Request, response: falcon.asgi.Response, text: str) -> None:
        """Answer as many bytes as the command API does."""
        response.content_type = "application/json"
        del text
        response.data = b'{"id":"01890a5d-ac96-774b-bcce-b302099a8057"}'

    on_post = on_get


def create_app() -> "falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]":
    """Return the application."""
    app = falcon.asgi.App()
    app.add_route("/api/v1/timestamp/{text}", Constant())
    return app
