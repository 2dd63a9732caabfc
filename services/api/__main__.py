"""``python -m services.api``: the API."""

from functools import partial

from holdfast.api.app import create_app
from holdfast.process.serve import serve
from services.composition import Api, features

if __name__ == "__main__":
    serve(Api(), partial(create_app, features=features()))
