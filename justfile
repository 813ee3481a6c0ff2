# One recipe per habit. `just` without arguments lists them.

_default:
    @just --list --unsorted

# Look, change nothing: layout, lints, unit tests
check:
    ./tests/run fmt lint unit

# Rewrite what can be rewritten by machine
fix:
    cargo clippy --fix --allow-dirty --allow-staged --all-targets
    cargo fmt

# All tests, or the suites named
test *suites:
    ./tests/run {{ suites }}

# One seed of the simulator with its log, or as many as you have time for: just sim 7, just sims 100000
sim seed:
    SIM_SEED={{ seed }} cargo test --locked --profile proof --test integration sim::tests::seeds -- --nocapture

# Many seeds; `from` is the first
sims seeds="20000" from="0":
    SIM_SEEDS={{ seeds }} SIM_FROM={{ from }} cargo test --locked --profile proof --test integration sim::tests::seeds -- --nocapture

# Search for inputs that break a decoder: just fuzz, just fuzz records 600. New ones stay in target/fuzz
fuzz target="" seconds="60":
    ./tests/fuzz/search "{{ target }}" {{ seconds }}

# Real faults for so many minutes, or the round of one seed: just soak 60, just soak 1 1234 (target/soak)
soak minutes="10" seed="":
    SOAK_MINUTES={{ minutes }} SOAK_SEED={{ seed }} ./tests/run soak

# The exhaustive search within larger bounds than `./tests/run model`, or those whose name has this in it
model name="":
    MODEL_MORE={{ quote(name) }} cargo test --locked --profile proof --test integration sim::model::tests::nothing -- --nocapture

# A failover on this machine
demo *arguments:
    ./deploy/demo {{ arguments }}

# The figures of one fault: just bench node-kill
bench fault="node-kill" runs="10":
    ./deploy/demo --fault {{ fault }} --runs {{ runs }} --report json

# The figures of every fault
bench-all runs="10":
    for fault in none node-kill pg-kill agent-kill agent-freeze agent-restart agent-term switchover failback pause-kill \
        store-outage store-replace; do \
        ./deploy/demo --fault $fault --runs {{ runs }} --report json || exit 1; \
    done

# What agents and strict synchronous replication cost in transactions, against plain PostgreSQL
bench-synchronous:
    cargo test --release --locked --test integration -- live::bench --ignored --nocapture

# How long clients cannot write beside the double of CloudNativePG at its true times (docs/cnpg/times.md; ten minutes)
measure-cnpg runs="3":
    CNPG_RUNS={{ runs }} cargo test --locked --profile proof --test integration -- cnpg::sites::measure --ignored --nocapture --test-threads 2

# How long the stores' operations take (needs target/tools, see tests/run)
bench-stores:
    cargo test --release --locked --test integration -- conformance::latency --ignored --nocapture

# The binary as it is shipped
build:
    cargo build --release --locked

# The documentation of the code
doc:
    cargo doc --no-deps --open

# Licences and origins of all dependencies (needs `cargo install cargo-deny`; a few minutes to build)
deny:
    cargo deny --config .deny.toml check licenses bans sources

# Dependencies nobody uses (needs `cargo install cargo-machete`; two minutes to build)
unused:
    cargo machete
