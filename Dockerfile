# BASE_IMAGE can be a mirror's copy: docker compose build --build-arg BASE_IMAGE=...
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS builder
WORKDIR /app
COPY requirements.lock .
# pip stays outside the environment. Files that only compilers and test runners read are removed; the .pyc files
# stay, because the root file system is read-only at run time and importing without them doubles the start.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/holdfast \
    && python -m pip --python /opt/holdfast/bin/python install --disable-pip-version-check --no-input \
        --root-user-action=ignore --require-hashes --only-binary=:all: -r requirements.lock \
    && find /opt/holdfast/lib -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && find /opt/holdfast/lib -type f \( -name '*.c' -o -name '*.cpp' -o -name '*.h' -o -name '*.hpp' \
        -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete
COPY dbos-config.yaml .
COPY holdfast holdfast
COPY services services
# A checkout made under a strict umask must be readable for the image's user too. DBOS's own command loads
# a pickle if a row is marked so; in this image it refuses pickles, as everything else does.
RUN chmod -R a+rX . \
    && python -m compileall -q holdfast services \
    && echo /app > "$(echo /opt/holdfast/lib/python3*/site-packages)/holdfast.pth" \
    && printf '#!/opt/holdfast/bin/python\nfrom holdfast.cli.main import main\nmain()\n' > /opt/holdfast/bin/holdfast \
    && printf '#!/opt/holdfast/bin/python\nfrom holdfast.cli.dbos_command import main\nmain()\n' > /opt/holdfast/bin/dbos \
    && chmod 755 /opt/holdfast/bin/holdfast /opt/holdfast/bin/dbos \
    && rm requirements.lock

# The wheel that images of users' applications install from this image: docs/start/protect-your-application.md.
FROM ${BASE_IMAGE} AS wheel
WORKDIR /wheel
COPY requirements-dev.lock .
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -n '/^setuptools==/,/[^\\]$/p' requirements-dev.lock > build.lock \
    && python -m pip install --disable-pip-version-check --root-user-action=ignore --require-hashes -r build.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY holdfast holdfast
RUN python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheels .

FROM ${BASE_IMAGE}
# A named volume gets the owner of the directory that it is first mounted on.
RUN groupadd --gid 10001 holdfast \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin holdfast \
    && install -d -o 10001 -g 10001 -m 0700 /run/holdfast /secrets/migrate /secrets/api /secrets/worker \
        /secrets/s3 /secrets/seed /secrets/apps /secrets/objects \
    && install -d -o 10001 -g 10001 -m 0755 /secrets/postgres /secrets/grafana
# The base image lacks the compiled files of its own modules, and the file system is read-only at run time.
RUN stdlib=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))') \
    && python -m compileall -q -x '/(test|idlelib|lib2to3|turtledemo|ensurepip|site-packages|dist-packages)/' "$stdlib"
COPY --from=builder /opt/holdfast /opt/holdfast
COPY --from=builder /app /app
COPY --from=wheel /wheels /wheels
WORKDIR /app
ENV PATH=/opt/holdfast/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOLDFAST_BIND_HOST=0.0.0.0 \
    HOLDFAST_DATABASE_HOST=postgres \
    HOLDFAST_DATABASE_PORT=5432 \
    HOLDFAST_DATABASE_NAME=holdfast \
    HOLDFAST_DATABASE_USER=holdfast_api \
    HOLDFAST_DATABASE_PASSFILE=/run/holdfast/pgpass
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s --start-interval=1s --interval=5s --timeout=3s --retries=3 \
    CMD ["python", "-IS", "/app/holdfast/cli/healthcheck.py", "8000"]
CMD ["python", "-m", "services.api"]
