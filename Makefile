# `make help` lists the targets. Every target that needs packages sees to them
# first (scripts/setup): on a Debian machine, as root, it installs what is
# missing by name; otherwise it says what to install.

PREFIX  ?= /usr/local
DESTDIR ?=
bindir  := $(DESTDIR)$(PREFIX)/bin
docdir  := $(DESTDIR)$(PREFIX)/share/doc/denovo

# Where Debian keeps libseccomp's archive; .cargo/config.toml has a default for
# one architecture only, and what stands in the environment wins over it.
libseccomp := $(wildcard /usr/lib/$(shell uname -m)-linux-gnu)
ifneq ($(libseccomp),)
export LIBSECCOMP_LIB_PATH ?= $(libseccomp)
endif

# The build names its target (.cargo/config.toml says why), so that cargo's own
# copy lies below a folder named after it; this one has a fixed place, and
# `sudo make install` after `make build` needs no Rust for root.
binary  := target/denovo
plugin  := target/denovo_spank.so
sources := $(shell find src patches .cargo build.rs Cargo.toml Cargo.lock scripts/ordered-cc benches/order -type f)

.DEFAULT_GOAL := help
.PHONY: help build spank demo demo-images test test-slurm-24 test-vm check fuzz bench bench-mpi isolation install clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*\#\# \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

build: $(binary) ## the release binary, static: target/denovo
	@:

$(binary): $(sources)
	@scripts/setup build
	cargo build --release --locked
	@cp -f "$${CARGO_TARGET_DIR:-target}/$$(rustc -vV | sed -n 's/^host: //p')/release/denovo" $@

spank: ## the plugin for the Slurm that is installed here: target/denovo_spank.so
	@scripts/setup spank
	@$(MAKE) --no-print-directory $(plugin)

# With flags of its own (denovo's are for a static program), and a folder of
# its own, so that neither build throws away the other's work.
$(plugin): $(shell find spank -type f) Cargo.toml Cargo.lock
	RUSTFLAGS="-C strip=symbols" cargo build --locked --package denovo-spank --profile spank --target-dir target/spank
	@cp -f "target/spank/$$(rustc -vV | sed -n 's/^host: //p')/spank/libdenovo_spank.so" $@

demo: ## a real MPI program inside and outside an environment, side by side (about 2 minutes)
	@scripts/setup demo
	@$(MAKE) --no-print-directory build
	@demo/run $(binary)

demo-images: ## one MPI program in Debian 11, 12 and 13 at the same time (minutes the first time)
	@scripts/setup build images
	@$(MAKE) --no-print-directory build
	@demo/releases/run $(binary)

check: ## form, lints, unit tests: what every commit passes (under 2 minutes)
	@scripts/setup check
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --lib

test: ## everything CI runs: check, then the tests on the real kernel
	@scripts/setup test
	@scripts/test

test-slurm-24: ## the Slurm tests with Slurm 24.11, in a root of Debian 13
	@scripts/setup test
	@tests/slurm/lane

test-vm: ## the tests in virtual machines with other kernels, as root and as a user
	@scripts/setup vm
	@tests/vm/run $(KERNELS)

fuzz: ## lets the fuzz targets run for a minute each (minutes to build the first time)
	@scripts/setup fuzz
	@fuzz/run

isolation: ## what a job can notice here, written into docs/isolation.md (a minute, as root)
	@$(MAKE) --no-print-directory build
	@scripts/isolation-table $(binary)

bench: ## start-up and memory against crun, runc, bubblewrap and the kernel's floor
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@benches/run $(binary)
	@benches/inside/run $(binary)

bench-mpi: ## MPI inside against the bare node, and a job beside a greedy one
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	@benches/mpi/run $(binary)
	@$(MAKE) --no-print-directory spank
	@benches/mpi/srun $(binary) $(plugin)

install: $(binary) ## binary and licence to PREFIX (/usr/local), below DESTDIR if given
	install -d $(bindir) $(docdir)
	install -m 755 $(binary) $(bindir)/denovo
	install -m 644 LICENSE README.md CHANGELOG.md $(docdir)

clean: ## remove everything that was built
	cargo clean
