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

# Nothing here is made by make's own rules, and looking through them for every source takes longer than all else.
MAKEFLAGS += --no-builtin-rules

# Where 'install' puts things; DESTDIR is put before it.
PREFIX ?= /usr/local
DESTDIR ?=

BIN := target/release
TOOLS := rootfs-fetch netns-setup cgroup-apply ns-spawn
# Those that .cargo/link-statically links without shared libraries.
STATIC := netns-setup cgroup-apply ns-spawn
# Manual pages and completions, as the tools themselves print them.
GENERATED := $(BIN)/generated
PACKAGE := container-taken-apart
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
.PHONY: help container run rootfs network undo build gone test test-vm bench lint clean
.PHONY: start-order check check-host expected deny generated install uninstall deb test-deb

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-11s %s\n' "$$target" "$$text"; done
	@printf '\nVariables: ROOTFS=%s ROOTFS_FLAGS=%s\n  NETNS=%s NETNS_FLAGS=%s\n' \
		'$(ROOTFS)' '$(ROOTFS_FLAGS)' '$(NETNS)' '$(NETNS_FLAGS)'
	@printf '  CGROUP=%s PIDS_MAX=%s MEMORY_MAX=%s SPAWN_FLAGS=%s CMD="%s"\n' \
		'$(CGROUP)' '$(PIDS_MAX)' '$(MEMORY_MAX)' '$(SPAWN_FLAGS)' "$$CMD"

container: rootfs network ## Start bash in the container
	@$(CHAIN) /bin/bash

run: rootfs network ## Run CMD="..." in the container
	@$(CHAIN) /bin/sh -c "$$CMD"

# Its second attempt is for a machine that reaches only an apt mirror and has no mmdebstrap yet, nor package lists.
rootfs: build ## Make the root file system
	@fetch='$(FETCH)'; \
	if command -v mmdebstrap debootstrap apt-get | grep --quiet bootstrap || ! command -v apt-get >/dev/null; then \
		$$fetch >/dev/null; \
	elif ! $$fetch >/dev/null; then \
		echo "make: installing mmdebstrap with apt-get, to build the tree from the host's apt mirror" >&2; \
		$(SUDO) apt-get update --quiet >&2; \
		$(SUDO) apt-get install --yes --no-install-recommends mmdebstrap >&2; \
		$$fetch >/dev/null; \
	fi

network: build ## Make the network namespace
	@$(SUDO) $(BIN)/netns-setup up $(NETNS_FLAGS) $(NETNS) >/dev/null

