# All that makes a machine ready, but for users and databases, of which there are none.
set -e
for unit in $(units); do systemctl is-active -q $unit; done
curl -fsS -o /dev/null --unix-socket /run/haproxy/patroni.sock http://localhost/health
python3 -c 'import socket; [socket.create_connection(("127.0.0.1", port), 1) for port in (5433, 6432, 9630, 9631)]'
if units | tr ' ' '\n' | grep -qx prometheus.service; then curl -fsS -o /dev/null http://127.0.0.1:9090/-/ready; fi
