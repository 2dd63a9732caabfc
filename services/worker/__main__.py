"""``python -m services.worker``: one worker."""

from holdfast.application import serve_worker
from services.composition import Worker

if __name__ == "__main__":
    serve_worker(Worker())
