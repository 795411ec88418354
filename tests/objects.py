"""An S3 server on loopback, which can go away and come back with all that it held."""

import logging
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.request import Request, urlopen

import obstore
import pytest
from moto import settings
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from tests.pipeline import stored_bytes
from tileloom.tiling import place as places
from tileloom.tiling.place import place

SECRET = "nobody-may-ever-read-this"
_numbers = count()


class Server:
    """Keeps its port and its objects while it is stopped."""

    def __init__(self):
        self._port = 0
        self._running = None
        self.start()
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self):
        self._running = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._running.start()
        _, self._port = self._running.get_host_and_port()

    def stop(self):
        if self._running:
            self._running.stop()
            self._running = None

    def bucket(self, name=None):
        """The address of a new bucket."""
        name = name or f"bucket-{next(_numbers)}"
        with urlopen(Request(f"{self.address}/{name}", method="PUT")) as answer:
            assert answer.status == 200
        return f"s3://{name}"

    @contextmanager
    def strict(self):
        """Within the block it knows nobody's credentials; otherwise it takes any."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
            yield


@pytest.fixture(scope="module")
def server():
    """A server that the environment names, with credentials for it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", running.address)
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        places._client.cache_clear()
        yield running
        places._client.cache_clear()
    running.stop()


@pytest.fixture
def bucket(server):
    """The address of a new bucket on a running server."""
    yield server.bucket()
    if not server._running:
        server.start()


def stored(address):
    """Key and bytes of every object below an address, read without tileloom."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    client = S3Store(bucket, client_options={"allow_http": True})
    keys = [one["path"] for batch in obstore.list(client, prefix or None) for one in batch]
    return {key.removeprefix(prefix).lstrip("/"): bytes(obstore.get(client, key).bytes()) for key in keys}


def upload(folder, address):
    """Put every file of a folder below an address."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            (place(address) / str(path.relative_to(folder))).write(path.read_bytes())
    return address


def result_bytes(address):
    """What :func:`tests.pipeline.stored_bytes` tells of a result on disk."""
    found = stored(address)
    published = {name: data for name, data in found.items() if not name.startswith(".tileloom/")}
    hidden = [name.split("/", 2) for name in found if name.startswith(".tileloom/")]
    scratch = {parts[2]: found["/".join(parts)] for parts in hidden if len(parts) > 2}
    return published | {name: data for name, data in scratch.items() if not name.startswith("ledger/")}


def assert_same_bytes(address, spec):
    """A result in a bucket holds the same files with the same bytes as one on disk."""
    ours, theirs = result_bytes(address), stored_bytes(spec)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
