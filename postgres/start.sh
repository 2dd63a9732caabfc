#!/usr/bin/env bash
# Runs before the image's own entry point: it converts logs to JSON, repeats an interrupted first start, and
# updates outdated roles.
set -euo pipefail

# One JSON object per line. sed reads from a pipe as a separate process (a child of init: PostgreSQL would take
# the end of a child for a crash) and lives until the last writer is gone.
pipe=/tmp/log.pipe
rm -f "$pipe"
mkfifo -m 600 "$pipe"
(LC_ALL=C sed -uE -e '
    s/[\x01-\x08\x0b-\x1f]//g; s/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g; t structured
    :structured
    s/^(waiting for server to [a-z ]*\.+)?([0-9-]{10}) ([0-9:.]+) UTC \[([0-9]+)\] ([A-Z0-9]+): +(.*)$/{"timestamp": "\2T\3Z", "level": "\5", "logger": "postgres", "pid": \4, "message": "\6"}/; t
    s/.*/{"level": "INFO", "logger": "postgres", "message": "&"}/' <"$pipe" &)
exec >"$pipe" 2>&1
rm -f "$pipe"

# The mark exists beside the data during the first start; roles.sh, its last step, removes it. Until then the
# server has listened only on its socket, so the data is incomplete and contains no work.
first_start=$(dirname "$PGDATA")/first-start
if [ -e "$first_start" ]; then
    echo "an earlier first start was interrupted: beginning again"
    rm -rf "$PGDATA"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    touch "$first_start"
elif ! bash /etc/holdfast/roles.sh --applied; then
    echo "roles are not what roles.sql and the secrets say: bringing them up to date before the start"
    pg_ctl -D "$PGDATA" -s -w -t 300 -o "-c config_file=/etc/holdfast/postgresql.conf \
        -c hba_file=/etc/holdfast/pg_hba.conf -c listen_addresses=''" start
    bash /etc/holdfast/roles.sh
    pg_ctl -D "$PGDATA" -s -w -m fast stop
fi

exec docker-entrypoint.sh "$@"
