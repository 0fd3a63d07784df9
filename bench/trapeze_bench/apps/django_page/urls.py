"""One page."""

from __future__ import annotations

from django.urls import path

from trapeze_bench.apps.django_page.views import catalogue

urlpatterns = [path("", catalogue, name="catalogue")]
