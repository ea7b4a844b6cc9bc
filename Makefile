# SPDX-License-Identifier: Apache-2.0
#
# Two commands matter: `make demo` and `make test`. Both install what is missing first (scripts/setup.sh), and both
# work from a clean checkout. Everything made lands in build/, .venv/ and .setup/, which git ignores.

PY := .venv/bin/python
CC := clang
FUZZ_CC := clang
FUZZ_SECONDS := 6 # two run side by side, each on about half of the machine
JOBS := 2
PYTEST_WORKERS := 3 # one more than cores: live tests mostly wait

# One C unit test = one file that includes the production sources it tests. Sanitizers stop at the first report.
TEST_CFLAGS := -std=gnu11 -Wall -Wextra -Werror -fno-wrapv -fno-omit-frame-pointer \
	-fno-sanitize-recover=all -Inative/include -Inative
TEST_LIBS := -lm -lpthread
NATIVE := build/native
# Compiling is most of a unit test's time: no optimisation and no forced inlining make it a seventh.
UNIT_CFLAGS := -O0 -g1 -Wno-unused-function '-DPAL_INLINE=static inline __attribute__((unused))' -fsanitize=address,undefined
FUZZ_CFLAGS := -O1 -g -fsanitize=fuzzer,address,undefined
ENGINE_FUZZ_CFLAGS := -O1 -g -fsanitize=fuzzer-no-link,address,undefined
NATIVE_TESTS := $(patsubst native/tests/%.c,$(NATIVE)/%,$(wildcard native/tests/test_*.c))
# The same for another processor, by Debian's cross compiler and qemu's emulation of its programs (without sanitizers, which do
# not run in it).
AARCH64 := CC=aarch64-linux-gnu-gcc RUN=qemu-aarch64 TEST_SECONDS=3600 NATIVE=build/aarch64 TEST_LIBS='$(TEST_LIBS) -static' \
	UNIT_CFLAGS="-O1 -g1 -Wno-unused-function -Wno-maybe-uninitialized '-DPAL_INLINE=static inline __attribute__((unused))'"
