"""``python -m services.api``: the API."""

from holdfast.web import serve_api
from services.composition import Api, features

if __name__ == "__main__":
    serve_api(Api(), features())
