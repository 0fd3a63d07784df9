"""The site as an app: `trapeze serve trapeze_bench.apps.django_page.app:wsgi`."""

from __future__ import annotations

import os

# Whatever else the environment says: this module serves this site.
os.environ["DJANGO_SETTINGS_MODULE"] = "trapeze_bench.apps.django_page.settings"

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

__all__ = ["asgi", "wsgi"]

wsgi = get_wsgi_application()
asgi = get_asgi_application()
