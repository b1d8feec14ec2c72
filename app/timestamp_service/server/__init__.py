"""uvicorn and gunicorn: everything that imports them."""
