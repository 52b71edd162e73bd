# Hyperfleet init. `make` builds it, `make run` boots it, `make help` lists all.
# What takes more than a line is done by the Go tools in cmd/.

# SHELL=1 asks `make run` for a shell in the guest, but SHELL is also the
# variable that names the shell which make runs these lines with: what was given
# is noted and make gets its own back. A real shell's path is left alone.
ifeq ($(origin SHELL),command line)
ifeq ($(findstring /,$(SHELL)),)
GUEST_SHELL := $(filter-out 0 no,$(SHELL))
override SHELL := /bin/sh
endif
endif

ARCH       ?= $(shell go env GOHOSTARCH)
OUTPUT_DIR ?= assets/init
BUILD_DIR  ?= build
FUZZTIME   ?= 10s
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null)
USERLAND   ?= 1
BENCH_SVG  ?= $(BUILD_DIR)/bench.svg

LDFLAGS := $(shell cat cmd/hf/ldflags) -X github.com/hyperfleet/init/applets/internal/version.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOTESTSUM := gotest.tools/gotestsum@v1.13.0

# A machine with other work loses its time now and then, an emulated one above all. Up
# to two tests that fail are run once more, and are listed as failures in any case.
gotestsum = go run $(GOTESTSUM) --format standard-quiet --rerun-fails=1 --rerun-fails-max-failures=2 --rerun-fails-run-root-test

# A pure Go program is static and needs no C compiler for any architecture.
gobuild = CGO_ENABLED=0 GOOS=linux GOARCH=$(1) go build -trimpath -ldflags "$(LDFLAGS)" -o "$(2)" ./cmd/hf
init    = $(BUILD_DIR)/init-$(ARCH)
hf-vm   = $(BUILD_DIR)/bin/hf-vm
hf-bench = $(BUILD_DIR)/bin/hf-bench
# hf-rootfs runs on this machine, whatever ARCH is.
hf-rootfs = go run ./cmd/hf-rootfs --init $(init) --arch $(ARCH)
rootfs  = $(hf-rootfs) \
	$(if $(filter-out 0 no,$(USERLAND)),--userland) \
	$(if $(MODULES),--modules "$(MODULES)") $(foreach d,$(OVERLAY),--overlay "$(d)")
vmflags = --build "$(BUILD_DIR)" --arch $(ARCH)
runflags = $(vmflags) $(if $(VERSION),--version-string "$(VERSION)") $(if $(KERNEL),--kernel "$(KERNEL)") \
	$(if $(KERNEL),$(if $(MODULES),--modules "$(MODULES)")) $(if $(CONSOLE),--console) $(if $(MEMORY),--memory $(MEMORY)) \
	$(if $(ACCEL),--accel $(ACCEL))

.DEFAULT_GOAL := build
.PHONY: bench build build-amd64 build-arm64 all fuzz install rootfs initramfs image run shell soak test test-vm lint clean help \
	init hf-vm deps-test

build: ## this machine's binary → OUTPUT_DIR/init
	$(call gobuild,$(ARCH),$(OUTPUT_DIR)/init)

build-amd64 build-arm64: build-%: ## → OUTPUT_DIR/init-amd64, OUTPUT_DIR/init-arm64
	$(call gobuild,$*,$(OUTPUT_DIR)/init-$*)

all: build-amd64 build-arm64 ## both architectures

init:
	@$(call gobuild,$(ARCH),$(init))

hf-vm:
	@go build -o $(hf-vm) ./cmd/hf-vm

install: ## put the binary and its links into the root filesystem ROOTFS=DIR
	@if [ -z "$(ROOTFS)" ]; then echo "make install: ROOTFS=DIR is missing: the root filesystem to install into" >&2; exit 2; fi
	@$(MAKE) --no-print-directory init
	$(hf-rootfs) install "$(ROOTFS)"

rootfs: init ## a root filesystem as a directory → BUILD_DIR/rootfs/
	$(rootfs) dir $(BUILD_DIR)/rootfs

initramfs: init ## … as an initramfs → BUILD_DIR/initramfs-ARCH.cpio.gz
	$(rootfs) cpio $(BUILD_DIR)/initramfs-$(ARCH).cpio.gz

image: init hf-vm ## … as an ext4 image → BUILD_DIR/rootfs-ARCH.ext4
	@$(hf-vm) deps image
	$(rootfs) ext4 $(BUILD_DIR)/rootfs-$(ARCH).ext4

run: hf-vm ## boot a VM, call one operation after the other, power it off (SHELL=1: a shell in it)
	@$(hf-vm) run $(runflags) $(if $(GUEST_SHELL),--shell)

shell: hf-vm ## the same as `make run SHELL=1`
	@$(hf-vm) run $(runflags) --shell

deps-test: hf-vm
	@$(hf-vm) deps --race test

