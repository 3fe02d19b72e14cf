"""A bucket on this machine: an emulator of Google Cloud Storage, where TensorFlow, TensorStore and Google find it.

TensorFlow asks `www.googleapis.com` and nobody else: it comes here through a proxy, with a certificate that is made
for the occasion.
"""

import contextlib
import datetime
import functools
import http.server
import pathlib
import re
import socketserver
import ssl
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

storage_server = pytest.importorskip("gcp_storage_emulator.server", reason="no emulator: pip install 'cd_jax[test]'")
pytest.importorskip("google.cloud.storage", reason="no Google Cloud Storage: pip install 'cd_jax[gcs]'")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from gcp_storage_emulator.exceptions import NotFound  # noqa: E402
from gcp_storage_emulator.handlers import buckets  # noqa: E402

NAME = "bucket"
_HOSTS = ("www.googleapis.com", "storage.googleapis.com")
_OBJECT = re.compile(r"(?:/upload)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?")


class _Request(storage_server.Request):
    """What the emulator lacks: uploads of nothing, which stand for folders; and links that lead here."""

    def __init__(self, handler, method):
        del handler.headers["Host"]  # Of Google's.
        super().__init__(handler, method)

    @property
    def data(self):
        found = super().data
        return b"" if found is None and self.query.get("uploadType") == ["media"] else found


class _Handler(storage_server.RequestHandler):
    """Beside the emulator's own: a proxy, and the conditions on an object's generation, without which writers race."""

    protocol_version = "HTTP/1.1"
    generation: int | None = None

    def __init__(self, storage, tls: ssl.SSLContext, lock: threading.Lock, *args):
        self._tls, self._lock = tls, lock
        super().__init__(storage, *args)

    def parse_request(self) -> bool:
        ok = super().parse_request()
        if ok and self.command != "CONNECT":
            self.close_connection = True  # The emulator leaves what it does not read.
            if self.headers.get("Transfer-Encoding"):
                del self.headers["Content-Length"]
        return ok

    def do_CONNECT(self) -> None:
        self.close_connection = False
        self.send_response(200)
        self.end_headers()
        self.connection = self._tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), socketserver._SocketWriter(self.connection)

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def end_headers(self) -> None:
        if self.close_connection:
            self.send_header("Connection", "close")
        if self.generation:
            self.send_header("x-goog-generation", str(self.generation))
        super().end_headers()

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, *_) -> None:
        pass

    def _answer(self, method: str) -> None:
        with self._lock:
            if self._is_of_another_bucket():
                self._refuse(404)
                return
            there, query = self._there()
            wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
            if wanted not in (None, str(there)) or unwanted == str(there):
                self._refuse(304 if method == "GET" else 412)
                return
            self.generation = there if method == "GET" else None
            storage_server.Router(self).handle(method)
            self.generation = None

    def _is_of_another_bucket(self) -> bool:
        found = _OBJECT.fullmatch(urllib.parse.urlsplit(self.path).path)
        return bool(found) and found[1] != NAME

    def _refuse(self, status: int) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _there(self) -> tuple[int, dict[str, str]]:
        """The generation of the object that is asked for, 0 where there is none; and the query."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        found = _OBJECT.fullmatch(url.path)
        name = urllib.parse.unquote(found[2]) if found and found[2] else query.get("name")
        try:
            return int(self.storage.get_file_obj(found[1], name)["generation"]) if found and name else 0, query
        except NotFound:
            return 0, query


@contextlib.contextmanager
def serve(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """Serves the bucket `NAME`, in memory.

    Args:
      folder: for the certificate.

    Yields:
      The environment of a process that is to find it.
    """
    certificate, key = _certificate(folder)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    storage = storage_server.Storage(use_memory_fs=True)
    buckets.create_bucket(NAME, storage)
    handler = functools.partial(_Handler, storage, tls, threading.Lock())
    with (
        pytest.MonkeyPatch.context() as patch,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
    ):
        patch.setattr(storage_server, "Request", _Request)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield {
                "https_proxy": address,
                "CURL_CA_BUNDLE": str(certificate),
                "NO_GCE_CHECK": "true",
                "GCS_RETRY_CONFIG_MAX_RETRIES": "2",
                "TENSORSTORE_GCS_HTTP_URL": address,
                "STORAGE_EMULATOR_HOST": address,
                "GOOGLE_CLOUD_PROJECT": "nobodys",
            }
        finally:
            server.shutdown()


def _certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The files of one that signs itself, and of its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, _HOSTS))), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private
