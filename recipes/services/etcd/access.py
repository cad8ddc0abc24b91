# Written by farrow-bootstrap at each boot.
"""Sets up who may do what in etcd: root everything, each cluster what is below /pg/CLUSTER/.

Run on every meta node at every boot, also at the same moment: a step that another node did meanwhile is done.
Reads names and passwords as JSON from standard input. One process, since each run of etcdctl takes a second
on a slow machine.
"""

import base64
import http.client
import json
import ssl
import sys

NAMESPACE = "/pg/"
# etcd's own texts, server/etcdserver/api/v3rpc/rpctypes/error.go.
EXISTS = ("user name already exists", "role name already exists")
DISABLED = "authentication is not enabled"


class Refused(Exception):
    """An answer that is no success."""


class Etcd:
    """etcd's JSON gateway."""

    def __init__(self, address):
        context = ssl.create_default_context(cafile="/etc/farrow/meta-ca.crt")
        context.load_cert_chain("/etc/etcd/server.crt", "/etc/etcd/server.key")
        self.connection = http.client.HTTPSConnection(address, 2379, timeout=10, context=context)
        self.token = None

    def ask(self, path, **body):
        """Gives the answer; raises Refused."""
        headers = {"Authorization": self.token} if self.token else {}
        self.connection.request("POST", "/v3/auth/" + path, json.dumps(body), headers)
        response = self.connection.getresponse()
        answer = json.loads(response.read() or b"{}")
        if response.status != 200:
            raise Refused(answer.get("error") or answer.get("message") or str(response.status))
        return answer

    def once(self, path, **body):
        """Like ask, where what exists already is as good."""
        try:
            self.ask(path, **body)
        except Refused as error:
            if not any(text in str(error) for text in EXISTS):
                raise

    def log_in(self, name, password):
        """Gives a token; none while authentication is off."""
        try:
            return self.ask("authenticate", name=name, password=password)["token"]
        except Refused as error:
            if DISABLED in str(error):
                return None
            raise


def add_user(etcd, name, password, role):
    """Makes a user with this password and role. Nothing is asked for twice: each change makes all clients log in anew."""
    try:
        user = etcd.ask("user/get", name=name)
    except Refused:
        etcd.once("user/add", name=name, password=password)
        user = {}
    else:
        try:
            # While authentication is off there is no telling whether it is right.
            right = etcd.log_in(name, password) is not None
        except Refused:
            right = False
        if not right:
            etcd.ask("user/changepw", name=name, password=password)
    if role not in user.get("roles", []):
        etcd.ask("user/grant", user=name, role=role)


def add_role(etcd, name, prefix):
    """Makes a role with all rights on the keys that begin with the prefix."""
    # The range ends before the first key that does not: the last byte plus one.
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    wanted = {
        "permType": "READWRITE",
        "key": base64.b64encode(prefix.encode()).decode(),
        "range_end": base64.b64encode(end.encode()).decode(),
    }
    try:
        found = etcd.ask("role/get", role=name).get("perm", [])
    except Refused:
        etcd.once("role/add", name=name)
        found = []
    if wanted not in found:
        etcd.ask("role/grant", name=name, perm=wanted)


def main():
    wanted = json.load(sys.stdin)
    etcd = Etcd(wanted["address"])
    etcd.token = etcd.log_in("root", wanted["root"])
    enabled = etcd.token is not None
    if not enabled:
        etcd.once("role/add", name="root")
        add_user(etcd, "root", wanted["root"], "root")
    for cluster in wanted["clusters"]:
        add_role(etcd, cluster["name"], NAMESPACE + cluster["name"] + "/")
        add_user(etcd, cluster["name"], cluster["password"], cluster["name"])
    if not enabled:
        etcd.ask("enable")


try:
    main()
except (Refused, OSError, http.client.HTTPException) as error:
    sys.exit(f"{type(error).__name__}: {error}")
