//! Where two makers of Debian trees may differ, and why.

/// A pattern of absolute paths, in which `*` stands for any characters, and the reason.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    // One machine's own; a machine makes it when it starts, or `farrow` never bakes it.
    ("/etc/machine-id", "a machine's identity"),
    ("/var/lib/dbus/machine-id", "a machine's identity"),
    ("/etc/hostname", "a machine's name"),
    ("/etc/hosts", "a machine's name"),
    ("/etc/resolv.conf", "a machine's network"),
    ("/etc/bind/rndc.key", "a machine's key"),
    ("/etc/ssh/ssh_host_*", "a machine's key"),
    ("/etc/ssl/certs/ssl-cert-snakeoil.pem", "a machine's key"),
    ("/etc/ssl/private/ssl-cert-snakeoil.key", "a machine's key"),
    (
        "/etc/ssl/certs/????????.0",
        "links to a machine's certificates",
    ),
    ("/var/lib/systemd/random-seed", "a machine's seed"),
    (
        "/etc/ssl/certs/java/cacerts",
        "the time of its making is in it, once for each certificate",
    ),
    (
        "/var/lib/ca-certificates-java/pending",
        "empty, when certificates were added after its hook was there: an order of two packages that nothing fixes",
    ),
    (
        "/usr/share/info/dir*",
        "an index of manuals that are left out, renamed each time that its trigger runs",
    ),
    (
        "/etc/.git*",
        "etckeeper's history of /etc: times, and what other packages had done by then",
    ),
    ("/etc/.etckeeper", "the state that goes with that history"),
    // Caches, logs, backups and locks of the build.
    ("/var/cache/*", "caches"),
    ("/var/log/*", "logs"),
    ("/var/backups/*", "backups"),
    ("/var/lib/apt*", "apt's state of the build"),
    ("/tmp/*", "temporary"),
    ("/var/tmp/*", "temporary"),
    ("/run/*", "temporary"),
    ("/dev/*", "made when a machine starts"),
    ("*-old", "backups of databases"),
    ("/etc/*-", "backups of the account files"),
    ("/var/lib/dpkg/lock*", "locks"),
    ("/var/lib/dpkg/available", "apt's list"),
    ("/var/lib/dpkg/cmethopt", "dselect's"),
    ("/var/lib/dpkg/triggers/Lock", "locks"),
    ("/var/lib/ucf/*.[0-9]", "backups"),
    ("/var/lib/python*", "state of the compiler of bytecode"),
    (
        "/var/lib/systemd/catalog/*",
        "an index that a machine makes",
    ),
    (
        "/var/lib/systemd/deb-systemd-*",
        "which units packages asked to enable; presets decide here",
    ),
    ("/etc/.updated", "when /etc was made"),
    ("/var/.updated", "when /var was made"),
    ("/var/lib/initramfs-tools*", "Farrow brings its own initrd"),
    ("/boot/initrd*", "Farrow brings its own initrd"),
    ("/initrd.img*", "Farrow brings its own initrd"),
    (
        "/vmlinuz*",
        "links for boot loaders that Farrow does not use",
    ),
    // No unit starts by itself in an image: a policy decides, and the yardstick's systemctl asks none before it runs.
    ("/etc/systemd/system/*.wants*", "which units are enabled"),
    ("/etc/systemd/system/*.requires*", "which units are enabled"),
    (
        "/etc/systemd/system/*.service",
        "aliases of units that are enabled",
    ),
    (
        "/etc/systemd/system/*.socket",
        "aliases of units that are enabled",
    ),
    ("/etc/systemd/user/*", "which units are enabled"),
    // What each maker adds.
    ("/etc/.pwd.lock", "a lock"),
    (
        "/etc/fstab",
        "Farrow's partitions, the yardstick's empty example",
    ),
    ("/etc/mtab", "a link to what the kernel says"),
    (
        "/etc/apt/preferences.d",
        "made by the yardstick where apt is not installed",
    ),
    (
        "/var/lib/dpkg/arch",
        "the yardstick names the only architecture",
    ),
    ("/proc", "the mode of a mount point"),
    ("/sys", "the mode of a mount point"),
    ("/etc/apt/sources.list*", "the yardstick's source"),
    (
        "/etc/apt/apt.conf.d/99mmdebstrap",
        "the yardstick's setting",
    ),
    (
        "/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
        "the yardstick's setting",
    ),
    (
        "/usr/lib/systemd/*-preset/00-farrow.preset",
        "Farrow's policy",
    ),
    (
        "/etc/postgresql-common/createcluster.d/00-farrow.conf",
        "Farrow's policy",
    ),
    (
        "/usr/lib/tmpfiles.d/farrow*",
        "what is needed in an empty /var",
    ),
    // With systemd comes what configures a machine at its first boot.
    ("/usr/bin/farrow-bootstrap", "Farrow's program"),
    ("/usr/lib/farrow*", "what an image knows about itself"),
    ("/usr/lib/systemd/system/farrow-*", "Farrow's units"),
    ("/usr/lib/systemd/system.conf.d*", "Farrow's settings"),
    (
        "/usr/lib/systemd/system/systemd-udev-trigger.service.d*",
        "Farrow's settings",
    ),
    (
        "/etc/systemd/system-generators*",
        "generators that an image has no use for",
    ),
    (
        "/etc/systemd/system/*mount",
        "mounts that an image has no use for",
    ),
    ("/www*", "Farrow's mount point"),
    ("/efi", "Farrow's mount point"),
    // The layout of a read-only root: /home, /root, /opt and /srv are links into /var.
    ("/home*", "a link into /var"),
    ("/root*", "a link into /var"),
    ("/opt*", "a link into /var"),
    ("/srv*", "a link into /var"),
    ("/var/home*", "where the link leads"),
    ("/var/roothome*", "where the link leads"),
    ("/var/opt*", "where the link leads"),
    ("/var/srv*", "where the link leads"),
    (
        "/usr/lib/sysimage",
        "where the package database is on a read-only root",
    ),
    ("/data", "a link into /var"),
    ("/var/data", "where the link leads"),
    (
        "/var/lib/dpkg",
        "a link to where the package database is on a read-only root",
    ),
];
