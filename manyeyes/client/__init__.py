"""The SDK: labels from a manyeyes service, in one call, synchronous or not.

>>> from manyeyes import Client, Item
>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     for label in client.label([Item("1", text="A navy coat")], recipe="paint"):
...         print(label.id, label.label, label.confidence)
1 blue 0.75
"""

from __future__ import annotations

from manyeyes.client.async_jobs import AsyncJob
from manyeyes.client.asynchronous import AsyncClient
from manyeyes.client.items import Url
from manyeyes.client.jobs import Job
from manyeyes.client.results import LabelResult
from manyeyes.client.sync import Client

__all__ = ["AsyncClient", "AsyncJob", "Client", "Job", "LabelResult", "Url"]