# Programs with a whole engine in them are linked with one archive of it: most of what they would compile. A program that
# includes a source for its statics has that source's symbols already, and the archive's object stays out.
ENGINE := $(filter-out native/engine/bench%,$(wildcard native/engine/*.c)) $(wildcard native/io/*.c) native/tests/support/rig_stages.c
RIG := $(shell grep -lE '"(\.\./tests/)?support/(host_)?rig.h"' native/tests/test_*.c native/fuzz/fuzz_*.c)
FUZZERS := $(patsubst native/fuzz/%.c,build/fuzz/%,$(wildcard native/fuzz/fuzz_*.c))

.PHONY: help setup build demo test test-long lint native-tests fuzz bench conformance uninstall clean \
	native-tests-aarch64 setup-build setup-demo setup-test setup-bench FORCE

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1 \t\2/p' Makefile | expand -t 24

setup: setup-test ## install what is missing: Debian packages by one apt line, Python packages into .venv

setup-build setup-demo setup-test setup-bench: setup-%: FORCE
	@scripts/setup.sh $*

FORCE:

build: setup-build ## compile the packet core into .venv (only what changed)
	@$(PY) native/build.py

demo: ## the main job end to end: installs, builds, runs, prints what happened, cleans up
	@scripts/part.sh setup scripts/setup.sh demo
	@scripts/part.sh build $(PY) native/build.py
	@test -e scripts/demo.sh || { echo "make demo: scripts/demo.sh is missing from this checkout" >&2; exit 1; }
	@scripts/part.sh demo scripts/demo.sh

test: setup-test ## all tests, with bounded counts: lint, C unit tests, short fuzz runs, pytest
	@MAKE="$(MAKE)" JOBS=$(JOBS) PYTEST_WORKERS=$(PYTEST_WORKERS) scripts/test.sh

test-long: setup-test ## the same with full counts
	@MAKE="$(MAKE)" JOBS=$(JOBS) PYTEST_WORKERS=$(PYTEST_WORKERS) PALISADE_LONG=1 scripts/test.sh

lint: setup-build ## ruff, mypy --strict, import-linter, clang -Wall -Wextra
	@scripts/lint.sh

native-tests: $(NATIVE_TESTS) ## C unit tests under ASan and UBSan
	@JOBS=$(JOBS) RUN=$(RUN) TEST_SECONDS=$(or $(TEST_SECONDS),300) scripts/native-tests.sh $(NATIVE_TESTS)

native-tests-aarch64: ## the C unit tests on an emulated aarch64 (Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user)
	@command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null || { \
	echo "this needs: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" >&2; exit 3; }
	@$(MAKE) --no-print-directory native-tests $(AARCH64)

$(NATIVE)/%: native/tests/%.c Makefile
	@mkdir -p $(@D)
	@echo "  cc $<"
	@$(CC) $(TEST_CFLAGS) $(UNIT_CFLAGS) $(RIG_FLAGS) -MMD -MP -MF $@.d $< -o $@ $(RIG_LIBS) $(TEST_LIBS)

$(NATIVE)/%.o: native/%.c Makefile
	@mkdir -p $(@D)
	@echo "  cc $<"
	@$(CC) $(TEST_CFLAGS) $(UNIT_CFLAGS) -MMD -MP -MF $@.d -c $< -o $@

build/fuzz/%.o: native/%.c Makefile
	@mkdir -p $(@D)
	@echo "  $(FUZZ_CC) $<"
	@$(FUZZ_CC) $(TEST_CFLAGS) $(ENGINE_FUZZ_CFLAGS) -MMD -MP -MF $@.d -c $< -o $@

$(NATIVE)/engine.a: $(ENGINE:native/%.c=$(NATIVE)/%.o)
build/fuzz/engine.a: $(ENGINE:native/%.c=build/fuzz/%.o)
%/engine.a:
	@rm -f $@
	@ar -crs $@ $^

define rig_program =
$(1): $(2)/engine.a
$(1): RIG_FLAGS := -DRIG_LINKED
$(1): RIG_LIBS := $(2)/engine.a
endef
$(foreach test,$(filter native/tests/%,$(RIG)),$(eval $(call rig_program,$(test:native/tests/%.c=$(NATIVE)/%),$(NATIVE))))
$(foreach test,$(filter native/fuzz/%,$(RIG)),$(eval $(call rig_program,$(test:native/fuzz/%.c=build/fuzz/%),build/fuzz)))

# The packet core as one program under ASan and UBSan, without Python, for tests/sanitizers.
build/sanitize/replay: native/tests/replay_main.c build/fuzz/engine.a
	@mkdir -p $(@D)
	@echo "  $(FUZZ_CC) $<"
	@$(FUZZ_CC) $(TEST_CFLAGS) $(ENGINE_FUZZ_CFLAGS) -MMD -MP -MF $@.d $< -o $@ build/fuzz/engine.a $(TEST_LIBS)

fuzz: $(FUZZERS) ## a bounded run of each libFuzzer target (FUZZ_SECONDS=6 each), corpora made by native/fuzz/*_seeds.py
	@JOBS=$(JOBS) FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz.sh $(FUZZERS)

build/fuzz/%: native/fuzz/%.c Makefile
	@mkdir -p $(@D)
	@echo "  $(FUZZ_CC) $<"
	@$(FUZZ_CC) $(TEST_CFLAGS) $(FUZZ_CFLAGS) $(RIG_FLAGS) -MMD -MP -MF $@.d $< -o $@ $(RIG_LIBS) $(TEST_LIBS)

bench: setup-bench ## every benchmark, as JSON in benchmarks/results/, and a page about them in report/ there
	@$(PY) native/build.py
	@test -e benchmarks/run.py || { echo "make bench: benchmarks/run.py is missing from this checkout" >&2; exit 1; }
	@status=0; $(PY) benchmarks/run.py --out benchmarks/results || status=$$?; \
	$(PY) benchmarks/report.py benchmarks/results --out benchmarks/results/report && exit $$status

conformance: setup-test ## agreement with others' records: Linux conntrack, Zeek, ClassBench, NetworkPolicy tables
	@$(PY) native/build.py
	@PALISADE_LONG=1 $(PY) -m pytest -q -n $(PYTEST_WORKERS) tests/conformance

uninstall: ## undo the set-up: .venv, build/, and the Debian packages that only the set-up brought
	@scripts/uninstall.sh

clean: ## remove build/
	@rm -rf build

-include $(wildcard $(foreach in,native fuzz,$(patsubst %,build/$(in)/%.d,* */* */*/*)) build/sanitize/*.d)
