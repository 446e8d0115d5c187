"""Connections that end where the check looked: a name is looked up once for a request, and what was found is what is called."""

from __future__ import annotations

import httpx

from braidrec.knowledge import trust


class PublicTransport(httpx.BaseTransport):
    """Requests to public addresses alone, whatever a name leads to by then; the certificate is checked against the name.

    inner: what connects
    """

    def __init__(self, inner: httpx.BaseTransport | None = None):
        self._inner = httpx.HTTPTransport() if inner is None else inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises KnowledgeError where the name leads into a network that is not public, httpx.ConnectError where nowhere."""
        url = request.url
        try:
            found = trust.looked_up(str(url))
        except (OSError, UnicodeError) as cause:
            raise httpx.ConnectError(str(cause), request=request) from None
        trust.refuse_private(str(url), found)
        trouble: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in found:
            own = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,  # Host among them, of the name
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": url.host},
            )
            try:
                return self._inner.handle_request(own)
            except (httpx.ConnectError, httpx.ConnectTimeout) as cause:
                trouble = trouble or cause
        raise trouble or httpx.ConnectError("its name leads to no address", request=request)

    def close(self) -> None:
        self._inner.close()
