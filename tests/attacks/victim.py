"""The service that is attacked: a process of its own, with a resolver that says what its tests want.

A name such as ``to-10-0-0-1.test`` has the address that is written in it; ``then-127-0-0-2-127-0-0-1-x.test`` has the
first address when it is asked for the first time, and the second one ever after.
"""

from __future__ import annotations

import re
import socket
import sys
from typing import Any

from manyeyes.service.app import create_app, listen, make_server

_real = socket.getaddrinfo
_asked: set[str] = set()
_ADDRESS = r"(\d+)-(\d+)-(\d+)-(\d+)"


def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
    # HTTP libraries pass names as bytes, too; a stub that only knows str lets them through to the real thing.
    name = host.decode() if isinstance(host, bytes) else host
    if not isinstance(name, str) or not name.endswith(".test"):
        return _real(host, port, *args, **kwargs)
    if told := re.fullmatch(rf"to-{_ADDRESS}\.test", name):
        return _real(".".join(told.groups()), port, *args, **kwargs)
    if told := re.fullmatch(rf"then-{_ADDRESS}-{_ADDRESS}-\w+\.test", name):
        first, second = ".".join(told.groups()[:4]), ".".join(told.groups()[4:])
        answer = second if name in _asked else first
        _asked.add(name)
        return _real(answer, port, *args, **kwargs)
    if told := re.fullmatch(r"six-([0-9a-f-]+)\.test", name):
        return _real(told[1].replace("-", ":"), port, *args, **kwargs)
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


if __name__ == "__main__":
    socket.getaddrinfo = getaddrinfo
    app = create_app()
    listener = listen(app.state.service.settings)
    print(listener.getsockname()[1], flush=True)
    make_server(app).run(sockets=[listener])
    sys.exit(0)
