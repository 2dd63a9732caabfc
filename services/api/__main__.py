"""``python -m services.api``: the API."""

from services.api.app import create_app
from services.runtime.serve import serve
from services.workflows.composition import Api

if __name__ == "__main__":
    serve(Api(), create_app)
