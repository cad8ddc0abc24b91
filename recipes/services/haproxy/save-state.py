# Written by farrow-bootstrap at each boot.
"""Keeps what HAProxy knows of its servers across a reload.

A server counts as up until its first check. After a reload that would be all of them: writes would go to
replicas for two seconds. So the new process reads what the old one found out, and servers that are new to it
start as down.
"""

import os
import re
import socket

CONFIG = "/etc/haproxy/haproxy.cfg"
STATE = "/run/haproxy/server-state"

with socket.socket(socket.AF_UNIX) as admin:
    admin.settimeout(5)
    admin.connect("/run/haproxy/admin.sock")
    admin.sendall(b"show servers state\n")
    text = b"".join(iter(lambda: admin.recv(65536), b"")).decode()

# Version 1 of the format: HAProxy's management guide, "show servers state".
lines = [line for line in text.splitlines() if line.strip()]
known = {tuple(line.split(" ")[i] for i in (1, 3)) for line in lines[2:]}
backend = None
for line in open(CONFIG):
    if found := re.match(r"(backend|frontend|listen|defaults|global)\b\s*(\S*)", line):
        backend = found[2] if found[1] == "backend" else None
    elif (found := re.match(r"\s+server (\S+) ([0-9.]+):(\d+)", line)) and backend:
        name, address, port = found.groups()
        if (backend, name) not in known:
            # Down, last check failed, health 0, checks on.
            lines.append(f"0 {backend} 0 {name} {address} 0 0 100 100 0 1 2 0 6 0 0 0 - {port} - 0 0 - - 0")
with open(STATE + ".new", "w") as file:
    file.write("\n".join(lines) + "\n")
os.replace(STATE + ".new", STATE)
