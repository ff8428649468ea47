#!/bin/bash
# A Python base image from files of Debian packages that are installed here: stands in for python:3.11-slim where no
# registry of base images can be reached. Same packages, same bytes. `--packages` prints which.
set -euo pipefail
PACKAGES="base-files libc6 libc-bin dash coreutils python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3.11
python3-minimal zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libacl1 libattr1 libselinux1
libpcre2-8-0 libgmp10 ca-certificates libgcc-s1 libstdc++6 libreadline8 libtinfo6 libncursesw6 libcrypt1 libdb5.3 libnsl2
libtirpc3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libcom-err2 libkrb5support0 libkeyutils1 media-types tzdata netbase
login passwd libaudit1 libcap-ng0 libsemanage2 libsepol2 libpam0g openssl git libgomp1"
if [ "$1" = --packages ]; then echo $PACKAGES; exit; fi
OUT=$1; PIP=$2
for p in $PACKAGES; do
  dpkg-query -s "$p" >/dev/null 2>&1 || { echo "The base image needs Debian 12's package $p: .ci/install-docker installs it." >&2; exit 1; }
done
R=$(mktemp -d); LIST=$(mktemp); trap 'rm -rf "$R" "$LIST"' EXIT
mkdir -p "$R"/usr/{bin,sbin,lib,lib64} "$R"/{tmp,proc,sys,dev,etc,root,var,run,home}; chmod 1777 "$R/tmp"
for d in bin sbin lib lib64; do ln -s "usr/$d" "$R/$d"; done
for p in $PACKAGES; do dpkg-query -L "$p"; done \
  | grep -vE '^/usr/share/(doc|man|locale|lintian|bug)' | sort -u \
  | while read -r f; do if [ ! -d "$f" ] || [ -L "$f" ]; then echo "$f"; fi; done > "$LIST"
{ tar -C / -c --no-recursion --ignore-failed-read -T <(sed -E 's#^/(bin|sbin|lib|lib64)/#/usr/\1/#; s#^/##' "$LIST") 2>/dev/null || true; } \
  | tar -C "$R" -x --keep-directory-symlink
mkdir -p "$R/var/lib/dpkg"; dpkg-query -s $PACKAGES > "$R/var/lib/dpkg/status"
mkdir -p "$R/etc/ssl"; cp -a /etc/ssl/certs "$R/etc/ssl/" 2>/dev/null || true
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' > "$R/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' > "$R/etc/group"
cp /etc/ld.so.conf "$R/etc/"; mkdir -p "$R/etc/ld.so.conf.d"; cp /etc/ld.so.conf.d/* "$R/etc/ld.so.conf.d/"
/sbin/ldconfig -r "$R"
for name in python python3; do ln -sf python3.11 "$R/usr/bin/$name"; done
mkdir -p "$R/usr/local/lib/python3.11/dist-packages"; cp -a "$PIP" "$R/usr/local/lib/python3.11/dist-packages/pip"
find "$R" -name __pycache__ -type d -prune -exec rm -rf {} +
# Containers may write nothing, so what they import is compiled here, once; by hashes, as every file is of the year 1970.
chroot "$R" /usr/bin/python3.11 -B -c 'import sys, py_compile
import ssl, sqlite3, ctypes, json, http.server, urllib.request, lzma, bz2, asyncio, dataclasses, logging, importlib.metadata
for module in list(sys.modules.values()):
    if (file := getattr(module, "__file__", None) or "").endswith(".py"):
        py_compile.compile(file, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)'
tar -C "$R" --sort=name --mtime=@0 --numeric-owner -c . > "$OUT"
