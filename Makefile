# A Linux container by hand: four small tools, chained. 'make help' lists what there is.

# What you may want to change, on the command line or in the environment:
ROOTFS ?= rootfs
ROOTFS_FLAGS ?=
NETNS ?= container_network_ns
NETNS_FLAGS ?= $(if $(shell PATH="$$PATH:/usr/sbin:/sbin" command -v nft),--nat --forward-accept)
CGROUP ?= container
PIDS_MAX ?= 64
MEMORY_MAX ?= 512M
SPAWN_FLAGS ?=
CMD ?= hostname
FUZZ_SECONDS ?= 120

BIN := target/release
# Everything is built as you; the tools need root.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

LIMITED := $(SUDO) $(BIN)/cgroup-apply run --pids-max $(PIDS_MAX) --memory-max $(MEMORY_MAX) $(CGROUP) --
# Where none of the tarball's servers is reached, the host's own apt mirror does, unless you say what to take.
OR_BOOTSTRAP := $(if $(filter --bootstrap% --from%,$(ROOTFS_FLAGS)),,--or-bootstrap)
FETCH := $(SUDO) $(BIN)/rootfs-fetch $(OR_BOOTSTRAP) $(ROOTFS_FLAGS) $(ROOTFS)
CHAIN := $(LIMITED) $(BIN)/ns-spawn --netns $(NETNS) --root $(ROOTFS) $(SPAWN_FLAGS) --

# Tests are built as you, too.
RUN_AS_ROOT := --config "target.'cfg(all())'.runner='sudo --preserve-env=BIN_DIR,MUST_RUN,PATH'"

export CMD
.DEFAULT_GOAL := help
.PHONY: help container run rootfs network undo build test test-vm bench lint clean

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-10s %s\n' "$$target" "$$text"; done
	@printf '\nVariables: ROOTFS=%s ROOTFS_FLAGS=%s\n  NETNS=%s NETNS_FLAGS=%s\n' \
		'$(ROOTFS)' '$(ROOTFS_FLAGS)' '$(NETNS)' '$(NETNS_FLAGS)'
	@printf '  CGROUP=%s PIDS_MAX=%s MEMORY_MAX=%s SPAWN_FLAGS=%s CMD="%s"\n' \
		'$(CGROUP)' '$(PIDS_MAX)' '$(MEMORY_MAX)' '$(SPAWN_FLAGS)' "$$CMD"

container: rootfs network ## Start bash in the container
	@$(CHAIN) /bin/bash

run: rootfs network ## Run CMD="..." in the container
	@$(CHAIN) /bin/sh -c "$$CMD"

# Its second attempt is for a machine that reaches only an apt mirror and has no mmdebstrap yet.
rootfs: build ## Make the root file system
	@fetch='$(FETCH)'; \
	if command -v mmdebstrap debootstrap apt-get | grep --quiet bootstrap || ! command -v apt-get >/dev/null; then \
		$$fetch >/dev/null; \
	elif ! $$fetch >/dev/null; then \
		echo "make: installing mmdebstrap with apt-get, to build the tree from the host's apt mirror" >&2; \
		$(SUDO) apt-get install --yes --no-install-recommends mmdebstrap >&2; \
		$$fetch >/dev/null; \
	fi

network: build ## Make the network namespace
	@$(SUDO) $(BIN)/netns-setup up $(NETNS_FLAGS) $(NETNS) >/dev/null

build: ## Build the four tools
	@command -v cargo >/dev/null || { \
		echo "make: cargo is missing: install Rust as https://rustup.rs says" >&2; exit 1; }
	@command -v cc >/dev/null || { \
		echo "make: a C compiler is missing: 'apt-get install gcc libc6-dev' installs one" >&2; exit 1; }
	@cargo build --release --locked --quiet --workspace --exclude tests --exclude benches

test: build ## Run the unit and the black-box tests
	@tests/prepare
	BIN_DIR='$(CURDIR)/$(BIN)' cargo test --workspace --locked --no-fail-fast $(and $(SUDO),$(RUN_AS_ROOT))

test-vm: build ## Run those that depend on the kernel in VMs, with cgroup v2 and with v1
	@BIN_DIR='$(CURDIR)/$(BIN)' tests/vm/run

bench: bench-all ## Measure them beside other tools; 'make bench-startup ROUNDS=5' is a part of it

# Its own speed does not matter: no need to build it optimised. What does not make a container needs no root.
bench-%: build
	@cargo build --locked --quiet --package benches
	@mkdir -p target/bench
	@$(if $(filter sizes build docs,$*),,$(SUDO)) BIN_DIR='$(CURDIR)/$(BIN)' target/debug/bench $* $(and $(ROUNDS),--rounds $(ROUNDS))

fuzz: ## Feed what reads lists, PAX records and paths with random input
	@for target in sums pax paths; do \
		mkdir -p target/fuzz/corpus/$$target && \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir rootfs-fetch/fuzz --target-dir target/fuzz --sanitizer none $$target \
			target/fuzz/corpus/$$target rootfs-fetch/fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

lint: ## Check format and lints
	cargo fmt --all --check
	cargo fmt --manifest-path rootfs-fetch/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings

undo: ## Undo what 'container' made: cgroup, network, root file system
	@if [ -x $(BIN)/netns-setup ]; then \
		$(SUDO) $(BIN)/cgroup-apply delete --kill $(CGROUP) && $(SUDO) $(BIN)/netns-setup down $(NETNS); \
	elif [ -e /run/netns/$(NETNS) ]; then \
		echo "make: 'make build' first: the tools undo what they made" >&2; exit 1; \
	fi
	@for tree in '$(ROOTFS)' '$(dir $(ROOTFS)).$(notdir $(ROOTFS)).partial'; do \
		if [ -e "$$tree" ]; then $(SUDO) rm --recursive --force --one-file-system -- "$$tree"; fi; done

clean: undo ## The same, then remove what was built
	@if [ -e target ]; then $(SUDO) rm --recursive --force --one-file-system target; fi
