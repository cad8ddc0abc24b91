# Written by farrow-bootstrap at each boot.
"""Starts Patroni as soon as the DCS lets it in.

Patroni asks for its DCS once and then only every 5 s, and loading its modules is the longest single
step of a boot. So load them while the DCS still starts, then wait for it in short steps, then hand over.
"""

# Patroni starts the postmaster through a child that reads this file again: it must do nothing there.
if __name__ == "__main__":
    import http.client
    import json
    import ssl
    import sys
    import time

    import patroni.api
    import patroni.dcs.etcd3
    import patroni.ha  # noqa: F401
    import yaml
    from patroni.__main__ import main

    with open(sys.argv[1], encoding="utf-8") as file:
        dcs = yaml.safe_load(file)["etcd3"]
    context = ssl.create_default_context(cafile=dcs["cacert"])
    context.load_cert_chain(dcs["cert"], dcs["key"])
    login = json.dumps({"name": dcs["username"], "password": dcs["password"]})

    # Longer waits are Patroni's own, which also logs them.
    deadline = time.monotonic() + 120

    # Kept open: a handshake costs both sides more than all the questions.
    connections = [
        http.client.HTTPSConnection(host, timeout=5, context=context) for host in dcs["hosts"]
    ]

    def lets_in(connection):
        """Whether the DCS member is in business, knows this cluster, and has agreed on a version with the others.

        Until then it calls itself 3.0.0, for which Patroni would take another API, without passwords.
        """
        try:
            connection.request("GET", "/version")
            with connection.getresponse() as answer:
                if json.load(answer)["etcdcluster"] == "3.0.0":
                    return False
            connection.request("POST", "/v3/auth/authenticate", login)
            with connection.getresponse() as answer:
                answer.read()
                return answer.status == 200
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            connection.close()
            return False

    while not any(map(lets_in, connections)) and time.monotonic() < deadline:
        time.sleep(0.4)
    for connection in connections:
        connection.close()
    sys.argv[0] = "/usr/bin/patroni"
    main()
