# step.sh wait|last [rows]: what a machine that upgrades itself does next. Runs as a check of each boot, several times.
set -eu
cd /var/upgrades
mode=$1
rows=${2:-}
version=$(sed -n 's/.*"version": "\([^"]*\)".*/\1/p' /usr/lib/farrow/image.json)
psql() { runuser -u postgres -- psql -qAt -d postgres "$@"; }

# Once a boot.
if ! test -e /run/step; then
    touch /run/step
    # The blank second disk became the data disk at the first boot, and is the same at each later one.
    test "$(blkid -o value -s LABEL "$(findmnt -no SOURCE /var/data)")" = farrow-data
    echo "$version" >> /var/data/ran
    if test -n "$rows"; then
        psql -c 'create table if not exists public.kept(version text)' -c "insert into public.kept values ('$version')"
    fi
fi

# The next version after the one of which nothing is known yet.
outcome=$(farrow-bootstrap upgrade --status --json | sed -n 's/.*"outcome":"\([a-z]*\)".*/\1/p')
tried=$(farrow-bootstrap upgrade --status --json | sed -n 's/.*"to":{[^}]*"version":"\([^"]*\)".*/\1/p')
next=
case "$outcome" in
'') next=2 ;;
kept | failed) next=$((tried + 1)) ;;
trying) test "$mode" = last || sleep 10 ;;
esac
if test -n "$next" && test -e "$next.upgrade"; then
    # Version 4 is given time to become ready, but it cannot.
    within=600
    test "$next" != 4 || within=240
    if ! systemctl is-active --quiet "upgrade-$next"; then
        systemd-run --quiet --collect --unit "upgrade-$next" farrow-bootstrap upgrade --ready-within $within --reboot "/var/upgrades/$next.upgrade"
    fi
    test "$mode" = last || sleep 100
fi

if test "$mode" = last; then
    ran=$(sed 's/.*/"&"/' /var/data/ran | paste -sd,)
    count=0
    test -z "$rows" || count=$(psql -c 'select count(*) from public.kept')
    # Not by echo, which takes a backslash for a sign of its own.
    printf '{"ran": [%s], "rows": %s, "status": %s}' "$ran" "$count" "$(farrow-bootstrap status --json)"
fi
