#!/usr/bin/env bash
# Entry point of the stand-in for the image postgres:17. It keeps the part of
# the official image's contract that is documented for users of that image.
set -Eeuo pipefail

note() { printf '%s [entrypoint] %s\n' "$(date '+%F %T')" "$*" >&2; }
die() { note "error: $*"; exit 1; }

# setting NAME [DEFAULT]: from NAME, or from the file that NAME_FILE names.
setting() {
    local name=$1 file_name=$1_FILE value=${2:-}
    if [ -n "${!name:-}" ] && [ -n "${!file_name:-}" ]; then die "$name and $file_name are both set"; fi
    if [ -n "${!name:-}" ]; then
        value=${!name}
    elif [ -n "${!file_name:-}" ]; then
        value=$(<"${!file_name}") || die "cannot read $file_name"
    fi
    export "$name=$value"
    unset "$file_name"
}

make_directories() {
    mkdir -p "$PGDATA" /var/run/postgresql || :
    chmod 0700 "$PGDATA" || :
    chmod 3777 /var/run/postgresql || :
    if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
        mkdir -p "$POSTGRES_INITDB_WALDIR"
        chmod 0700 "$POSTGRES_INITDB_WALDIR" || :
    fi
    if [ "$(id -u)" = 0 ]; then
        find "$PGDATA" ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"} /var/run/postgresql \
            ! -user postgres -exec chown postgres '{}' +
    fi
}

check_settings() {
    if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
        die "no superuser password: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE (or POSTGRES_HOST_AUTH_METHOD=trust, which lets anyone in)"
    fi
}

make_cluster() {
    # POSTGRES_INITDB_ARGS is a list of words, quoted as in a shell.
    local args=()
    eval "args=($POSTGRES_INITDB_ARGS)"
    if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then args+=(--waldir "$POSTGRES_INITDB_WALDIR"); fi
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") "${args[@]}" -D "$PGDATA"

    local method=$POSTGRES_HOST_AUTH_METHOD
    : "${method:=$(postgres -C password_encryption -D "$PGDATA" "$@")}"
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# The server that the scripts see listens on its Unix socket alone.
start_temporary() {
    set -- "$@" -c listen_addresses='' -p "${PGPORT:-5432}"
    PGUSER=${PGUSER:-$POSTGRES_USER} pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@")" -w -t 120 start
}

stop_temporary() { PGUSER=${PGUSER:-postgres} pg_ctl -D "$PGDATA" -m fast -w stop; }

run_sql() {
    PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --no-password \
        --dbname "$POSTGRES_DB" "$@"
}

# Scripts of the official image's users call this name.
docker_process_sql() { run_sql "$@"; }

make_database() {
    local found
    found=$(run_sql --dbname postgres --set db="$POSTGRES_DB" --tuples-only \
        <<<"SELECT 1 FROM pg_database WHERE datname = :'db';")
    if [ -z "$found" ]; then
        run_sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
    fi
}

run_scripts() {
    local script
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
            *.sh)
                if [ -x "$script" ]; then
                    note "running $script"
                    "$script"
                else
                    note "sourcing $script"
                    # shellcheck disable=SC1090
                    . "$script"
                fi
                ;;
            *.sql) note "running $script"; run_sql -f "$script" ;;
            *.sql.gz) note "running $script"; gunzip -c "$script" | run_sql ;;
            *.sql.xz) note "running $script"; xz -dc "$script" | run_sql ;;
            *.sql.zst) note "running $script"; zstd -dc "$script" | run_sql ;;
            */\*) ;;
            *) note "ignoring $script" ;;
        esac
    done
}

asks_for_help() {
    local arg
    for arg in "$@"; do
        case $arg in -'?' | --help | --describe-config | -V | --version) return 0 ;; esac
    done
    return 1
}

if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi

if [ "${1:-}" = postgres ] && ! asks_for_help "$@"; then
    export PGDATA=${PGDATA:-/var/lib/postgresql/data}
    make_directories
    if [ "$(id -u)" = 0 ]; then exec gosu postgres "${BASH_SOURCE[0]}" "$@"; fi

    setting POSTGRES_PASSWORD
    setting POSTGRES_USER postgres
    setting POSTGRES_DB "$POSTGRES_USER"
    setting POSTGRES_INITDB_ARGS
    export POSTGRES_HOST_AUTH_METHOD=${POSTGRES_HOST_AUTH_METHOD:-}

    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        check_settings
        # Not readable: fail before the cluster is made, not after.
        ls /docker-entrypoint-initdb.d/ >/dev/null
        make_cluster "${@:2}"
        export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
        start_temporary "${@:2}"
        make_database
        run_scripts
        stop_temporary
        unset PGPASSWORD
        note "database is ready"
    else
        note "database is there already"
    fi
fi

exec "$@"
