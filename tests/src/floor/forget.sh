# The store forgets this machine's cluster, with the cluster's own user.
python3 - <<'P'
import base64
import http.client
import json
import socket
import yaml

config = yaml.safe_load(open("/etc/patroni/config.yml"))
login = {"name": config["etcd3"]["username"], "password": config["etcd3"]["password"]}


def ask(path, body, token=None):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect("/run/haproxy/etcd.sock")
    connection.request("POST", path, json.dumps(body), {"Authorization": token} if token else {})
    return json.load(connection.getresponse())


prefix = f"/pg/{config['scope']}".encode()
first, end = (base64.b64encode(key).decode() for key in (prefix + b"/", prefix + b"0"))
token = ask("/v3/auth/authenticate", login)["token"]
assert int(ask("/v3/kv/deleterange", {"key": first, "range_end": end}, token)["deleted"]) > 0
P
