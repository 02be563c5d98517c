"""Who may ask: the token, and the Host and Origin of every request, so that a web page elsewhere cannot drive us."""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "adabldm_token"
"""Cookie in which a browser keeps the token, once it has opened an address with `?token=`."""
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d+)?")
"""The header Host: a name or an address, and a port."""
OPEN = frozenset({"/healthz"})
"""Paths that need no token."""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(24)


class Guard:
    """Answers requests that may not pass, and hands on all others; works for pages and web sockets, too.

    Args:
        app: is guarded.
        token: that clients must send; none is asked for if left out.
        hosts: names under which this machine is reached; addresses in numbers and `localhost` always pass, because a
            name that somebody else's server answers for is none of them.
        most_bytes: of a request's body.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Iterable[str], most_bytes: int) -> None:
        self.app, self.token, self.most_bytes = app, token, most_bytes
        self.hosts = frozenset({"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
        elif scope["type"] == "http" and (place := self._without_token(scope)) is not None:
            await self._keep_token(send, place)
        elif scope["type"] == "http":
            await self.app(scope, _Limited(receive, headers, self.most_bytes), send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        """(status, field, sentence) of a request that may not pass."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, "Host", f"{host[:100]!r} is no name of this service; name it with --allow-host."
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host.lower():
            return 403, "Origin", "a page of another site may not use this service."
        fetched = headers.get("sec-fetch-site", "none")
        if fetched in {"cross-site", "same-site"} and headers.get("sec-fetch-mode") != "navigate":
            return 403, "Sec-Fetch-Site", "a page of another site may not use this service."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most_bytes:
            limit = f"{self.most_bytes / 1e6:g} MB"
            return 413, "Content-Length", f"{length[:20]} bytes were announced, expected at most {limit}; send less."
        if self.token is not None and scope["path"] not in OPEN and not self._knows_token(scope, headers):
            return 401, "Authorization", "the token is missing or wrong; send `Authorization: Bearer TOKEN`."
        return None

    def _is_ours(self, host: str) -> bool:
        found = HOST.fullmatch(host)
        name = "" if found is None else found[1].strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True

    def _knows_token(self, scope: Scope, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._matches(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and self._matches(cookie.value):
            return True
        return any(key == "token" and self._matches(value) for key, value in _query(scope))

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())

    def _without_token(self, scope: Scope) -> str | None:
        """The address without the token, for a browser that was given one with it."""
        pairs = _query(scope)
        if self.token is None or scope["method"] != "GET" or not any(key == "token" for key, _ in pairs):
            return None
        rest = urlencode([(key, value) for key, value in pairs if key != "token"])
        path = "/" + quote(scope["path"].lstrip("/"))  # "//host" would lead elsewhere
        return f"{path}?{rest}" if rest else path

    async def _keep_token(self, send: Send, place: str) -> None:
        cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
        headers = [(b"location", place.encode()), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": [*headers, (b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class TooLongError(Exception):
    """A body is longer than it may be, and did not say so."""


class _Limited:
    """The body of a request, up to a number of bytes."""

    def __init__(self, receive: Receive, headers: Headers, most: int) -> None:
        self._receive, self._left = receive, most
        self._endless = "content-length" not in headers

    async def __call__(self) -> Message:
        message = await self._receive()
        if self._endless and message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise TooLongError
        return message


def _place(origin: str) -> str:
    """Host and port of an origin; empty where it names none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # half an address in brackets
        return ""


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, field: str, sentence: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": sentence[:120]})
        return
    body = json.dumps({"problems": [{"field": field, "message": f"{field}: {sentence}"}]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
