"""Who may ask, and what a page may do: the Host header, and the headers that go with every answer."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from flask import Flask, Response, abort, request

_POLICY = (
    "default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def host_allowed(header: str, host: str) -> bool:
    """Whether a request that names `header` as its host may be answered.

    A page of another site can have its own name resolve to this machine (DNS rebinding) and read what it likes from a
    server that does not look; it cannot make a browser send an address, or a name that is this machine's.

    Args:
        header: the Host header, with or without a port.
        host: what the server was told to listen on.
    """
    try:
        name = urlsplit(f"//{header}").hostname
    except ValueError:
        return False
    if not name:
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in {"localhost", host.lower(), socket.gethostname().lower()}
    return not is_loopback(host) or address.is_loopback


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def protect(server: Flask, host: str, script_hashes: list[str]) -> None:
    """Refuse other hosts, and let pages load nothing from elsewhere, be framed by nobody and run no script of a study.

    Args:
        server: of the dashboard.
        host: what it listens on.
        script_hashes: of the inline scripts that Dash writes itself (`Dash.csp_hashes()`).
    """
    policy = _POLICY.format(hashes=" ".join(script_hashes))

    @server.before_request
    def _check_host() -> None:
        if not host_allowed(request.headers.get("Host", ""), host):
            abort(403, "this host is not the one that the dashboard serves: see --host")

    @server.after_request
    def _add_headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response
