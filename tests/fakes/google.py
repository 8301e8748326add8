"""Google's token endpoint with one service account that it knows, so that tokens are fetched as they are at Google."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway.protocol.json.types import JsonObject

PROJECT = "project-7"
ACCESS_TOKEN = "ya29.access-token-Rk7Vb2"
AUDIENCE = "https://oauth2.googleapis.com/token"  # of every assertion, wherever it is sent
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


class FakeGoogle:
    """Closes: itself, as a context manager. `account` is the service account's key file, `claims` who asked so far."""

    def __init__(self) -> None:
        self.claims: list[JsonObject] = []
        self._key = new_key()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake-google", daemon=True)
        self.account: JsonObject = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "k1",
            "private_key": pem(self._key),
            "client_email": f"gateway@{PROJECT}.iam.gserviceaccount.com",
            "token_uri": f"http://127.0.0.1:{self._server.server_port}/token",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                status, answer = google.answer(form)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *args: Any) -> None:
                """Logs nothing into the test's output."""

        return Handler

    def answer(self, form: dict[str, list[str]]) -> tuple[int, JsonObject]:
        """A token for an assertion that the account's own key has signed; (status, body)."""
        head, payload, signature = form.get("assertion", [".."])[0].split(".")
        try:
            signed = f"{head}.{payload}".encode()
            self._key.public_key().verify(unpadded(signature), signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        claims = json.loads(unpadded(payload))
        if form.get("grant_type") != [GRANT] or claims["aud"] != AUDIENCE:
            return 400, {"error": "invalid_request"}
        self.claims.append(claims)
        return 200, {"access_token": ACCESS_TOKEN, "expires_in": 3599, "token_type": "Bearer"}
