"""`python -m serve.healthcheck`: exit status 0 if the server of this container is ready."""

import http.client
import ipaddress
import os
import sys

import msgspec

from serve.settings import Settings, SettingsError

TIMEOUT_S = 4.0  # for all addresses together; less than the 5 s that Dockerfile.prod allows


def main() -> int:
    """Ask the server where FRAUD_HOST and FRAUD_PORT put it; no proxy is ever asked.

    Returns
    -------
    Exit status: 0 if a verified bundle answers, 1 otherwise; the reason is printed
    """
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        print(f"not ready: {error}")
        return 1
    if settings.port == 0:
        print("not ready: FRAUD_PORT is 0, so that nobody knows the port; give a number.")
        return 1
    hosts = _reachable(settings.host)
    reasons = []
    for host in hosts:
        reason = ask(host, settings.port, TIMEOUT_S / len(hosts))
        if not reason:
            return 0
        reasons.append(reason)
    print(f"not ready: {'; '.join(reasons)}")
    return 1


def ask(host: str, port: int, timeout_s: float) -> str:
    """Ask one address once why it is not ready, and return that; '' if it is."""
    # http.client, not urllib: that one would go through the proxy of http_proxy or ALL_PROXY
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return f"port {port} of {host}: {error or type(error).__name__}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"port {port} of {host}: {_told(answer.status, body)}"


def _reachable(host):
    """Where a server answers that listens on `host`; nobody can connect to 0.0.0.0 and ::."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return (host,)
    if not address.is_unspecified:
        return (host,)
    return ("127.0.0.1",) if address.version == 4 else ("::1", "127.0.0.1")


def _told(status, body):
    """What a refusal of ours says; the status of any other answer."""
    try:
        return msgspec.json.decode(body)["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {status}"


if __name__ == "__main__":
    sys.exit(main())
