#!/bin/sh
# Makes Holdfast's passwords and tokens, once, as secrets of the Swarm: on a manager, before the first deploy.
#   HOLDFAST_IMAGE=... deploy/swarm/secrets.sh
# Run again it makes nothing anew. HOLDFAST_SECRETS is the prefix of the names (holdfast).
set -eu

image=${HOLDFAST_IMAGE:-holdfast}
prefix=${HOLDFAST_SECRETS:-holdfast}

known=$(docker secret ls --format '{{.Name}}' | grep -c "^$prefix-" || true)
if [ "$known" -gt 0 ]; then
    echo "$known secrets are there already; nothing is made anew" >&2
    exit 0
fi
# In memory: no password lies on a disk outside the Swarm.
umask 077
room=$(mktemp -d /dev/shm/holdfast-secrets.XXXXXX)
trap 'rm -rf "$room"' EXIT
docker run --rm --network none --read-only --tmpfs /tmp --cap-drop ALL \
    --env HOLDFAST_REQUIRE_TOKEN=true "$image" \
    sh -c 'python -m services.cli.secrets /tmp/made >&2 && tar -C /tmp/made -c .' | tar -C "$room" --no-same-owner -x
for file in "$room"/postgres/* "$room"/migrate/* "$room"/api/* "$room"/worker/*; do
    name=${file#"$room/"}
    docker secret create "$prefix-$(dirname "$name")-$(basename "$name")" "$file" >/dev/null
    echo "$prefix-$(dirname "$name")-$(basename "$name")"
done
