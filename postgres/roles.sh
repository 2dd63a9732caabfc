#!/usr/bin/env bash
# Applies roles.sql and the secrets to the roles, through the local socket.
#   roles.sh            applies them; the image's entry point runs this at the first start
#   roles.sh --applied  exit status 0 if nothing has changed since
# The record makes new secrets and a new roles.sql take effect at the next start.
set -euo pipefail

here=/etc/holdfast
export HOLDFAST_ROLE_SECRETS=${HOLDFAST_ROLE_SECRETS:-/run/secrets/holdfast}
record=$PGDATA/holdfast-roles.sha256
wanted=$(cat "$here/roles.sql" "$HOLDFAST_ROLE_SECRETS"/*.scram | sha256sum)

if [ "${1:-}" = --applied ]; then
    [ "$(cat "$record" 2>/dev/null)" = "$wanted" ]
    exit
fi
PGHOST='' PGHOSTADDR='' psql --no-psqlrc --quiet --output=/dev/null --username=postgres --dbname=postgres \
    --file="$here/roles.sql"
echo "$wanted" >"$record"
sync -f "$record"
rm -f "$(dirname "$PGDATA")/first-start"