# cargo takes a quarter of a second to find that there is nothing to do: make asks it only where something has changed.
# A directory is newer, too, when a file has come or gone.
SOURCES := $(wildcard Cargo.* .cargo/* $(foreach part,*.* src src/* src/*/* seccomp/* keys/*,$(TOOLS:%=%/$(part))))
GONE := $(filter-out $(wildcard $(TOOLS:%=$(BIN)/%)),$(TOOLS:%=$(BIN)/%))

build: $(BIN)/.built ## Build the four tools

$(BIN)/.built: $(SOURCES) $(if $(GONE),gone)
	@command -v cargo >/dev/null || { \
		echo "make: cargo is missing: install Rust as https://rustup.rs says" >&2; exit 1; }
	@command -v cc >/dev/null || { \
		echo "make: a C compiler is missing: 'apt-get install gcc libc6-dev' installs one" >&2; exit 1; }
	@$(if $(GONE),echo "make: building the tools: some minutes for the first time" >&2)
	@cargo build --release --locked --quiet --workspace --exclude tests --exclude benches
	@touch $@

# Who starts this in the background of a script, or with nohup, has it ignore signals that tests are about.
test: build ## Run the unit and the black-box tests
	@tests/prepare
	BIN_DIR='$(CURDIR)/$(BIN)' env --default-signal=HUP,INT,QUIT \
		cargo test --workspace --locked --no-fail-fast $(and $(SUDO),$(RUN_AS_ROOT))

test-vm: build ## Run those that depend on the kernel in VMs, with cgroup v2 and with v1
	@BIN_DIR='$(CURDIR)/$(BIN)' tests/vm/run

bench: bench-all ## Measure them beside other tools; 'make bench-startup ROUNDS=5' is a part of it

# Its own speed does not matter: no need to build it optimised. What does not make a container needs no root. The tools
# are copies, as installed ones are: what the linker wrote is mapped in smaller pieces.
bench-%: build
	@cargo build --locked --quiet --package benches
	@install -D --target-directory=target/bench/bin $(BIN)/rootfs-fetch $(BIN)/netns-setup $(BIN)/cgroup-apply $(BIN)/ns-spawn
	@$(if $(filter sizes build docs,$*),,$(SUDO)) BIN_DIR='$(CURDIR)/target/bench/bin' target/debug/bench $* $(and $(ROUNDS),--rounds $(ROUNDS))

# From a trace of their starts. Written anew when the code or the compiler has changed much; what a list names in vain is
# passed over.
start-order: build ## Tell the linker anew which functions a start of the tools calls
	@mkdir -p target/bench
	@for tool in $(STATIC); do \
		cargo rustc --release --locked --quiet --package $$tool --bin $$tool -- \
			-C link-arg=-Wl,-Map=$(CURDIR)/target/bench/$$tool.map || exit 1; done
	@$(MAKE) --no-print-directory bench-order
	@for tool in $(STATIC); do cp target/bench/$$tool.ld $$tool/start.ld || exit 1; done

fuzz: ## Feed what reads lists, PAX records and paths with random input
	@for target in sums pax paths; do \
		mkdir -p target/fuzz/corpus/$$target && \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir rootfs-fetch/fuzz --target-dir target/fuzz --sanitizer none $$target \
			target/fuzz/corpus/$$target rootfs-fetch/fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

check: lint test ## Lint and test: do it before you commit

expected: build ## Write tests/expected/*-help.txt anew
	UPDATE_EXPECTED=1 BIN_DIR='$(CURDIR)/$(BIN)' cargo test --package tests --locked help_is_as_expected

check-host: build ## Say what this machine can do, and what helps where it cannot
	@able=0; \
	echo 'ns-spawn:'; $(SUDO) $(BIN)/ns-spawn --check || able=1; \
	echo 'rootfs-fetch:'; $(SUDO) $(BIN)/rootfs-fetch --check || able=1; \
	echo 'netns-setup:'; if $(SUDO) $(BIN)/netns-setup up --nat --forward-accept --dry-run $(NETNS) >/dev/null; then \
		echo 'yes  links, and a masquerade that nft makes'; else able=1; fi; \
	echo 'cgroup-apply:'; $(SUDO) $(BIN)/cgroup-apply info || able=1; \
	exit $$able

deny: ## Check the dependencies' licences and sources, with cargo-deny
	cargo deny --config .deny.toml check licenses bans sources

generated: build
	@mkdir -p $(GENERATED)
	@for tool in $(TOOLS); do for format in man bash zsh fish; do \
		$(BIN)/$$tool --generate $$format >$(GENERATED)/$$tool.$$format || exit 1; done; done

install: generated ## Install the tools, their manual pages and completions under PREFIX
	@for tool in $(TOOLS); do \
		install -D --mode=755 $(BIN)/$$tool '$(DESTDIR)$(PREFIX)/bin/'$$tool && \
		install -D --mode=644 $(GENERATED)/$$tool.man '$(DESTDIR)$(PREFIX)/share/man/man1/'$$tool.1 && \
		install -D --mode=644 $(GENERATED)/$$tool.bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/'$$tool && \
		install -D --mode=644 $(GENERATED)/$$tool.zsh '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_'$$tool && \
		install -D --mode=644 $(GENERATED)/$$tool.fish '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/'$$tool.fish \
		|| exit 1; done

uninstall: ## Remove what 'install' put there
	@cd '$(DESTDIR)$(PREFIX)' && for tool in $(TOOLS); do \
		rm --force bin/$$tool share/man/man1/$$tool.1 share/bash-completion/completions/$$tool \
			share/zsh/site-functions/_$$tool share/fish/vendor_completions.d/$$tool.fish; done

deb: generated ## Make a Debian package in target/debian, with cargo-deb
	@command -v cargo-deb >/dev/null || { \
		echo "make: cargo-deb is missing: 'cargo install --locked cargo-deb@3.8.0' installs it" >&2; exit 1; }
	@maintainer=$$(sed -n 's/^maintainer = "\(.*\)"/\1/p' ns-spawn/Cargo.toml); \
	ns-spawn/deb/changelog $(PACKAGE) "$$maintainer" <CHANGELOG.md >$(GENERATED)/changelog
	@mkdir -p $(GENERATED)/deb/bash $(GENERATED)/deb/zsh
	@for tool in $(TOOLS); do \
		gzip --best --no-name --stdout $(GENERATED)/$$tool.man >$(GENERATED)/$$tool.1.gz && \
		cp $(GENERATED)/$$tool.bash $(GENERATED)/deb/bash/$$tool && \
		cp $(GENERATED)/$$tool.zsh $(GENERATED)/deb/zsh/_$$tool || exit 1; done
	@rm --force target/debian/$(PACKAGE)_*.deb
	cargo deb --no-build --package ns-spawn

test-deb: deb ## Check it with lintian; install, run and remove it in a scratch root
	@tests/deb/run target/debian/$(PACKAGE)_*.deb

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
