# Written by farrow-bootstrap at each boot. Called by Patroni with: action, role, cluster.
# What is connected to the pool of a primary wants a primary. The pool keeps its clients while PostgreSQL changes behind it,
# so they would go on here and find a replica. HAProxy cuts the connections it watches, but neither those that an earlier
# reload left to an older process of it, nor those that came past it. systemd starts the pool again at once.
case "$2" in
primary | promoted | master) ;;
*) kill -QUIT "$(cat /run/postgresql/pgbouncer.pid)" 2>/dev/null || true ;;
esac
