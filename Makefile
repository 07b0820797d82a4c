# amt_keys: built, installed and tested by PGXS against the server that
# PG_CONFIG names. `make` knows how to build; everything that needs more than
# the compiler (servers, packages, browsers) is a script under test/ that the
# targets at the end merely call.

EXTENSION = amt_keys
# The control file is the one place where the version stands.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)
MODULE_big = amt_keys
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
DATA = sql/amt_keys--$(EXTVERSION).sql $(wildcard sql/amt_keys--*--*.sql)
PGFILEDESC = "amt_keys - API keys for agents and integrations"

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config

# The server's own headers are taken as a system's, so that -Wextra speaks of
# our code only. PG_FUNCTION_ARGS alone makes an unused parameter of most
# functions, and a comment is enough to fall through (19 wants more). Warnings become errors with COPT=-Werror, as in every test here;
# a user's newer compiler shall not refuse a release.
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server 2>/dev/null) \
	$(shell $(PKG_CONFIG) --cflags libcrypto 2>/dev/null)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wimplicit-fallthrough=3
SHLIB_LINK = $(or $(shell $(PKG_CONFIG) --libs libcrypto 2>/dev/null),-lcrypto)

# clang does not know each flag that a server built by gcc hands on.
ifneq (,$(findstring clang,$(CC)))
PG_CFLAGS += -Wno-unknown-warning-option -Wno-ignored-optimization-argument
endif

# pg_regress 15 looks for expected/ under the input directory only, hence the
# link test/expected.
REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

# Targets that must work before PostgreSQL is installed do: PGXS is then empty.
# (Debian has pgxs.mk with the client, the headers elsewhere.)
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifneq (,$(and $(PGXS),$(wildcard $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)/postgres.h)))
# JIT bitcode is made by the clang that the server was built with; without it
# the extension loses nothing but inlining.
ifeq (,$(shell command -v $(shell sed -n 's/^CLANG *= *//p' $(dir $(PGXS))../Makefile.global)))
override with_llvm = no
endif
include $(PGXS)
else
all install installcheck clean:
	@echo "no PostgreSQL to build against: $(PG_CONFIG) finds no pgxs.mk or no postgres.h (on Debian: test/deps base)" >&2; false
endif

$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*.h)

.PHONY: demo test test-long test-versions test-assertions test-mutants valgrind check-unit fuzz bench indent typedefs dist

# A story to read; KEEP=1 leaves its server running.
demo:
	test/deps base node
	examples/demo

test:
	test/run

# What takes longer than "make test" may: a hundred crashes, millions of calls.
test-long:
	AMT_ROUNDS=100 AMT_LONG=1 test/run t 031_memory_is_flat 040_crashes_keep_the_truth

# make test-versions VERSIONS="17 18", or all
test-versions:
	test/versions $(VERSIONS)

test-assertions:
	test/assertions

# make test-mutants MUTANTS="trigger-guard ...", or all
test-mutants:
	test/mutants $(MUTANTS)

valgrind:
	test/valgrind

check-unit:
	$(MAKE) -C test/unit check

# make fuzz TIME=60 (seconds for each target) or RUNS=10000000
fuzz:
	test/deps base fuzz
	test/fuzz/run

bench:
	test/deps base node bench
	test/bench/run

# As PostgreSQL's own code is indented. The indenter has to know the names of
# types; "make typedefs" reads them from the debug information of a build.
indent:
	test/deps indent
	for f in src/*.[ch]; do pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 \
		-di12 -nfc1 -i4 -l79 -lp -lpl -nip -npro -sac -tpg -ts4 -Usrc/typedefs.list $$f && \
		sed -i 's/^\([A-Za-z_][^ \t]*\)[ \t]*\*$$/\1 */' $$f || exit; done
	rm -f *.BAK src/*.BAK

typedefs: all
	objdump --dwarf=info $(MODULE_big).so | awk '/DW_TAG_typedef/ { t = 1 } t && /DW_AT_name/ { print $$NF; t = 0 }' | \
		LC_ALL=C sort -u >src/typedefs.all
	grep -ohE '[A-Za-z_][A-Za-z0-9_]*' src/*.[ch] | LC_ALL=C sort -u | \
		LC_ALL=C comm -12 - src/typedefs.all >src/typedefs.list
	rm src/typedefs.all

# The archive for PGXN, which counts versions in three numbers.
dist:
	grep -q '"version": "$(EXTVERSION).0"' META.json
	git archive --format=zip --prefix=$(EXTENSION)-$(EXTVERSION).0/ -o $(EXTENSION)-$(EXTVERSION).0.zip HEAD
