"""``python -m services.worker``: one worker."""

from holdfast.process.serve import serve
from holdfast.process.worker_app import create_app
from services.composition import Worker

if __name__ == "__main__":
    serve(Worker(), create_app)
