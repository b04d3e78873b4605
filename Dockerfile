# One image for the operator and the agents: `python -m transship.controller`, `python -m transship.agent`.
# CRIU has to be 4.2 or newer: older ones fail on sockets under kernels >= 6.16.
FROM docker.io/library/debian:forky-slim AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends gcc libc6-dev
COPY operator/transship/criu/hidden_memory/library/hidden_memory.c .
RUN cc -O2 -Wall -Werror -shared -fPIC -o transship-hidden-memory.so hidden_memory.c

FROM docker.io/library/debian:forky-slim

RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      ca-certificates conmon criu iproute2 nftables python3 python3-venv rsync runc skopeo socat umoci \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

# The dependencies alone, so that a change of the code leaves this layer as it is.
WORKDIR /usr/src/transship
COPY pyproject.toml .
RUN python3 -m venv /opt/transship \
 && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
      print(*p["build-system"]["requires"], *p["project"]["dependencies"], sep="\n")' > /tmp/requirements.txt \
 && /opt/transship/bin/pip install --no-cache-dir --requirement /tmp/requirements.txt \
 && rm /tmp/requirements.txt \
 && ln -s /opt/transship/bin/transship /opt/transship/bin/kubectl-transship /usr/local/bin/

COPY --from=build transship-hidden-memory.so /usr/local/lib/
COPY LICENSE README.md ./
COPY operator operator
RUN /opt/transship/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

WORKDIR /
ENV PATH=/opt/transship/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["transship", "--help"]
