# make          build the program
# make install  copy what make has built to $(DESTDIR)$(PREFIX)/bin
# make demo     bring up throw-away hosts on this machine and show orgalorg on them
# make test     install what the tests need, and run all of them
# make check    formatting, lints, documentation, rules for the repository
# make bench    measure against other tools; prints a table
#
# The test hosts are made of Linux namespaces, which takes root. Only what runs
# on them is run with sudo; everything is built as the user who calls make.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=

HOST_TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
RUNNER_VARIABLE := CARGO_TARGET_$(shell echo '$(HOST_TRIPLE)' | tr 'a-z-' 'A-Z_')_RUNNER
AS_ROOT := $(if $(filter 0,$(shell id -u)),,env $(RUNNER_VARIABLE)='sudo -E')

# Where cargo has put the program. `sudo make install` finds no cargo to ask, and no
# CARGO_TARGET_DIR.
BUILT := .built

.PHONY: all demo test check bench install dependencies bench-dependencies audit

all:
	@rm -f $(BUILT)
	$(CARGO) build --release --locked
	@messages=$$($(CARGO) build --release --locked --quiet --message-format=json) && \
	printf '%s\n' "$$messages" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' >$(BUILT)

demo: dependencies
	$(CARGO) build --locked
	@$(AS_ROOT) $(CARGO) run --quiet --locked --example demo

# .cargo/config.toml has how many tests run at once. Those that measure memory come
# after the others: on a machine with ten runnable programs for each processor the
# printer is behind the hosts, and has more to keep.
test: dependencies
	$(AS_ROOT) $(CARGO) test --locked -- --skip memory
	$(AS_ROOT) $(CARGO) test --locked memory -- --test-threads 2

check: dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked --test repository

bench: bench-dependencies
	$(CARGO) build --release --locked
	$(AS_ROOT) $(CARGO) bench --locked --bench bench

install:
	@if [ ! -f "$$(cat $(BUILT) 2>/dev/null)" ]; then \
		echo "make install: nothing is built yet: run 'make' first, without sudo" >&2; \
		exit 1; \
	fi
	install -D -m 755 "$$(cat $(BUILT))" '$(DESTDIR)$(PREFIX)/bin/orgalorg'

dependencies:
	@tests/install-dependencies

bench-dependencies:
	@tests/install-dependencies pdsh clush:clustershell parallel-scp:pssh

# Needs cargo-deny and the network.
audit:
	$(CARGO) deny check
