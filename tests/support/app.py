"""The API's HTTP application as in the api container: with the showcase's features."""

from functools import partial

from holdfast.api.app import create_app as _create_app
from services.composition import features

create_app = partial(_create_app, features=features())
