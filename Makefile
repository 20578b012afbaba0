# make help says what there is. Everything runs with plain cargo too; this only knows the order.
.DEFAULT_GOAL := help
# rustup puts cargo where a root shell does not look.
export PATH := $(HOME)/.cargo/bin:$(PATH)
BIN := target/x86_64-unknown-linux-gnu/release

.PHONY: help deps build deb demo test bench soak lint clean-lab

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

deps: ## Install the Debian packages a build, the demo and the tests need, where missing
	scripts/deps.sh test

build: ## Release build of everything
	scripts/deps.sh build
	cargo build --release --workspace

deb: ## The Debian package, in target/debian
	scripts/deps.sh build
	cargo build --release --workspace
	scripts/deb.sh

demo: ## Three closed networks on one server, end to end (root)
	scripts/deps.sh demo
	cargo build --release --workspace
	$(BIN)/lab demo

test: ## All tests, also those that need root and foreign kernels
	scripts/deps.sh test
	scripts/test.sh

bench: ## Speed against a raw veth pair and the by-hand kernel way, and the floors (root, an otherwise idle machine)
	scripts/deps.sh test
	cargo build --release --workspace --examples --bins
	$(BIN)/bench --plot docs/scale.svg

soak: ## Long forms of the transfers and of the hostile customer, the version before, thousands of tenants (root; about an hour)
	scripts/deps.sh test
	cargo build --release --workspace
	scripts/previous.sh
	cargo test --release -p system-tests --test system -- upgrade::
	FULL=1 cargo test --release -p tenantd --test power_cut
	SEED=random HISTORIES=30000 cargo test --release -p tenantd --lib -- model_tests
	FULL=1 cargo test --release -p system-tests --test system -- large::
	FULL=1 cargo test --release -p system-tests --test system -- hostile::
	FULL=1 cargo test --release -p system-tests --test system -- declare::
	FULL=1 cargo test --release -p system-tests --test system -- kill_points::
	FULL=1 cargo test --release -p system-tests --test system -- scale::
	FULL=1 cargo test --release -p system-tests --test system -- churn::

lint: ## Format, clippy and rustdoc, warnings as errors
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

clean-lab: ## Take down every lab of this machine
	[ ! -x $(BIN)/lab ] || $(BIN)/lab down --all
