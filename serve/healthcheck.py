"""`python -m serve.healthcheck`: exit status 0 if the server of this container is ready."""

import os
import sys
import urllib.error
import urllib.request


def main():
    """Ask the server on FRAUD_PORT whether a verified bundle answers."""
    url = f"http://127.0.0.1:{os.environ.get('FRAUD_PORT', '8000')}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError) as error:
        print(f"not ready: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
