#!/bin/sh
# `docker compose` with these arguments for this checkout, wherever it lies. Compose reads its own schema by an address
# relative to the working directory, and fails in a folder whose path has a percent sign.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)
case "$here" in
*%*) cd / && exec docker compose --project-directory "$here" "$@" ;;
*) exec docker compose "$@" ;;
esac
