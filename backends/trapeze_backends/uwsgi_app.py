"""What uWSGI imports as its app when it runs inside a worker, where the app has been imported long before."""

from __future__ import annotations

import uwsgi

from trapeze_backends import uwsgi_inside

__all__ = ["app"]

uwsgi.post_fork_hook = uwsgi_inside.watching[0].begin
app = uwsgi_inside.watching[0].app
