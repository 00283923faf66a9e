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

# The crash test with more kills than CI has time for.
crash runs="400":
    CHORDAL_CRASH_RUNS={{runs}} cargo test --test crash -- --nocapture

# More random canvases against the model of Celery's semantics than the tests try.
canvases n="200000":
    CHORDAL_CELERY_CANVASES={{n}} cargo test --release --test celery engine

# Criterion benchmarks: the machines' way through memory, and the commit.
bench:
    cargo bench

# The speedometer over its shapes, one JSON line each.
speed n="100000":
    cargo build --release --example throughput
    for shape in group chord; do target/release/examples/throughput --json --shape $shape --n {{n}}; done
    for shape in chain latency; do target/release/examples/throughput --json --shape $shape --n 1000; done
