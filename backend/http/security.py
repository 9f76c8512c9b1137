"""Who may talk to the server: its address, the names it answers to, and what it asks for."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from urllib.parse import urlencode

from backend.errors import ServerError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class Security:
    """Where the server listens and whom it lets in. Whoever knows the token or one pair of credentials may do all.

    host: address to listen on. token: for browsers and as a bearer token. credentials: (user, password) pairs.
    allowed_hosts: names in addition to the loopback ones under which the server may be reached, such as a proxy's.
    allowed_origins: other sites whose pages may call the interfaces, as "https://name:port"; "*" for all.
    Raises ServerError when others than this machine, or any web page, could use it without a password.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = field(default=None, repr=False)
    credentials: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token == "" or any(not user or not password for user, password in self.credentials):
            raise ServerError("An empty token, user name or password protects nothing. Choose another.")
        if self.is_exposed and not self.asks_for_password:
            raise ServerError(
                f"Others could use the server on {self.host or 'all addresses'} without a password. "
                "Set --token or --gradio-auth USER:PASSWORD, or listen on 127.0.0.1."
            )
        if "*" in self.allowed_origins and not self.asks_for_password:
            raise ServerError(
                "Every web page could use the server without a password. Set --token or --gradio-auth USER:PASSWORD, "
                "or name the pages with --cors-allow-origins."
            )

    @classmethod
    def with_token_if_needed(
        cls,
        *,
        host: str = "127.0.0.1",
        port: int = 7860,
        token: str | None = None,
        credentials: tuple[tuple[str, str], ...] = (),
        allowed_hosts: tuple[str, ...] = (),
        allowed_origins: tuple[str, ...] = (),
    ) -> Security:
        """As given, with a token drawn if others could reach it and no password is set. Raises ServerError."""
        if token is None and not credentials and _is_exposed(host, allowed_hosts):
            token = secrets.token_urlsafe(24)
        return cls(
            host=host,
            port=port,
            token=token,
            credentials=credentials,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
        )

    @property
    def is_exposed(self) -> bool:
        """Whether anybody but this machine could reach the server, directly or through a proxy."""
        return _is_exposed(self.host, self.allowed_hosts)

    @property
    def asks_for_password(self) -> bool:
        return self.token is not None or bool(self.credentials)

    def url(self, *, port: int, scheme: str = "http", subpath: str = "") -> str:
        """The address to open in a browser on this machine, its token included."""
        host = "127.0.0.1" if self.host in ("", "0.0.0.0", "::") else self.host
        name = f"[{host}]" if ":" in host else host
        return f"{scheme}://{name}:{port}{subpath}/" + (f"?{urlencode({'token': self.token})}" if self.token else "")

    def answers_to(self, name: str) -> bool:
        """Whether `name`, the host a client asked for, is one of ours, and not a foreign site bound to our address.

        On the network every numeric address is ours, too: a foreign site needs a name for that attack.
        """
        name = name.casefold().rstrip(".")
        if name in _LOOPBACK_NAMES or name in {host.casefold() for host in (self.host, *self.allowed_hosts)}:
            return True
        if _is_numeric(name):
            return not _is_loopback(self.host) or _is_loopback(name)
        machine = socket.gethostname().casefold()
        return not _is_loopback(self.host) and name in (machine, f"{machine}.local")

    def welcomes(self, origin: str) -> bool:
        """Whether the pages of `origin` may call the interfaces."""
        return "*" in self.allowed_origins or origin in self.allowed_origins

    def accepts_token(self, token: str) -> bool:
        return self.token is not None and _are_equal(token, self.token)

    def accepts_credentials(self, user: str, password: str) -> bool:
        pairs = [_are_equal(user, known) & _are_equal(password, secret) for known, secret in self.credentials]
        return any(pairs)

    def cookie_value(self) -> str:
        """What a browser that knew the token is given to show from then on: not the token, and of no use to find it."""
        return hmac.new((self.token or "").encode(), b"emulsion cookie", hashlib.sha256).hexdigest()

    def accepts_cookie(self, value: str) -> bool:
        return self.token is not None and _are_equal(value, self.cookie_value())


def parse_credentials(text: str) -> tuple[tuple[str, str], ...]:
    """The pairs in "user:password,user:password", as A1111's --api-auth and --gradio-auth take them.

    Raises ServerError, which does not repeat the text.
    """
    pairs = [part.strip().partition(":") for part in text.split(",") if part.strip()]
    if not pairs or any(not user or not password for user, _, password in pairs):
        raise ServerError("A user and password must be given as USER:PASSWORD, several of them with commas between.")
    return tuple((user, password) for user, _, password in pairs)


def _is_exposed(host: str, allowed_hosts: tuple[str, ...]) -> bool:
    return not all(map(_is_loopback, (host, *allowed_hosts)))


def _is_loopback(name: str) -> bool:
    return name.casefold() in _LOOPBACK_NAMES or (_is_numeric(name) and ipaddress.ip_address(name).is_loopback)


def _is_numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _are_equal(given: str, known: str) -> bool:
    """Compared in a time that does not tell how much of it was right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), known.encode("utf-8", "surrogatepass"))
