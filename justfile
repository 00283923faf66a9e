# The tasks of this project; `just` lists them.

default:
    @just --list

# What CI runs.
ci:
    .ci/run

# The README's own test command.
test:
    cargo test

# Format and lint as CI wants it.
tidy:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, sources and advisories of the dependencies (deny.toml); needs `cargo install cargo-deny`.
deny:
    cargo deny check

# The crash test with more kills than CI has time for.
crash runs="400":
    CHORDAL_CRASH_RUNS={{runs}} cargo test --test crash -- --nocapture

# More random canvases against the model of Celery's semantics than the tests try.
canvases n="200000":
    CHORDAL_CELERY_CANVASES={{n}} cargo test --release --test celery engine

# The engine on one thread, by seeds: crashes, failing stores, late and doubled words.
simulate seeds="20000":
    cargo run --release --bin simulate -- --seeds {{seeds}}

# Any bytes for each decoder, in turn; needs `cargo install cargo-fuzz`. (Its flags are a nightly compiler's;
# a stable one takes them when it is told to.) `cargo test` runs the corpus, and mutations of it.
fuzz seconds="60":
    for target in definition record log celery_json; do RUSTC_BOOTSTRAP=1 cargo fuzz run $target -- -max_total_time={{seconds}} || exit 1; done

# Every promise of RELIABILITY.md with its trials, about ten minutes; `--quick`, `--only G3,G4`,
# `--controls` (rules switched off: each has to turn a check red). Power cuts and full disks need root.
rig *options:
    cargo run --package rig -- {{options}}

# The same with so many times as many trials, and the fuzz targets, before a release.
soak times="100": fuzz
    cargo run --package rig -- --times {{times}}

# All benchmarks, some minutes: criterion's, then the table of docs/benchmarks.md.
bench:
    cargo bench --package chordal

# That table alone: each row, and its share of what the machine allows with no engine.
speed:
    cargo bench --package chordal --bench speed

# chordal beside Celery and others; installs them first. `just compare --only chordal --publish`
# measures our rows of docs/benchmarks.md again.
compare *options:
    benches/compare/run {{options}}
