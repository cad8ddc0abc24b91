systemctl stop $(units)
rm -rf /data/postgres/* /run/postgresql/.s*
systemctl reset-failed
