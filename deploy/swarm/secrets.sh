#!/bin/sh
# Creates Holdfast's passwords and tokens once, as secrets of the Swarm. Run it on a manager before the first deploy.
#   HOLDFAST_IMAGE=... deploy/swarm/secrets.sh
# A second run changes nothing. HOLDFAST_SECRETS is the prefix of the names (holdfast).
set -eu

image=${HOLDFAST_IMAGE:-holdfast}
prefix=${HOLDFAST_SECRETS:-holdfast}

known=$(docker secret ls --format '{{.Name}}')
there='' missing=''
for name in $(sed -n 's/.*external: true, name: "[^}]*}\(-[^"]*\)".*/\1/p' "$(dirname "$0")/stack.yaml"); do
    if echo "$known" | grep -qxF -e "$prefix$name"; then
        there="$there $prefix$name"
    else
        missing="$missing $prefix$name"
    fi
done
if [ -z "$missing" ]; then
    echo "all secrets are there already; nothing is made anew" >&2
    exit 0
elif [ -n "$there" ]; then
    # A password and its verifier are created together: a missing one cannot be created for an existing one.
    echo "an earlier run did not come to its end; missing:$missing" >&2
    echo "Remove what it made and run this again (or take another HOLDFAST_SECRETS): docker secret rm$there" >&2
    exit 1
fi
# In memory, so that no password is on a disk outside the Swarm.
umask 077
room=$(mktemp -d /dev/shm/holdfast-secrets.XXXXXX)
trap 'rm -rf "$room"' EXIT
docker run --rm --network none --read-only --tmpfs /tmp --cap-drop ALL \
    --env HOLDFAST_REQUIRE_TOKEN=true "$image" \
    sh -c 'python -m holdfast.installations.secrets /tmp/made >&2 && tar -C /tmp/made -c .' | tar -C "$room" --no-same-owner -x
for file in "$room"/postgres/* "$room"/migrate/* "$room"/api/* "$room"/worker/*; do
    name=${file#"$room/"}
    docker secret create "$prefix-$(dirname "$name")-$(basename "$name")" "$file" >/dev/null
    echo "$prefix-$(dirname "$name")-$(basename "$name")"
done
