"""A trained model as a web service; FastAPI, uvicorn and gradio are imported when it starts."""

from .app import create_app, serve
from .service import Limits, Service

__all__ = ["Limits", "Service", "create_app", "serve"]
