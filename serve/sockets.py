"""Open the sockets that the server listens on; what goes wrong is one sentence."""

import errno
import socket

from serve.settings import SettingsError

BACKLOG = 2048
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # this machine lacks the address, or IPv6


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address that `host` stands for; `::` takes both families on one socket.

    Parameters
    ----------
    host : an address of this machine, 0.0.0.0, ::, or a name
    port : 0 lets the system choose one, the same for all addresses

    Raises
    ------
    SettingsError
        If the name is unknown, the address is not this machine's, or the port is taken or
        reserved for privileged users; the message says what to change.
    """
    opened: list[socket.socket] = []
    absent = None
    try:
        for family, address in _addresses(host, port):
            number = opened[0].getsockname()[1] if opened else port
            try:
                opened.append(_open(family, (address[0], number, *address[2:])))
            except OSError as error:
                # a name such as localhost often has an IPv6 address on machines without IPv6
                if error.errno not in ABSENT:
                    raise
                absent = error
        if not opened:
            raise absent or OSError("no address to listen on")
    except (OSError, UnicodeError) as error:
        for each in opened:
            each.close()
        raise SettingsError(_sentence(error, host, port)) from error
    return opened


def inherited(number: int) -> socket.socket:
    """Return the listening socket that a parent process passed on as a file descriptor."""
    return socket.socket(fileno=number)


def shown(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _addresses(host, port):
    """The different (family, address) of a host."""
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _open(family, address):
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            is_only_ipv6 = address[0] != "::"
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(is_only_ipv6))
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _sentence(error, host, port):
    everywhere = "0.0.0.0 or :: stand for all addresses of this machine"
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"FRAUD_HOST is {host!r}, a name that has no address here; {everywhere}."
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is taken: another program listens there. "
            "End it, or choose another port with FRAUD_PORT."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"This user may not listen on port {port} of {host}: ports below 1024 usually need "
            "privileges. Choose another one with FRAUD_PORT."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"FRAUD_HOST is {host!r}, which is not an address of this machine; {everywhere}."
    if error.errno == errno.EAFNOSUPPORT:
        return f"FRAUD_HOST is {host!r}, but this machine has no IPv6; use an IPv4 address."
    return f"The server cannot listen on port {port} of {host}: {error.strerror or error}."
