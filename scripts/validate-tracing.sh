#!/bin/sh
# Checks that traces of this stack are whole. Calls `dev-tools traces validate`.
set -eu
if ! dev-tools traces --help >/dev/null 2>&1; then
  echo "This version of dev-tools has no \`traces validate\`." >&2
  exit 2
fi
exec dev-tools traces validate "$@"
