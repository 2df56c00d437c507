"""The SDK."""

from manyeyes.client.sync import AsyncClient, Client, LabelResult

__all__ = ["AsyncClient", "Client", "LabelResult"]
