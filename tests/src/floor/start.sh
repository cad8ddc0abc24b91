systemctl start --no-block $(units)
