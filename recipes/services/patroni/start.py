# Written by farrow-bootstrap at each boot.
"""Starts Patroni as soon as the DCS answers.

Patroni asks for its DCS once and then only every 5 s, and loading its modules is the longest single
step of a boot. So load them while the DCS still starts, then wait for it in short steps, then hand over.
"""

# Patroni starts the postmaster through a child that reads this file again: it must do nothing there.
if __name__ == "__main__":
    import http.client
    import sys
    import time

    import patroni.api
    import patroni.dcs.etcd3
    import patroni.ha  # noqa: F401
    from patroni.__main__ import main

    # Longer waits are Patroni's own, which also logs them.
    deadline = time.monotonic() + 120

    def answers(host):
        """Whether the DCS member is in business."""
        connection = http.client.HTTPConnection(host, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    hosts = [{% for meta in deployment.meta %}"{{ meta.address }}:2379"{{ ", " if not loop.last }}{% endfor %}]
    while not any(answers(host) for host in hosts) and time.monotonic() < deadline:
        time.sleep(0.2)
    sys.argv[0] = "/usr/bin/patroni"
    main()
