# An extension image for CloudNativePG, PostgreSQL 18 and later: nothing but the
# extension's own files, which the operator mounts beside an unchanged PostgreSQL.
# From the top of the tree:
#
#	docker build -f docker/cloudnativepg.Dockerfile -t amt-keys:1.1-18-trixie .
#
# In the Cluster resource:
#
#	spec:
#	  postgresql:
#	    parameters:
#	      session_preload_libraries: amt_keys
#	    extensions:
#	      - name: amt-keys
#	        image:
#	          reference: <registry>/amt-keys:1.1-18-trixie
#
# The operator adds the image to extension_control_path and dynamic_library_path.
# BASE must be the image that the cluster runs, or one of the same PostgreSQL major
# version, Debian release and architecture.
ARG PG_MAJOR=18
ARG DEBIAN=trixie
ARG BASE=ghcr.io/cloudnative-pg/postgresql:${PG_MAJOR}-minimal-${DEBIAN}

FROM ${BASE} AS build
ARG PG_MAJOR
USER 0
RUN apt-get update \
	&& apt-get install -y --no-install-recommends \
		gcc make libc6-dev libssl-dev pkg-config postgresql-server-dev-${PG_MAJOR}
COPY . /src
RUN make -C /src PG_CONFIG=/usr/lib/postgresql/${PG_MAJOR}/bin/pg_config clean
RUN make -C /src PG_CONFIG=/usr/lib/postgresql/${PG_MAJOR}/bin/pg_config install DESTDIR=/built

FROM scratch
ARG PG_MAJOR
COPY --from=build /built/usr/lib/postgresql/${PG_MAJOR}/lib/amt_keys.so /lib/
COPY --from=build /built/usr/share/postgresql/${PG_MAJOR}/extension/ /share/extension/
COPY --from=build /src/LICENSE /licenses/amt_keys/
USER 65532:65532
