"""The showcase's features that the API serves over HTTP. `composition` lists the folders of all features."""

from services.api.scope import routes as scope
from services.api.users import routes as users
from services.worker.buckets import routes as buckets
from services.worker.fibonacci import routes as fibonacci
from services.worker.pulse import routes as pulse

FEATURES = (scope.FEATURE, users.FEATURE, fibonacci.FEATURE, buckets.FEATURE, pulse.FEATURE)
