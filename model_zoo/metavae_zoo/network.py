"""HTTP by the environment's proxies and certificates, and the cause of a failed connection.

The variables are HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in either case, SSL_CERT_FILE,
SSL_CERT_DIR and SSLKEYLOGFILE. They are read at each request.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from contextlib import suppress
from urllib.request import getproxies_environment

import httpx

from metavae_zoo.errors import MetavaeError

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class BadEnvironment(MetavaeError):
    """An environment variable has a value that cannot be used."""

    code = "bad_environment"


class EnvironmentTransport(httpx.BaseTransport):
    """HTTP through the proxy that the environment names for each URL.

    Give it to `httpx.Client(transport=...)`. A request raises BadEnvironment for a variable that it
    needs and cannot use, and httpx.ProxyError where the proxy is at fault.
    """

    def __init__(self) -> None:
        self._transports: dict[tuple[str | None, bool], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; the reply still comes in."""
        variable, proxy = _proxy(request.url)
        transport = self._transport(variable, proxy, tls=request.url.scheme == "https")
        if proxy is None:
            return transport.handle_request(request)
        try:
            return transport.handle_request(request)
        except httpx.ProxyError as error:
            raise httpx.ProxyError(f"the proxy of {variable} refuses it ({error})") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if _is_untrusted(error):
                raise
            raise httpx.ProxyError(f"the proxy of {variable} does not answer ({error})") from error

    def close(self) -> None:
        """Close all connections."""
        for transport in list(self._transports.values()):
            transport.close()

    def _transport(self, variable: str, proxy: str | None, *, tls: bool) -> httpx.HTTPTransport:
        tls = tls or (proxy or "").startswith("https:")
        if (found := self._transports.get((proxy, tls))) is not None:
            return found
        # Without TLS no certificate is trusted, which saves loading them.
        trusted = _tls_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            made = httpx.HTTPTransport(verify=trusted, proxy=proxy)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            hint = f"Give a proxy like http://HOST:PORT, or unset {variable}"
            if isinstance(error, ImportError):
                hint = f"`pip install 'httpx[socks]'`. Or: {hint[0].lower()}{hint[1:]}"
            # The value may have a password in it.
            raise BadEnvironment(
                f"the proxy of {variable} cannot be used", hint=hint, field=variable
            ) from error
        return self._transports.setdefault((proxy, tls), made)


def explain(url: str, error: httpx.TransportError) -> tuple[str, str]:
    """The cause of a connection to `url` that failed, and a hint; the hint may be empty."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, httpx.ProxyError):
        hint = "Set the variable right, or name the host in NO_PROXY"
        return f"{url} is not reached: {said}", hint
    if not _is_untrusted(error):
        return f"no server answers at {url} ({said})", ""
    variable = next((name for name in _CERTIFICATES if os.environ.get(name)), None)
    by = f" by {variable}={os.environ[variable]}" if variable else ""
    return (
        f"the certificate of {url} is not trusted{by} ({said})",
        "Give the certificate of the authority that signed it as the file SSL_CERT_FILE, and use"
        " the host name that it was made for",
    )


def is_local(url: httpx.URL) -> bool:
    """Whether the URL is of this machine, by the loopback interface."""
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def _proxy(url: httpx.URL) -> tuple[str, str | None]:
    """The variable that names a proxy for the URL, and the proxy; None for a direct connection."""
    proxies = getproxies_environment()
    if is_local(url) or _is_exempt(url, proxies.get("no", "")):
        return "", None
    scheme = next((scheme for scheme in (url.scheme, "all") if proxies.get(scheme)), None)
    if scheme is None:
        return "", None
    name, proxy = f"{scheme}_proxy", proxies[scheme]
    variable = name if os.environ.get(name) else name.upper()
    return variable, proxy if "://" in proxy else f"http://{proxy}"


def _is_exempt(url: httpx.URL, exempt: str) -> bool:
    """Whether NO_PROXY names the host of the URL, a domain above it, or a network around it."""
    for name in exempt.lower().replace(" ", "").split(","):
        ending = f".{name.lstrip('.')}"
        if name == "*" or any(
            f".{host}".endswith(ending) for host in (url.host, url.netloc.decode()) if name
        ):
            return True
        with suppress(ValueError):  # one of the two is a name
            if ipaddress.ip_address(url.host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _tls_context() -> ssl.SSLContext:
    """Trust in the certificates of SSL_CERT_FILE or SSL_CERT_DIR, else those of certifi."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # SSLError is one
        # Only the error about the log of keys has its file's name.
        variable = "SSL_CERT_FILE" if error.filename is None else "SSLKEYLOGFILE"
        raise BadEnvironment(
            f"{os.environ.get(variable)}, which is {variable}, cannot be used"
            f" ({error.strerror or error})",
            hint=f"Give a file of certificates in PEM, or unset {variable}"
            if variable == "SSL_CERT_FILE"
            else f"Give a file that can be written, or unset {variable}",
            field=variable,
        ) from error


def _is_untrusted(error: httpx.TransportError) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
