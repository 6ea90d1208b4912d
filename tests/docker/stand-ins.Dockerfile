# What stands in for the images that docker/ names: see stand-ins, which prepares the context.

FROM outboxd-tests/debian:bookworm AS debian
ENV LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive

FROM debian AS postgres-15
RUN groupadd -r postgres --gid=999 && useradd -r -g postgres --uid=999 postgres \
    && apt-get update -q \
    && apt-get install -q -y --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

FROM debian AS postgres-17
RUN groupadd -r postgres --gid=999 && useradd -r -g postgres --uid=999 postgres \
    && apt-get update -q \
    && apt-get install -q -y --no-install-recommends postgresql-client-15 \
    && rm -rf /var/lib/apt/lists/*
COPY postgres /usr/local/postgres
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/local/postgres/bin:$PATH PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

FROM debian AS kafka
RUN useradd --uid=1000 appuser \
    && apt-get update -q \
    && apt-get install -q -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /opt/kafka/bin /opt/kafka/config /var/lib/kafka/data \
    && chown appuser /opt/kafka/config /var/lib/kafka/data
COPY kafka /opt/kafka/libs
COPY kafka-console-consumer.sh /opt/kafka/bin/
COPY kafka-entrypoint /usr/local/bin/
USER appuser
VOLUME /var/lib/kafka/data
EXPOSE 9092
ENTRYPOINT ["kafka-entrypoint"]

FROM debian AS prometheus
COPY prometheus/bin/prometheus /bin/prometheus
# Where Debian's Prometheus keeps its data.
RUN mkdir -p /var/lib/prometheus/metrics2 && chown -R nobody /var/lib/prometheus
USER nobody
EXPOSE 9090
ENTRYPOINT ["/bin/prometheus"]

FROM debian AS grafana
RUN apt-get update -q \
    && apt-get install -q -y --no-install-recommends python3-minimal python3-yaml \
    && rm -rf /var/lib/apt/lists/*
COPY grafana.py /usr/local/bin/
USER nobody
EXPOSE 3000
ENTRYPOINT ["python3", "/usr/local/bin/grafana.py"]

# The compiler leaves the machine's cores to other programs.
FROM debian AS rust
RUN apt-get update -q \
    && apt-get install -q -y --no-install-recommends gcc g++ libc6-dev make perl \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /usr/local/cargo/bin \
    && printf '#!/bin/sh\nexec nice -n 10 /usr/local/toolchain/bin/cargo "$@"\n' \
        >/usr/local/cargo/bin/cargo \
    && chmod +x /usr/local/cargo/bin/cargo
ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/toolchain/bin:$PATH
COPY toolchain /usr/local/toolchain
COPY cargo /usr/local/cargo

FROM debian AS base-files
RUN apt-get update -q \
    && apt-get install -q -y --no-install-recommends ca-certificates libgcc-s1 libstdc++6 tzdata
RUN mkdir -p /base/tmp /base/home/nonroot /base/etc/ssl/certs \
    && dpkg -L libc6 libgcc-s1 libstdc++6 gcc-12-base tzdata \
        | grep -E '^/(usr/)?lib(64)?/|^/etc/|^/usr/share/zoneinfo/' \
        | tar -c --no-recursion -T - | tar -x -C /base \
    && cp /etc/ssl/certs/ca-certificates.crt /base/etc/ssl/certs/ \
    && echo 'root:x:0:0:root:/root:/sbin/nologin' >/base/etc/passwd \
    && echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >>/base/etc/passwd \
    && echo 'nonroot:x:65532:' >/base/etc/group \
    && chmod 1777 /base/tmp && chown 65532:65532 /base/home/nonroot

FROM scratch AS base
COPY --from=base-files /base /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532
WORKDIR /home/nonroot
