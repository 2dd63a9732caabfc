#!/usr/bin/env bash
# Applies roles.sql and the secrets to the roles, through the local socket, and application.sql for each user's
# application in HOLDFAST_APPLICATIONS.
#   roles.sh            applies them; the image's entry point runs this at the first start
#   roles.sh --applied  exit status 0 if nothing has changed since
# The record makes new secrets and a new roles.sql take effect at the next start.
set -euo pipefail

here=/etc/holdfast
export HOLDFAST_ROLE_SECRETS=${HOLDFAST_ROLE_SECRETS:-/run/secrets/holdfast}
record=$PGDATA/holdfast-roles.sha256
applications=${HOLDFAST_APPLICATIONS:-}
wanted=$(cat "$here/roles.sql" ${applications:+"$here/application.sql"} "$HOLDFAST_ROLE_SECRETS"/*.scram | sha256sum)

if [ "${1:-}" = --applied ]; then
    [ "$(cat "$record" 2>/dev/null)" = "$wanted" ]
    exit
fi
run() {
    PGHOST='' PGHOSTADDR='' psql --no-psqlrc --quiet --output=/dev/null --username=postgres "$@"
}
run --dbname=postgres --file="$here/roles.sql"
# `secrets` has checked the names and made the verifiers.
for name in ${applications//,/ }; do
    run --dbname=holdfast --set=name="$name" --file="$here/application.sql" \
        --set=verifier="$(cat "$HOLDFAST_ROLE_SECRETS/holdfast_app_$name.scram")"
done
echo "$wanted" >"$record"
sync -f "$record"
rm -f "$(dirname "$PGDATA")/first-start"
