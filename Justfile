# Short names for what developers do. CI and README call the same commands.

# Recipe to running machines.
up *ARGS:
    cargo run --release -- up {{ARGS}}

# farrow-bootstrap and farrow-init for images of 64-bit Arm, with a compiler of Debian: just bootstrap-arm64 DIR
bootstrap-arm64 DIR:
    cargo build --release
    bootstrap/arm64/build {{DIR}}

# All tests, end to end.
test:
    cargo test --release --workspace

# What a change must pass before it is committed.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Speed and size, with the yardstick beside: just bench [BASELINE_SCRIPT PACKAGES_FILE]
bench *ARGS:
    cargo build --release --workspace --bins
    target/release/bench {{ARGS}}

# Speed and size of images, each figure beside its bar: just bench-image [BASELINE_SCRIPT PACKAGES_FILE]
bench-image *ARGS:
    cargo build --release --workspace --bins
    target/release/bench-image {{ARGS}}

# Speed of the sandbox of four machines in containers; after a run of the tests, whose image it uses.
bench-fleet *ARGS:
    cargo build --release --workspace --bins
    target/release/bench-fleet {{ARGS}}

# Random tests with their full figures, hours of them, into docs/soak.md: just soak [killed|flipped|closures|kills-of-bakes|flipped-images|roots|fuzz|"fuzz READER"…]
soak *ARGS:
    cargo run --release -p e2e --bin soak -- {{ARGS}}

# Every reader of outside input under libFuzzer for so many seconds each, into docs/soak.md; needs a C++ compiler.
fuzz SECONDS="600":
    FARROW_FUZZ_SECONDS={{SECONDS}} cargo run --release -p e2e --bin soak -- fuzz

# Speed of everything that has to do with repositories, beside apt, aptly, curl and sha256sum, on a loopback mirror.
bench-repo *ARGS:
    cargo build --release --workspace --bins
    target/release/bench-repo {{ARGS}}
