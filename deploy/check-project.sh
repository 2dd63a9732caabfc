#!/bin/sh
# Before `make up` and `make down`: does the Compose project of this name belong to another checkout?
#   deploy/check-project.sh up     exits with 1, after saying what to do, if it does; names a native stack with data,
#                                  and an engine that opens the published ports to the network
#   deploy/check-project.sh down   the same for containers of another checkout, which stay
#   deploy/check-project.sh note   records that this checkout made the project
# Every checkout's project is called "holdfast" unless COMPOSE_PROJECT_NAME (shell or .env) says otherwise.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)
project=$(deploy/compose.sh config 2>/dev/null | sed -n 's/^name: //p')
noted=.holdfast/compose-project

if [ "$1" = note ]; then
    mkdir -p .holdfast
    echo "$project" >"$noted"
    exit 0
fi

# A file that includes this compose.yaml may lie in a folder of the checkout.
label=com.docker.compose.project
others=$(docker ps --all --filter "label=$label=$project" --format "{{.Label \"$label.working_dir\"}}" |
    sort -u | while read -r folder; do
    case "$folder/" in "$here"/*) ;; *) echo "$folder" ;; esac
done | head -n 1)

if [ "$1" = down ]; then
    [ -z "$others" ] || echo "The Compose project \"$project\" runs from $others: it goes on. End it there." >&2
    [ -z "$others" ]
    exit
fi

own="For a project of its own: COMPOSE_PROJECT_NAME=holdfast2 HOLDFAST_API_PORT=8100 make up (or both in .env)."
if [ -n "$others" ]; then
    echo "The Compose project \"$project\" belongs to the checkout in $others. $own" >&2
    exit 1
fi
if [ "${HOLDFAST_USE_VOLUMES:-}" != true ] && [ "$(cat "$noted" 2>/dev/null)" != "$project" ] &&
    [ -z "$(docker ps --all --quiet --filter "label=$label=$project")" ] &&
    docker volume inspect "${project}_pgdata" >/dev/null 2>&1; then
    echo "The volumes of the Compose project \"$project\" exist, and this checkout did not make them. $own" \
        "To use them, and migrate their data to this version: HOLDFAST_USE_VOLUMES=true make up." >&2
    exit 1
fi
if [ -d .holdfast/postgres ] || [ -e .holdfast/postgres-place ]; then
    echo "A native stack with data is in $here/.holdfast (make native). Compose has a database of its own beside it."
fi

# Podman and others have no component of this name, and publish ports in another way.
version='{{range .Server.Components}}{{if eq .Name "Engine"}}{{.Version}}{{end}}{{end}}'
engine=$(docker version --format "$version" 2>/dev/null || true)
case "${engine%%.*}" in
'' | *[!0-9]*) ;;
*)
    if [ "${engine%%.*}" -lt 28 ]; then
        echo "Docker Engine $engine is older than 28: machines in the same network can reach ports that are published" \
            "on 127.0.0.1 (docs/operate/security.md)." >&2
    fi
    ;;
esac
