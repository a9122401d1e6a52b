"""PROXY protocol for uvicorn, which has none of its own.

    uvicorn app:app --http proxy_protocol:Http --no-proxy-headers

Each connection has to begin with a PROXY header, version 2 or 1; without one it is closed. So let
uvicorn listen where only the gateway gets in. What the header says becomes the client's address of
requests and WebSockets; if it says that the client came by TLS, their scheme is https or wss.
"""

import ipaddress
import struct

from uvicorn.protocols.http.h11_impl import H11Protocol

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LONGEST = 4096
TLV_SSL = 0x20
CLIENT_SSL = 0x01


class Refused(ValueError):
    """What was read is no PROXY header."""


def parse(data):
    """(client or None, whether it came by TLS, length of the header); None if it is not complete."""
    if data.startswith(SIGNATURE[: len(data)]):
        return parse_v2(data)
    if data.startswith(b"PROXY "[: len(data)]):
        return parse_v1(data)
    raise Refused("no PROXY header")


def parse_v1(data):
    line, end, _ = data.partition(b"\r\n")
    if not end:
        if len(data) > 107:
            raise Refused("an endless PROXY line")
        return None
    words = line.decode("ascii", "replace").split(" ")
    if words[1:2] == ["UNKNOWN"]:
        return None, False, len(line) + 2
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise Refused("a broken PROXY line")
    return (str(ipaddress.ip_address(words[2])), int(words[4])), False, len(line) + 2


def parse_v2(data):
    if len(data) < 16:
        return None
    command, family, length = data[12], data[13], struct.unpack(">H", data[14:16])[0]
    if command not in (0x20, 0x21) or 16 + length > LONGEST:
        raise Refused("not a PROXY header of version 2")
    if len(data) < 16 + length:
        return None
    body = data[16 : 16 + length]
    size = {0x11: 4, 0x21: 16}.get(family)
    if command == 0x20 or size is None:
        return None, False, 16 + length  # LOCAL (a health check), or no addresses
    if len(body) < 2 * size + 4:
        raise Refused("a short PROXY header")
    port = struct.unpack(">H", body[2 * size : 2 * size + 2])[0]
    client = (str(ipaddress.ip_address(body[:size])), port)
    return client, by_tls(body[2 * size + 4 :]), 16 + length


def by_tls(tlvs):
    while len(tlvs) >= 3:
        kind, length = tlvs[0], struct.unpack(">H", tlvs[1:3])[0]
        if kind == TLV_SSL and length >= 5:
            return bool(tlvs[3] & CLIENT_SSL)
        tlvs = tlvs[3 + length :]
    return False


class Announced:
    """A transport whose other end is the client that the header has announced."""

    def __init__(self, transport, client, tls):
        self._transport, self._client, self._tls = transport, client, tls

    def get_extra_info(self, name, default=None):
        if name == "peername" and self._client:
            return self._client
        if name == "socket":
            return None  # its peer is the gateway
        if name == "sslcontext":
            return self._tls or None
        return self._transport.get_extra_info(name, default)

    def __getattr__(self, name):
        return getattr(self._transport, name)


class Http(H11Protocol):
    """uvicorn's HTTP protocol, once the header is read."""

    _pending = b""
    _made = False

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        if self._made:
            return super().data_received(data)
        self._pending += data
        try:
            parsed = parse(self._pending)
        except ValueError as refused:
            self.logger.warning("connection closed: %s", refused)
            return self._transport.abort()
        if parsed is None:
            return None
        client, tls, length = parsed
        rest, self._pending, self._made = self._pending[length:], b"", True
        super().connection_made(Announced(self._transport, client, tls))
        return super().data_received(rest) if rest else None

    def connection_lost(self, error):
        if self._made:
            super().connection_lost(error)

    def eof_received(self):
        if self._made:
            super().eof_received()
