"""``python -m services.worker``: one worker."""

from services.runtime.serve import serve
from services.worker.app import create_app
from services.workflows.composition import Worker

if __name__ == "__main__":
    serve(Worker(), create_app)