# VMs last: they take the longest and prove the least when a unit test fails.
test: deps-test ## everything: vet, unit, race, fuzz, namespace and VM tests
	go vet ./...
	$(gotestsum) --packages=./... -- -timeout 20m
	CGO_ENABLED=1 $(gotestsum) --packages=./... -- -timeout 20m -race
	@$(MAKE) --no-print-directory fuzz FUZZTIME=2s
	@$(MAKE) --no-print-directory test-vm

# One after the other: go test takes one target at a time. Little time goes into
# making an input smaller that is merely new. The end of the time itself is reported
# as a failure where it comes at a bad moment.
fuzz: ## each fuzz target for FUZZTIME
	@mkdir -p $(BUILD_DIR)
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' applets cmd rootfs-skel | sort | while IFS=: read -r file target; do \
		echo "fuzz $${file%/*} $${target#func }"; \
		go test -run '^$$' -fuzz "^$${target#func }\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x -parallel 2 "./$${file%/*}" >$(BUILD_DIR)/fuzz.log 2>&1 || \
			grep -qx ' *context deadline exceeded' $(BUILD_DIR)/fuzz.log || { cat $(BUILD_DIR)/fuzz.log; exit 1; }; \
	done

test-vm: deps-test ## the tests in real VMs alone
	HF_VM=1 $(gotestsum) --packages=./cmd/hf-vm/... -- -count=1 -timeout 30m $(TESTFLAGS)

test-nested: deps-test ## the tests from a host's side where KVM and vhost-vsock must be emulated: minutes
	HF_NESTED=1 HF_VM=1 go test -count=1 -timeout 60m -v -run '^TestVMHost$$' ./cmd/hf-vm

# The JSON is of this machine; docs/bench.svg is drawn by a run on a quiet one.
bench: deps-test ## every figure beside its floor: 10 minutes → BUILD_DIR/bench.json, bench.md, BENCH_SVG
	@CGO_ENABLED=0 go build -o $(hf-bench) ./cmd/hf-bench
	@$(hf-bench) -json $(BUILD_DIR)/bench.json -svg $(BENCH_SVG) -markdown $(BUILD_DIR)/bench.md $(if $(VERSION),-version-string "$(VERSION)") $(BENCHFLAGS)

soak: deps-test ## the long forms: 100,000 commands beside 10,000 orphans, 64 x 100 MiB at once, a host's 50 x 20 MiB: two hours
	HF_SOAK=1 go test -count=1 -timeout 60m -v -run '^TestSoak$$' ./applets/initd
	HF_SOAK=1 go test -count=1 -timeout 60m -v -run '^TestMemoryOf' ./applets/agent
	HF_SOAK=1 HF_NESTED=1 HF_VM=1 go test -count=1 -timeout 150m -v -run '^TestVMHost$$' ./cmd/hf-vm

lint: ## gofmt, vet for every system it builds for, staticcheck
	@unformatted=$$(gofmt -l .) && if [ -n "$$unformatted" ]; then echo "gofmt these:" $$unformatted >&2; exit 1; fi
	GOOS=linux GOARCH=amd64 go vet ./...
	GOOS=linux GOARCH=arm64 go vet ./...
	GOOS=darwin go vet ./cmd/hf ./applets/vsockclient ./applets/client ./applets/wire
	go run $(STATICCHECK) ./...

clean: ## remove what was built
	rm -rf $(BUILD_DIR)
	rm -f $(addprefix $(OUTPUT_DIR)/,init init-amd64 init-arm64)

help: ## this list
	@echo "targets:"
	@sed -n 's/^\([a-z0-9 -]*\):.*## \(.*\)/  \1|\2/p' Makefile | sort | while IFS='|' read -r t d; do printf '  %-26s %s\n' "$$t" "$$d"; done
	@echo "variables:"
	@printf '  %-26s %s\n' \
		'ARCH=amd64|arm64' 'for rootfs, initramfs, image, run (this machine: $(ARCH))' \
		'OUTPUT_DIR=DIR' 'of the binaries ($(OUTPUT_DIR))' \
		'BUILD_DIR=DIR' 'of everything else ($(BUILD_DIR))' \
		'USERLAND=0' 'no shell and commands in the root filesystem' \
		'MODULES=DIR' 'of a kernel: add those that vsock needs' \
		'OVERLAY="DIR..."' 'your own trees on top' \
		'FUZZTIME=TIME' 'for fuzz: of each target ($(FUZZTIME))' \
		'BENCHFLAGS=FLAGS' 'for bench: -short, -row REGEXP, -no-vm' \
		'BENCH_SVG=FILE' 'for bench: the chart ($(BENCH_SVG))' \
		'KERNEL=FILE' 'for run: your own kernel (with MODULES=)' \
		'ACCEL=kvm|tcg' 'for run: KVM without trying it, or software (default: KVM if it works)' \
		'CONSOLE=1 MEMORY=MIB' 'for run: show the console; memory'
