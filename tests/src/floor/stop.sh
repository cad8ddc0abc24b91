systemctl stop farrow-bootstrap farrow-watch $(units | tr ' ' '\n' | grep -vE 'etcd|gateway')
