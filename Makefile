# amt_keys: built, installed and tested by PGXS against the server that
# PG_CONFIG names. `make` knows how to build; everything that needs more than
# the compiler (servers, packages, browsers) is a script under test/ that the
# targets at the end merely call.

EXTENSION = amt_keys
# The control file is the one place where the version stands.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)
MODULE_big = amt_keys
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
DATA = $(wildcard sql/amt_keys--*.sql)
DOCS = README.md CHANGELOG.md SECURITY.md $(wildcard doc/*.md)
PGFILEDESC = "amt_keys - API keys for agents and integrations"
EXTRA_CLEAN = .pg_config test/expected

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config

# The server's headers count as system headers, so that -Wextra reports our code
# only. PG_FUNCTION_ARGS alone makes an unused parameter of most functions, and a
# comment is enough to fall through (19 wants more). Warnings become errors with
# COPT=-Werror, as in every test here; a newer compiler must not break a release.
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server 2>/dev/null) \
	$(shell $(PKG_CONFIG) --cflags libcrypto 2>/dev/null)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wimplicit-fallthrough=3
SHLIB_LINK = $(or $(shell $(PKG_CONFIG) --libs libcrypto 2>/dev/null),-lcrypto)

# clang does not know each flag that a server built by gcc hands on.
compiler := $(if $(filter default undefined,$(origin CC)),$(shell $(PG_CONFIG) --cc 2>/dev/null),$(CC))
ifneq (,$(findstring clang,$(compiler) $(if $(compiler),$(shell $(compiler) --version 2>/dev/null))))
PG_CFLAGS += -Wno-unknown-warning-option -Wno-ignored-optimization-argument
endif

# The test database is made anew from template0 in UTF-8 and the locale C, which
# every cluster can hold whatever its own encoding and locale are. A later option
# wins: make installcheck EXTRA_REGRESS_OPTS=--encoding=SQL_ASCII
REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --encoding=UTF8 --no-locale $(EXTRA_REGRESS_OPTS)
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --encoding=UTF8 --no-locale $(EXTRA_REGRESS_OPTS)

# TAP tests start servers of their own, which root cannot do.
NO_TAP = $(if $(filter 0,$(shell id -u)),root cannot start a server,$(if $(filter ok,$(shell \
	perl -MIPC::Run -e 'print "ok"' 2>/dev/null)),,the Perl module IPC::Run is missing))
ifneq (,$(filter installcheck,$(MAKECMDGOALS)))
TAP_TESTS := $(if $(strip $(NO_TAP)),,1)
endif
PROVE_TESTS = test/t/*.pl

# Targets that must work before PostgreSQL is installed do: PGXS is then empty.
# (Debian has pgxs.mk with the client, the headers elsewhere.)
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifneq (,$(and $(PGXS),$(wildcard $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)/postgres.h)))
# No bitcode for JIT. Our functions gain nothing by being inlined, and one that
# calls a function of another file ends the session: the library hides those, and
# a query that is inlined but not optimized needs their addresses.
override with_llvm = no
include $(PGXS)
else
all install installcheck clean:
	@echo "no PostgreSQL to build against: $(PG_CONFIG) finds no pgxs.mk or no postgres.h (on Debian: test/deps base)" >&2; false
endif

# .pg_config is what the objects were built for: all that the server says of its
# version, directories and options. When PG_CONFIG is another one, or the server
# has been upgraded, they are built again.
.pg_config: always
	@$(PG_CONFIG) | cmp -s - $@ || $(PG_CONFIG) >$@

# The names of our documents are not ours alone: they get a directory of their own.
docmoduledir := $(EXTENSION)

# PGXS installs documents without their directories, and looks for them with these.
uninstall: uninstall-docs
uninstall-docs:
	rm -f $(addprefix '$(DESTDIR)$(docdir)/$(docmoduledir)'/, $(notdir $(DOCS)))
	rmdir '$(DESTDIR)$(docdir)/$(docmoduledir)' 2>/dev/null || :

$(OBJS): $(wildcard src/*.h) .pg_config

# pg_regress 15 looks for expected/ in the input directory only. The archives hold
# no symbolic link, so it is made here.
test/expected:
	ln -s ../expected $@

# The tests' roles are gone afterwards, and those that an interrupted run left are
# gone before.
tidied = $(foreach word,$(1),$(if $(filter %/pg_regress %/pg_isolation_regress,$(word)),sh test/tidy) $(word))
pg_regress_installcheck := $(call tidied,$(pg_regress_installcheck))
pg_isolation_regress_installcheck := $(call tidied,$(pg_isolation_regress_installcheck))
installcheck: test/expected say-no-tap

say-no-tap:
	@$(if $(and $(PROVE_TESTS),$(if $(TAP_TESTS),,$(strip $(NO_TAP)))),echo "TAP tests are left out: $(strip $(NO_TAP))",:)

.PHONY: always say-no-tap uninstall-docs demo test test-long test-versions test-assertions test-mutants test-packages \
	sanitizers valgrind check-unit check-model fuzz bench indent typedefs dist

# A story to read; KEEP=1 leaves its server running.
demo:
	bash test/deps base node
	bash examples/demo

# make test SUITES="unit regress", or all
test:
	bash test/run $(SUITES)

# What takes longer than "make test" may: a hundred crashes, millions of calls.
test-long:
	AMT_ROUNDS=100 AMT_LONG=1 bash test/run t 031_memory_is_flat 040_crashes_keep_the_truth

# make test-versions VERSIONS="17 18", or all
test-versions:
	bash test/versions $(VERSIONS)

test-assertions:
	bash test/assertions

# make test-mutants MUTANTS="trigger-guard ...", or all
test-mutants:
	bash test/mutants $(MUTANTS)

# The C code with gcc's sanitizers for addresses and undefined behaviour.
sanitizers:
	bash test/sanitizers

valgrind:
	bash test/valgrind

# make test-packages PACKAGES="dist debian", or all
test-packages:
	bash test/packages $(PACKAGES)

check-unit:
	$(MAKE) -C test/unit check

check-model:
	bash test/deps model
	$(MAKE) -C test/model check

# make fuzz TIME=60 (seconds for each target) or RUNS=10000000
fuzz:
	bash test/deps base fuzz
	test/fuzz/run

bench:
	bash test/deps base node bench
	test/bench/run

# As PostgreSQL's own code is indented. The indenter has to know the names of
# types; "make typedefs" reads them from the debug information of a build.
indent:
	bash test/deps indent
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

# The archive for PGXN, which counts versions in three numbers, of what is
# committed. Python's zipfile, which PGXN's client uses, knows no symbolic links.
dist:
	@grep -q '"version": "$(EXTVERSION).0"' META.json || { echo "META.json has another version than $(EXTVERSION).0" >&2; false; }
	@! git ls-tree -r HEAD | grep '^120000' || { echo "a symbolic link cannot be in the archive" >&2; false; }
	@git diff --quiet HEAD || echo "what is not committed is not in the archive" >&2
	git archive --format=zip --prefix=$(EXTENSION)-$(EXTVERSION).0/ -o $(EXTENSION)-$(EXTVERSION).0.zip HEAD
